"""Kernels that call functions: their loops are functions that kernels share, and what is around these is plain."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cpu_cores import INFO, native

import graphc as gc
from graphc.ops.conv import conv_weight_grad as weight_gradient
from graphc.passes.plan import plan_kernels
from graphc.runtime.cache import ObjectCache
from graphc.runtime.cpu import hot_loops, jit
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.host import this_host
from graphc.runtime.cpu.values import I64, PTR, Int, Value, constant
from tests.plan_testing import prepared

MARK = "define void @work.mark(ptr %at) nounwind {\n  store i64 -1, ptr %at\n  ret void\n}\n"
ROWS, WIDTH = 5, 7


def library(name: str) -> str:
    assert name == "work.mark"
    return MARK


def counted(f: Function, row: Value, at: Callable[[Int], Value]) -> None:
    """A loop that calls nothing: the second and later elements of a row are its number, times 10, plus theirs."""
    f.loop(1, WIDTH, 1, lambda k, _: f.store(f.i64(f.add(f.mul(row, 10), k)), at(k), 8))


def summed(f: Function, row: Value, at: Callable[[Int], Value]) -> None:
    """A loop that a value leaves."""
    (total,) = f.loop(1, WIDTH, 1, lambda k, sums: [f.i64(f.add(sums[0], k))], [constant(I64, 0)])
    f.store(total, at(1), 8)


def of_own(f: Function, row: Value, at: Callable[[Int], Value]) -> None:
    """A call of a function of the module, which has a loop."""
    if not f.module.has("count"):
        g = f.module.function("count", [(PTR, "to"), (I64, "row")], internal=True)
        to, number = g.parameter(0), g.parameter(1)
        counted(g, number, lambda k: g.address(to, k, I64))
        g.ret()
    f.call("count", "void", at(0), row)


def of_c(f: Function, row: Value, at: Callable[[Int], Value]) -> None:
    """A loop that calls a function of the C library."""

    def absolute(k: Value, _: list[Value]) -> None:
        value = f.call("labs", I64, f.i64(f.sub(0, k)))
        assert value is not None
        f.store(value, at(k), 8)

    f.loop(1, WIDTH, 1, absolute)


def module(inner: Callable[[Function, Value, Callable[[Int], Value]], None], *, name: str = "fill") -> Module:
    """A function that has each row's first element marked by a function of the library, and writes the others."""
    made = Module()
    f = made.function(name, [(PTR, "to"), (I64, "rows")])
    to, rows = f.parameter(0), f.parameter(1)

    def row(i: Value, _: list[Value]) -> None:
        def at(k: Int) -> Value:
            return f.address(to, f.add(f.mul(i, WIDTH), k), I64)

        f.call("work.mark", "void", at(0))
        inner(f, i, at)

    f.loop(0, rows, 1, row)
    f.ret()
    return made


def filled(text: str, name: str = "fill") -> list[list[int]]:
    (code,) = jit.load([text], [[name]], library)
    found = np.zeros((ROWS, WIDTH), np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address(name))(found.ctypes.data, ROWS - 1)
    return found.tolist()


WANTED = [[-1, *[10 * i + k for k in range(1, WIDTH)]] if i < ROWS - 1 else [0] * WIDTH for i in range(ROWS)]


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache of the test's own, of object files of one module each."""
    made = ObjectCache(tmp_path / "graphc")
    monkeypatch.setattr(jit, "object_cache", lambda: made)
    monkeypatch.setattr(jit, "TOGETHER", 0)
    return made


@pytest.mark.parametrize("inner", [counted, of_own])
def test_loops_and_functions_apart_do_what_they_did(objects: ObjectCache, inner: Callable[..., None]) -> None:
    text = hot_loops.kernel_text(module(inner))
    glue, loops = hot_loops.parts(text)
    assert len(loops) == 1
    assert "icmp" in glue and glue.count("icmp") == 1, "the loop over rows alone"
    assert filled(module(inner).text()) == filled(text) == WANTED


@pytest.mark.parametrize("inner", [summed, of_c])
def test_what_values_leave_or_the_c_library_serves_stays_as_it_is(inner: Callable[..., None]) -> None:
    text = hot_loops.kernel_text(module(inner))
    assert text == module(inner).text()
    assert hot_loops.parts(text) == (text, {})


def test_what_calls_nothing_stays_as_it_is() -> None:
    made = Module()
    f = made.function("fill", [(PTR, "to"), (I64, "rows")])
    counted(f, f.parameter(1), lambda k: f.address(f.parameter(0), k, I64))
    f.ret()
    assert hot_loops.kernel_text(made) == made.text()


@pytest.mark.parametrize("inner", [counted, of_own])
def test_kernels_share_loops_and_functions_of_the_same_text(objects: ObjectCache, inner: Callable[..., None]) -> None:
    one, other = [hot_loops.kernel_text(module(inner, name=name)) for name in ("fill", "again")]
    assert [*hot_loops.names(one)] == [*hot_loops.names(other)] != []
    codes = jit.load([one, other], [["fill"], ["again"]], library)
    assert objects.misses == 4, "two kernels, the loop and the library's function"
    del codes
    assert filled(other, "again") == WANTED


def test_a_loop_whose_object_file_is_gone_is_compiled_again(objects: ObjectCache) -> None:
    text = hot_loops.kernel_text(module(counted))
    assert filled(text) == WANTED
    (assembly,) = hot_loops.parts(text)[1].values()
    assert objects.directory is not None
    (objects.directory / f"{jit.unit_of(assembly, ()).key}.o").unlink()
    assert filled(text) == WANTED
    assert objects.misses == 4


def test_gradients_of_weights_of_different_sizes_share_what_writes_them() -> None:
    """What stores the sums of an image's gradients goes through them as one row, however long it is."""
    shared: list[set[str]] = []
    for channels, filters, side in ((16, 32, 14), (24, 16, 28)):
        x = gc.placeholder("x", (4, channels, side, side))
        g = gc.placeholder("g", (4, filters, side, side))
        node = weight_gradient(x, g, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1, kernel=(3, 3))
        (step,) = plan_kernels(prepared([node * 2.0], info=INFO), INFO).steps
        shared.append({*hot_loops.names(native(step.kernel, this_host()).assembly)})
    assert shared[0] & shared[1]
