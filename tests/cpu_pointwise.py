"""Pointwise ops as native code over arrays: a loop around what `pointwise.emit` emits."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from graphc.ir import Graph, Node
from graphc.op import Op
from graphc.ops.state import placeholder
from graphc.runtime.cpu import pointwise
from graphc.runtime.cpu.builder import Module
from graphc.runtime.cpu.elements import from_memory, to_memory
from graphc.runtime.cpu.host import Host, this_host
from graphc.runtime.cpu.jit import Code, compiled
from graphc.runtime.cpu.values import MEMORY_TYPE, vector
from graphc.types import np_dtype

Array = np.ndarray[Any, Any]


def call_of(op: Op, dtypes: tuple[str, ...], **attrs: Any) -> Node:
    """The op, of operands of these dtypes."""
    with Graph():
        node: Node = op(*[placeholder("x", ("n",), dtype) for dtype in dtypes], **attrs)
    return node


def loop(node: Node, lanes: int, host: Host) -> str:
    """The assembly of `void loop(operands..., result, n)`, for n elements, a multiple of the lanes."""
    module = Module(avx512=host.vector_bytes == 64)
    arity = len(node.inputs)
    names = [("ptr noalias", f"x{k}") for k in range(arity + 1)]
    f = module.function("loop", [*names, ("i64", "n")])
    dtypes = [*(x.dtype for x in node.inputs), node.dtype]

    def body(i: Any, carried: Any) -> None:
        places = [f.address(f.parameter(k), i, MEMORY_TYPE[dtype]) for k, dtype in enumerate(dtypes)]
        args = [
            from_memory(f, f.load(vector(MEMORY_TYPE[dtype], lanes), at, 1), dtype)
            for at, dtype in zip(places[:-1], dtypes, strict=False)
        ]
        f.store(to_memory(f, pointwise.emit(f, node, args), node.dtype), places[-1], 1)

    f.loop(0, f.parameter(arity + 1), lanes, body)
    f.ret()
    return module.text()


@cache
def _code(op: Op, dtypes: tuple[str, ...], attrs: tuple[tuple[str, Any], ...], lanes: int, host: Host) -> Any:
    node = call_of(op, dtypes, **dict(attrs))
    code = Code([compiled(loop(node, lanes, host), host)], ["loop"])
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(dtypes) + 1), ctypes.c_int64)
    return code, signature(code.address("loop")), node.dtype


def run(op: Op, *arrays: Array, lanes: int = 16, host: Host | None = None, **attrs: Any) -> Array:
    """The op of one-dimensional arrays, by native code."""
    dtypes = tuple(array.dtype.name for array in arrays)
    _, function, dtype = _code(op, dtypes, tuple(attrs.items()), lanes, host or this_host())
    count = arrays[0].size
    padded = [np.resize(array, -(-count // lanes) * lanes) for array in arrays]
    result = np.empty(padded[0].size, np_dtype(dtype))
    function(*[array.ctypes.data for array in (*padded, result)], result.size)
    return result[:count]
