"""From CUDA C to cubins by NVRTC, NVIDIA's compiler in a library, which needs neither a GPU nor its driver.

The library is found where NVIDIA's wheels or a CUDA toolkit put it. Cubins are kept on disk beside the machine code of
the CPU: compiling takes a tenth of a second a kernel.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from graphc.errors import DeviceError, InternalError
from graphc.runtime.cache import object_cache
from graphc.runtime.cuda.prelude import OPTIONS

NAMES = ("nvrtc64_*.dll",) if sys.platform == "win32" else ("libnvrtc.so.[0-9]*", "libnvrtc.so")
FOLDERS = ("lib", "lib64", "bin", "bin/x86_64")  # of a toolkit, or of a wheel of it
TOOLKITS = ("CUDA_HOME", "CUDA_PATH")  # variables that name one
HINT = "pip install 'graphc[gpu]', or nvidia-cuda-nvrtc alone, or install the CUDA toolkit and set CUDA_HOME"


class Nvrtc(NamedTuple):
    """The library, as it is loaded."""

    library: ctypes.CDLL
    version: tuple[int, int]


def compile(text: str, arch: str) -> bytes:
    """The cubin of a translation unit.

    Args:
        arch: of the GPU that runs it: "sm_80" is Ampere, "sm_90" Hopper.

    Raises:
        DeviceError: there is no NVRTC, or it doesn't know the architecture.
        InternalError: the text isn't valid.
    """
    found = _found()
    if isinstance(found, str):
        raise DeviceError(f"CUDA C can't be compiled: {found}", hint=HINT)
    known = architectures()
    if arch not in known:
        version = ".".join(map(str, found.version))
        raise DeviceError(
            f"NVRTC {version} doesn't compile for {arch}; it knows {', '.join(known)}",
            hint="install the release of nvidia-cuda-nvrtc that supports this GPU",
        )
    options = (*OPTIONS, f"--gpu-architecture={arch}")
    key = _key(found, options, text)
    cubin = object_cache().get(key)
    if cubin is None:
        cubin = _compiled(found.library, text, options)
        object_cache().put(key, cubin)
    return cubin


def is_available() -> bool:
    """Whether there is an NVRTC."""
    return not isinstance(_found(), str)


def architectures() -> tuple[str, ...]:
    """Those that it compiles for: "sm_75", "sm_80", ..."""
    found = _found()
    return () if isinstance(found, str) else _architectures(found.library)


# --------------------------------------------------------------------------------------------- the library


@cache
def _found() -> Nvrtc | str:
    """The library, or why there is none."""
    trouble = "there is no library NVRTC on this machine"
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            trouble = f"{path} can't be loaded: {error}"
            continue
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return Nvrtc(library, (major.value, minor.value))
    return trouble


def _candidates() -> Iterator[str]:
    """Where it may be: in wheels, in a toolkit, or where the system looks for libraries."""
    wheels = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in (wheels.submodule_search_locations or ())] if wheels is not None else []
    folders = [folder for root in roots for folder in sorted(root.iterdir(), reverse=True) if folder.is_dir()]
    folders += [Path(os.environ[name]) for name in TOOLKITS if name in os.environ]
    folders.append(Path("/usr/local/cuda"))
    for folder in folders:
        for inner in FOLDERS:
            for name in NAMES:
                yield from (str(path) for path in sorted((folder / inner).glob(name), reverse=True))
    found = ctypes.util.find_library("nvrtc")
    if found is not None:
        yield found


@cache
def _architectures(library: ctypes.CDLL) -> tuple[str, ...]:
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(numbers))
    return tuple([f"sm_{number}" for number in numbers])


# --------------------------------------------------------------------------------------------- compiling


def _key(found: Nvrtc, options: tuple[str, ...], text: str) -> str:
    parts = ["cubin", *map(str, found.version), *options, text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _compiled(library: ctypes.CDLL, text: str, options: tuple[str, ...]) -> bytes:
    program = ctypes.c_void_p()
    made = library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    _check(library, made)
    try:
        given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        if library.nvrtcCompileProgram(program, len(options), given):
            log = _output(library, program, "ProgramLog").decode(errors="replace")
            raise InternalError(f"NVRTC rejects the CUDA C of a kernel:\n{log}")
        return _output(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _output(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """What a program has: its log, or the cubin."""
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(max(1, size.value))
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw[: size.value].rstrip(b"\0") if what == "ProgramLog" else buffer.raw[: size.value]


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        words = library.nvrtcGetErrorString(status).decode()
        raise DeviceError(f"NVRTC fails: {words}", hint=HINT)
