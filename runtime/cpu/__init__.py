"""The native CPU target: plans as LLVM machine code, generated, cached and run without a compiler on the machine.

`target.py` is the door. A kernel of a plan becomes *phases* (`phases.py`): functions of one signature that share the
work among threads. `lanes.py` emits loop nests around pointwise ops and reductions, the other modules the cores that
kernels may have; `driver.py` has the loop that runs a plan and the threads.
"""
