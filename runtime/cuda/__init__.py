"""The GPU target: kernels as CUDA C, compiled when a program runs, and the libraries that run beside them."""
