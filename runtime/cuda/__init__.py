"""The GPU target: kernels as CUDA C, compiled when a program runs, and the libraries that run beside them.

`target.py` is the door. A kernel of a plan becomes a text and *commands* (`launches.py`), most of them launches of it.
`layout.py` decides how threads walk pointwise ops and reductions, `walk.py` prints that, and `lanes.py` offers it to
the modules of the cores that kernels may have. `nvrtc.py` compiles; `driver.py` says what is asked of a device.
"""
