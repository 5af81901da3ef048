"""From a module to its object file, past two locks: llvmlite's, and the interpreter's where that is worth it.

LLVM compiles modules of different contexts at the same time, but llvmlite lets one thread at a time into it. So the two
calls that take long are made past its lock, on the functions that the lock wraps. They give up the interpreter's lock,
which takes its time: a thread that wants it back waits until another, which is busy, has had it for
`sys.getswitchinterval()`, as long as a module takes to compile. So the short calls keep it, and nothing else happens
while they are made, neither other calls of LLVM's nor a fork.

Where a version of llvmlite wraps its functions in another way, all are called as it does, and compiling is serial.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from functools import cache
from typing import Any

from graphc.errors import InternalError
from graphc.runtime.cpu.forks import PAST_THE_LOCK

OBJECT_FILE = 1  # LLVM's number of what is emitted


def emitted(assembly: str, machine: Any) -> bytes:
    """The object file of a module, for a target machine that no other thread uses now.

    With `GRAPHC_VERIFY=1` in the environment, LLVM checks the module first.

    Raises:
        InternalError: LLVM refuses it.
    """
    parse, emit = long_call("ParseAssembly"), long_call("TargetMachineEmitToMemory")
    error = ctypes.c_char_p()
    with ExitStack() as made:
        made.callback(lambda: error.value is None or short_call("DisposeString")(error))
        context = short_call("ContextCreate")()
        made.callback(short_call("ContextDispose"), context)
        with PAST_THE_LOCK:
            module = parse(context, assembly.encode(), ctypes.byref(error))
        if not module:
            raise InternalError(f"LLVM can't read generated code: {_text(error)}")
        made.callback(short_call("DisposeModule"), module)
        if _is_asked_to_verify() and short_call("VerifyModule")(module, ctypes.byref(error)):
            raise InternalError(f"LLVM refuses generated code: {_text(error)}")
        with PAST_THE_LOCK:
            buffer = emit(machine, module, OBJECT_FILE, ctypes.byref(error))
        if not buffer:
            raise InternalError(f"LLVM can't compile generated code: {_text(error)}")
        made.callback(short_call("DisposeMemoryBuffer"), buffer)
        return ctypes.string_at(short_call("GetBufferStart")(buffer), short_call("GetBufferSize")(buffer))


def _text(error: ctypes.c_char_p) -> str:
    return (error.value or b"").decode(errors="replace")


def _is_asked_to_verify() -> bool:
    return os.environ.get("GRAPHC_VERIFY", "") not in ("", "0")


def _library() -> Any:
    """LLVM as llvmlite calls it."""
    from llvmlite.binding import ffi

    return ffi.lib


def unlocked(function: Any) -> Any:
    """A function of LLVM without the lock of llvmlite, if that wraps it as we know it."""
    return getattr(function, "_cfn", function)


@cache
def long_call(name: str) -> Any:
    """A function of LLVM's that other threads need not wait for; call it within `PAST_THE_LOCK`."""
    return unlocked(getattr(_library(), f"LLVMPY_{name}"))


@cache
def short_call(name: str) -> Any:
    """A function of LLVM's that keeps the interpreter's lock."""
    library = _library()
    locked = getattr(library, f"LLVMPY_{name}")
    plain = unlocked(locked)
    if plain is locked:
        return locked
    found = getattr(ctypes.PyDLL(library._name, handle=library._handle), f"LLVMPY_{name}")
    found.argtypes, found.restype = plain.argtypes, plain.restype
    return found
