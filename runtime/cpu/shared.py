"""Functions that kernels share: what differs from one kernel to the next is a parameter, or a part of the name.

A name is `room.kind`, and then, after more dots, what the code is made for. Each function is compiled once for all that
call it, so that a kernel of another size costs little more than the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.values import I64, PTR, Int, Value


class Shared(NamedTuple):
    """A kind of functions.

    Attributes:
        pointers, numbers: how many of both it takes, in this order.
        emit: writes its body, given the host, the parameters, and what the name ends with.
    """

    pointers: int
    numbers: int
    emit: Callable[[Function, Host, Sequence[Value], Sequence[str]], None]


def call(f: Function, name: str, pointers: Sequence[Value], numbers: Sequence[Int]) -> None:
    """Call a shared function."""
    f.call(name, "void", *pointers, *map(f.i64, numbers))


def library(kinds: Mapping[str, Shared], host: Host, symbol: str) -> str:
    """The assembly of a function, one of some kinds."""
    module = Module(avx512=host.vector_bytes == 64)
    _, kind, *variant = symbol.split(".")
    pointers, numbers, emit = kinds[kind]
    parameters = [(f"{PTR} noalias", f"pointer{k}") for k in range(pointers)]
    parameters += [(I64, f"number{k}") for k in range(numbers)]
    f = module.function(symbol, parameters)
    emit(f, host, [f.parameter(k) for k in range(len(parameters))], variant)
    f.ret()
    return module.text()
