"""What graphc claims about speed, measured. `python -m benchmarks [name ...]` prints one table.

Figures are wall time on this machine, as they come; run them on a quiet one. Each benchmark is a function that returns
rows; `__main__` knows them by name.
"""
