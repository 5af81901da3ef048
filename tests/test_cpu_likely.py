"""What a program will most likely call is compiled while its passes run, and never in the way of what it does call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pack_testing import own_cache

import graphc as gc
from graphc.ir import Program
from graphc.passes.pipeline import run_pipeline
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu import jit, likely
from graphc.runtime.cpu.host import HOSTS, Host, this_host
from graphc.runtime.cpu.jit import Compiler, unit_of
from graphc.runtime.cpu.kernels import function
from graphc.runtime.cpu.target import CpuTarget

RETURNS = "define i64 @{}() {{\n{}ret i64 {}\n}}\n"


def training_step() -> Program:
    """Of convolutions as large nets have them: at full size and in steps of two, and a product with what they give."""
    with gc.Graph():
        shapes = (64, 64, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (64, 64, 1, 1), (64, 500)
        first, second, down, beside, classes = [gc.Variable(np.ones(shape, np.float32)) for shape in shapes]
        x = gc.placeholder("x", (64, 64, 16, 16))
        h = gc.relu(gc.conv2d(gc.relu(gc.conv2d(x, first, padding=1)), second, padding=1))
        h = gc.relu(gc.conv2d(h, down, padding=1, stride=2) + gc.conv2d(h, beside, stride=2))
        loss = gc.sum(gc.tanh(gc.mean(h, axis=(2, 3)) @ classes))
        train = gc.optim.SGD(lr=0.1).minimize(loss)
        return Program((x,), (loss,), tuple(train.items()))


def called(program: Program) -> set[str]:
    """The functions of the library that the program's kernels call, and those that these call."""
    target = CpuTarget(1)
    symbolic = plan_kernels(run_pipeline(program, target.info, training=True), target.info)
    found: set[str] = set()
    waiting = [name for variant in symbolic.variants for name in target.unit(variant).calls]
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith("loop."):
            found.add(name)
            waiting += unit_of(function(target.host, name), [name]).calls
    return found


def test_what_is_likely_is_called() -> None:
    program = training_step()
    names = likely.functions(program, this_host())
    assert len(names) == len(set(names)) > 15
    assert set(names) <= called(program)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_each_host_has_what_is_likely(host: Host) -> None:
    for name in likely.functions(training_step(), host):
        assert f"@{name}(" in function(host, name)


def test_inference_needs_other_functions() -> None:
    with gc.Graph():
        x, w = gc.placeholder("x", (4, 16, 8, 8)), gc.Variable(np.ones((16, 16, 3, 3), np.float32))
        program = Program((x,), (gc.conv2d(x, w, padding=1),))
    assert likely.functions(program, this_host()) == []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[Compiler], list[str]]:
    """Has a compiler, whose threads none begins, compile what waits; gives the modules in the order of that."""
    texts: list[str] = []

    def noted(assembly: str, machine: object) -> bytes:
        texts.append(assembly)
        return b"object"

    def emptied(compiler: Compiler) -> list[str]:
        while taken := compiler._next():
            compiler._make(taken, jit._Machines(this_host()))
        return texts

    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    monkeypatch.setattr(jit, "emitted", noted)
    return emptied


def test_what_is_needed_comes_before_what_is_likely(made: Callable[[Compiler], list[str]]) -> None:
    compiler = Compiler(this_host())
    compiler.begin("likely", "a long module", is_likely=True)
    compiler.begin("both", "another module", is_likely=True)
    compiler.begin("needed", "short")
    compiler.begin("both", "another module")
    compiler.begin("needed", "short", is_likely=True)
    assert made(compiler) == ["another module", "short", "a long module"]


def test_what_is_merely_likely_is_dropped_when_all_is_known(made: Callable[[Compiler], list[str]]) -> None:
    compiler = Compiler(this_host())
    for key in ("dropped", "needed"):
        compiler.begin(key, f"{key} module", is_likely=True)
    compiler.begin("needed", "needed module")
    compiler.settle()
    assert made(compiler) == ["needed module"]
    compiler.begin("dropped", "dropped module")
    assert compiler.take("dropped") == b"object"


def test_what_others_need_meanwhile_is_not_dropped(made: Callable[[Compiler], list[str]]) -> None:
    compiler = Compiler(this_host())
    compiler.begin("both", "module", is_likely=True)
    lock, others = compiler._lock, iter([lambda: compiler.begin("both", "module")])

    class Between:
        """Whenever the lock is free again, others have their turn."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            next(others, lambda: None)()

    compiler._lock = Between()  # type: ignore[assignment]
    compiler.settle()
    assert compiler.take("both") == b"object"


def test_a_plan_finds_what_was_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_cache(tmp_path, (jit,), monkeypatch)
    texts: list[str] = []
    emit = jit.emitted
    monkeypatch.setattr(jit, "emitted", lambda text, machine: (texts.append(text), emit(text, machine))[1])
    compiler = Compiler(this_host())
    jit.expect(["work.seven", "work.eight"], library, compiler)
    loading = jit.Loading(library, compiler=compiler)
    loading.add("declare i64 @work.seven()\n" + RETURNS.format("f", "%x = call i64 @work.seven()\n", "%x"), ["f"])
    (code,) = loading.codes()
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("f"))() == 7
    assert sum("work.seven() {" in text for text in texts) == 1
    jit.expect(["work.seven"], library, compiler)
    assert compiler._next() == {}, "it is there already"


def library(name: str) -> str:
    return RETURNS.format(name, "", {"work.seven": 7, "work.eight": 8}[name])
