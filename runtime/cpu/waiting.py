"""How a thread that waits lets others go on: by its processor's hint while it spins, and by the system's futex."""

from __future__ import annotations

from collections.abc import Callable

from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.fields import I32
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.values import I64, PTR

SYSCALL = {"x86_64": 202, "aarch64": 98}  # the number of futex
FUTEX_WAIT, FUTEX_WAKE = 128, 129  # of one process
PAUSE = {"x86_64": ("x86.sse2.pause", ""), "aarch64": ("aarch64.isb", "i32 15")}  # intrinsics, and their argument


def has_futexes(host: Host) -> bool:
    """Whether threads can sleep by the system's futex."""
    return "linux" in host.triple and _architecture(host) in SYSCALL


def futexes(module: Module, host: Host) -> None:
    """Functions that sleep while the word at an address is as expected, and wake some of those that sleep at it."""
    module.declare("syscall", "i64", [I64, "..."])
    for name, operation in (("futex_wait", FUTEX_WAIT), ("futex_wake", FUTEX_WAKE)):
        f = module.function(name, [(PTR, "word"), (I32, "number")])
        number = SYSCALL[_architecture(host)]
        arguments = f"i64 {number}, ptr %word, i64 {operation}, i32 %number, ptr null, ptr null, i32 0"
        f.emit(I64, f"call i64 (i64, ...) @syscall({arguments})")
        f.ret()


def pausing(module: Module, host: Host) -> Callable[[Function], None]:
    """What a thread does while it spins, to leave the core to others."""
    architecture = _architecture(host)
    if architecture not in PAUSE:
        return lambda f: None
    name, argument = PAUSE[architecture]
    module.declare(f"llvm.{name}", "void", argument.split()[:1])
    return lambda f: f.do(f"call void @llvm.{name}({argument})")


def _architecture(host: Host) -> str:
    return host.triple.split("-")[0]
