"""Runs the CUDA C of kernels on a CPU: the printed source, compiled by g++ with a shim in the place of a GPU.

The threads of a block are fibers that take turns at barriers, so shared memory, shuffles and votes mean what they mean
on a GPU; memory that nobody has written is nan.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from graphc.dims import Dim, evaluate
from graphc.op import Array
from graphc.runtime.cuda.launches import Command, Convolution, CudaKernel, Fused, Gemm, Key, Pointer, Size
from graphc.runtime.cuda.prelude import prelude
from graphc.runtime.strided import ALIGN, Strided
from graphc.types import np_dtype

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off")
HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(')
WAITING = re.compile(r"\bjoined(_lanes|_columns)?<|__sync|__shfl|_sync\(")  # what needs a block's threads to take turns
FOLDER = HERE.parents[1] / ".test-cache" / "cuda-host"
KEPT = 1000  # libraries; those that were not used for longest go first
POISON = 0xFF

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no g++ to compile CUDA C for the CPU")


class Module:
    """The launches of some kernels, compiled for the CPU.

    Args:
        wide: whether `Index` has 64 bits.
        backwards: whether blocks and threads run from the last one on, to show that their order doesn't matter.
    """

    def __init__(self, kernels: Sequence[CudaKernel], wide: bool = False, backwards: bool = False) -> None:
        self.numbers = {source: k for k, source in enumerate(dict.fromkeys(kernel.source for kernel in kernels))}
        self.library = ctypes.CDLL(str(_compiled(_unit(tuple(self.numbers), wide, backwards))))

    def launch(self, source: str, symbol: str, blocks: int, threads: int, values: Sequence[int]) -> None:
        """Run a function of a source on a grid; `values` are addresses and sizes, in the order of parameters."""
        array = (ctypes.c_longlong * max(1, len(values)))(*values)
        if blocks and getattr(self.library, f"run_{self.numbers[source]}_{symbol}")(array, blocks, threads):
            raise RuntimeError(f"threads of {symbol} wait for others that have gone elsewhere")


def _unit(sources: Sequence[str], wide: bool, backwards: bool) -> str:
    """One text with all sources, each in a namespace, and an entry for each of their launches."""
    shared = prelude(wide, (HERE / "device.hpp").read_text())
    parts = [f"#define BACKWARDS {int(backwards)}", '#include "shim.hpp"', shared]
    for k, source in enumerate(sources):
        functions = HEAD.split(source)  # what comes before the first, then names and texts
        parts.append(in_namespace(source, k))
        for name, text in zip(functions[1::2], functions[2::2], strict=True):
            waits = int(bool(WAITING.search(functions[0]) or WAITING.search(text)))
            parts.append(
                f"static void call_{k}_{name}(const long long* v) {{ applied(k{k}::{name}, v); }}\n"
                f'extern "C" int run_{k}_{name}(const long long* v, unsigned blocks, int threads) {{\n'
                f"    return grid(call_{k}_{name}, v, blocks, threads, {waits});\n}}"
            )
    return "\n".join(parts)


def in_namespace(source: str, k: int) -> str:
    """A source beside others: functions of C would have the same names."""
    plain = source.replace('extern "C" __global__', "__global__")
    return f"namespace k{k} {{\n{plain}\n}}"


def _compiled(text: str) -> Path:
    """The shared library of a text; what was compiled once is kept for later runs of the tests."""
    name = hashlib.sha256("\0".join([*_compiler(), text]).encode()).hexdigest()[:32]
    library = FOLDER / f"{name}.so"
    if library.exists():
        os.utime(library)  # it is used: others go before it
        return library
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        source, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text(text)
        command = [str(COMPILER), *FLAGS, f"-I{HERE}", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        os.replace(made, library)
    _evict()
    return library


def _evict() -> None:
    """Delete what was not used for longest; other processes do the same."""
    files = []
    for path in FOLDER.glob("*.so"):
        with suppress(FileNotFoundError):
            files.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(files, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


@cache
def _compiler() -> tuple[str, ...]:
    """What a library depends on beside its text."""
    version = subprocess.run([str(COMPILER), "--version"], capture_output=True, text=True, check=True).stdout
    return (version, *FLAGS, (HERE / "shim.hpp").read_text())


# --------------------------------------------------------------------------------------------- kernels


def run_on_host(
    kernel: CudaKernel,
    reads: Sequence[Array],
    writes: Sequence[tuple[Sequence[int], str]],
    dims: Mapping[str, int] | None = None,
    key: tuple[int, int, int] | None = None,
    module: Module | None = None,
    in_place: Mapping[int, int] | None = None,
) -> list[Array]:
    """What a kernel writes.

    Args:
        writes: shape and dtype of each buffer that it writes.
        dims: sizes of symbolic dimensions.
        key: of its draw.
        module: that it was compiled in; by default it is compiled alone.
        in_place: reads whose bytes a write takes: the write of each.

    Raises:
        IndexError: it found operands out of range.
        RuntimeError: its threads wait for each other for ever.
    """
    dims = dims or {}
    module = module or Module([kernel], kernel.is_wide(dims))
    memory = Memory(reads, writes, evaluate(kernel.workspace, dims), key or (0, 0, 0), in_place or {})
    for command in kernel.commands:
        run_command(module, kernel, command, memory, dims)
    assert memory.is_intact(), "the kernel has written beyond a buffer"
    if memory.failed[0]:
        raise IndexError("the kernel failed: its operands are out of range")
    return memory.results()


class Memory:
    """What a run of a kernel sees: buffers at aligned addresses, as bytes."""

    def __init__(
        self,
        reads: Sequence[Array],
        writes: Sequence[tuple[Sequence[int], str]],
        workspace: int,
        key: tuple[int, int, int],
        in_place: Mapping[int, int],
    ) -> None:
        self.guards: list[Array] = []
        self.shapes = [(tuple(shape), np_dtype(dtype)) for shape, dtype in writes]
        self.reads = [self.copied(np.asarray(array)) for array in reads]
        sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in self.shapes]
        self.writes = [self.allocated(size) for size in sizes]
        for read, write in in_place.items():
            self.writes[write] = self.reads[read]
        self.workspace = self.allocated(workspace)
        self.key = np.array(key, np.int64)
        self.failed = np.zeros(1, np.int32)

    def allocated(self, count: int) -> Array:
        """Bytes at an aligned address, all of them poison, with more poison around them."""
        whole = np.full(count + 3 * ALIGN, POISON, np.uint8)
        start = ALIGN + -whole.ctypes.data % ALIGN
        self.guards += [whole[:start], whole[start + count :]]
        return whole[start : start + count]

    def copied(self, array: Array) -> Array:
        """The bytes of an array, at an aligned address."""
        data = self.allocated(array.nbytes)
        data[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return data

    def is_intact(self) -> bool:
        """Whether nothing was written beyond what was allocated."""
        return all(bool((guard == POISON).all()) for guard in self.guards)

    def bytes_of(self, array: Strided | Pointer, dims: Mapping[str, int]) -> Array:
        """The bytes of memory from where the offsets of an array count."""
        number = evaluate(array.number, dims)
        if array.place == "workspace":
            return self.workspace[number:]
        return (self.reads if array.place == "read" else self.writes)[number]

    def view(self, array: Strided, shape: Sequence[Dim], dims: Mapping[str, int]) -> Array:
        """An array in memory, not copied."""
        sizes = [evaluate(size, dims) for size in shape]
        dtype = np_dtype(array.dtype)
        if 0 in sizes:
            return np.empty(sizes, dtype)
        data = self.bytes_of(array, dims)
        flat = data[: data.size // dtype.itemsize * dtype.itemsize].view(dtype)[evaluate(array.offset, dims) :]
        strides = [evaluate(stride, dims) * dtype.itemsize for stride in array.strides]
        return np.lib.stride_tricks.as_strided(flat, sizes, strides)

    def results(self) -> list[Array]:
        """What was written."""
        return [
            data[: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize].view(dtype).reshape(shape).copy()
            for data, (shape, dtype) in zip(self.writes, self.shapes, strict=True)
        ]


def run_command(module: Module, kernel: CudaKernel, command: Command, memory: Memory, dims: Mapping[str, int]) -> None:
    """Run a launch; a product of matrices by NumPy; what a library may do by what runs instead."""
    if isinstance(command, Gemm):
        multiply(command, memory, dims)
    elif isinstance(command, Convolution | Fused):
        for each in command.instead:
            run_command(module, kernel, each, memory, dims)
    else:
        values = []
        for argument in command.arguments:
            if isinstance(argument, Size):
                values.append(evaluate(argument.dim, dims))
            elif isinstance(argument, Pointer):
                values.append(memory.bytes_of(argument, dims).ctypes.data)
            else:
                values.append((memory.key if isinstance(argument, Key) else memory.failed).ctypes.data)
        module.launch(kernel.source, command.symbol, evaluate(command.blocks, dims), command.threads, values)


def multiply(command: Gemm, memory: Memory, dims: Mapping[str, int]) -> None:
    """What cuBLAS does, in float64."""
    batch, m, n, k = command.batch, command.m, command.n, command.k
    a = memory.view(command.a, (batch, m, k), dims).astype(np.float64)
    b = memory.view(command.b, (batch, k, n), dims).astype(np.float64)
    memory.view(command.c, (batch, m, n), dims)[...] = a @ b
