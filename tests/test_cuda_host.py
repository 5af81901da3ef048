"""The stand-in for a GPU does what one does, and notices what would go wrong on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_host import needs_compiler, run_on_host

from graphc.kernel import Kernel
from graphc.runtime.cuda.launches import CudaCode, CudaKernel, Frame
from graphc.runtime.strided import Strided

pytestmark = needs_compiler

Array = np.ndarray[Any, Any]


def launched(threads: int, *lines: str, blocks: int = 1, read: str = "float32", write: str = "float32") -> CudaKernel:
    """A kernel of these lines, in which `x` and `y` are what it reads and writes."""
    code = CudaCode(Kernel(None, (), ()))
    frame = code.launch(blocks, threads)
    _name(frame, Strided("read", 0, 0, (1,), read), "x")
    _name(frame, Strided("write", 0, 0, (1,), write), "y")
    for line in lines:
        frame.line(line)
    return code.finished()


def _name(frame: Frame, array: Strided, name: str) -> None:
    frame.line(f"auto {name} = {frame.base(array)};")


def run(kernel: CudaKernel, x: Array, count: int, dtype: str = "float32") -> Array:
    return run_on_host(kernel, [x], [((count,), dtype)])[0]


def test_threads_meet_at_barriers():
    kernel = launched(
        96,
        "__shared__ float row[96];",
        "row[threadIdx.x] = x[threadIdx.x];",
        "__syncthreads();",
        "y[blockIdx.x * 96 + threadIdx.x] = row[95 - threadIdx.x] + blockIdx.x;",
        blocks=3,
    )
    x = np.arange(96, dtype=np.float32)
    assert np.array_equal(run(kernel, x, 288), np.concatenate([x[::-1], x[::-1] + 1, x[::-1] + 2]))


@pytest.mark.parametrize(
    ("shuffle", "source"),
    [
        ("__shfl_sync(0xffffffffu, v, 3)", lambda lane: 3),
        ("__shfl_sync(0xffffffffu, v, threadIdx.x + 1, 8)", lambda lane: lane // 8 * 8 + (lane + 1) % 8),
        ("__shfl_xor_sync(0xffffffffu, v, 5)", lambda lane: lane ^ 5),
        ("__shfl_down_sync(0xffffffffu, v, 2, 16)", lambda lane: lane + 2 if lane % 16 < 14 else lane),
        ("__shfl_up_sync(0xffffffffu, v, 2, 16)", lambda lane: lane - 2 if lane % 16 >= 2 else lane),
    ],
)
def test_lanes_see_what_others_of_their_warp_have(shuffle, source):
    kernel = launched(64, "float v = x[threadIdx.x];", f"y[threadIdx.x] = {shuffle};")
    x = np.arange(64, dtype=np.float32)
    assert np.array_equal(run(kernel, x, 64), [t // 32 * 32 + source(t % 32) for t in range(64)])


def test_warps_vote():
    kernel = launched(64, "y[threadIdx.x] = __ballot_sync(0xffffffffu, x[threadIdx.x] > 0);", write="int32")
    x = np.zeros(64, np.float32)
    x[[1, 4, 32]] = 1
    assert np.array_equal(run(kernel, x, 64, "int32"), [0b10010] * 32 + [1] * 32)


def test_threads_that_wait_for_others_for_ever_are_an_error():
    kernel = launched(64, "if (threadIdx.x < 5) x = (const float*)(size_t)__shfl_sync(~0u, 1, 0);", "y[0] = 1;")
    with pytest.raises(RuntimeError, match="kernel0 wait for others"):
        run(kernel, np.zeros(64, np.float32), 1)
    again = launched(64, "__syncthreads();", "y[threadIdx.x] = x[threadIdx.x];")
    assert np.array_equal(run(again, np.ones(64, np.float32), 64), np.ones(64))


def test_what_is_written_beyond_a_buffer_is_noticed():
    kernel = launched(8, "y[threadIdx.x] = 1;")
    assert np.array_equal(run(kernel, np.zeros(1, np.float32), 8), np.ones(8))
    with pytest.raises(AssertionError, match="beyond a buffer"):
        run(kernel, np.zeros(1, np.float32), 7)


def test_memory_that_nobody_writes_is_nan():
    kernel = launched(4, "y[threadIdx.x] = x[threadIdx.x];")
    assert np.isnan(run(kernel, np.zeros(4, np.float32), 6)[4:]).all()


def test_every_float16_is_widened_and_narrowed_as_numpy_has_it():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    at = "blockIdx.x * 256 + threadIdx.x"
    wide = run(launched(256, f"y[{at}] = widened(x[{at}]);", blocks=256, read="float16"), every, 1 << 16)
    assert np.array_equal(wide, every.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(wide), np.signbit(every))
    between = np.concatenate([wide, wide * np.float32(1.0004883), np.nextafter(wide, np.float32(1e9))])
    line = f"y[{at}] = narrowed<f16>(x[{at}]);"
    narrow = run(launched(256, line, blocks=768, write="float16"), between, between.size, "float16")
    with np.errstate(all="ignore"):
        assert np.array_equal(narrow, between.astype(np.float16), equal_nan=True)
