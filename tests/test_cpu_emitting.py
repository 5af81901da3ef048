"""LLVM's calls past llvmlite's lock, and how long a busy thread keeps the interpreter's while modules are compiled."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
import pytest

from graphc.errors import InternalError
from graphc.runtime.cpu import emitting, jit
from graphc.runtime.cpu.host import this_host
from graphc.runtime.cpu.turns import INTERVAL, SHORT_TURNS, Turns

SHORT = (
    *("ContextCreate", "ContextDispose", "DisposeModule", "DisposeString"),
    *("GetBufferStart", "GetBufferSize", "DisposeMemoryBuffer"),
)
KEEPS_THE_LOCK = 4  # a flag of functions of ctypes
OURS, THEIRS = 2e-2, 3e-2  # seconds; longer than `INTERVAL`


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    for thread in threading.enumerate():
        if thread.name == "graphc-compile":  # of earlier tests
            thread.join()
    before = sys.getswitchinterval()
    sys.setswitchinterval(OURS)
    yield
    sys.setswitchinterval(before)


def is_set(wanted: float) -> bool:
    return abs(sys.getswitchinterval() - wanted) < 1e-6


def test_the_lock_of_llvmlite_is_as_we_know_it() -> None:
    locked = llvm.ffi.lib.LLVMPY_ParseAssembly
    assert emitting.unlocked(locked) is not locked
    assert emitting.unlocked(len) is len


def test_short_calls_keep_the_lock_of_the_interpreter_and_long_ones_dont() -> None:
    for name in SHORT:
        assert emitting.short_call(name)._flags_ & KEEPS_THE_LOCK
    for name in ("ParseAssembly", "TargetMachineEmitToMemory"):
        assert not emitting.long_call(name)._flags_ & KEEPS_THE_LOCK


def test_all_calls_are_those_of_llvmlite_where_its_lock_isnt_as_we_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitting, "unlocked", lambda function: function)
    for lookup in (emitting.short_call.__wrapped__, emitting.long_call.__wrapped__):
        assert lookup("DisposeModule") is llvm.ffi.lib.LLVMPY_DisposeModule


@pytest.mark.parametrize("text", ["define nonsense", "define i64 @f() {\n  %x = add i64 1, 2.0\n  ret i64 %x\n}"])
def test_llvm_says_what_it_cant_read(text: str) -> None:
    with pytest.raises(InternalError, match=r"can't read generated code: .*error: .*"):
        jit.compiled(text, this_host())


def test_llvm_says_what_it_refuses_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "define void @f(i64 %x) {\nentry:\n  br label %next\nnext:\n  %y = add i64 %z, 1\n  %z = add i64 %y, 1\n"
    text += "  ret void\n}\n"
    monkeypatch.setenv("GRAPHC_VERIFY", "1")
    with pytest.raises(InternalError, match=r"refuses generated code: .*does not dominate"):
        jit.compiled(text, this_host())
    assert jit.compiled(text.replace("%z, 1", "%x, 1"), this_host())


def test_turns_are_short_until_the_last_block_ends() -> None:
    turns = Turns()
    for _ in range(2):
        with turns:
            with turns:
                assert is_set(INTERVAL)
            assert is_set(INTERVAL)
        assert is_set(OURS)


def test_what_the_program_sets_meanwhile_stays() -> None:
    turns = Turns()
    with turns:
        sys.setswitchinterval(THEIRS)
    assert is_set(THEIRS)
    with turns:
        sys.setswitchinterval(THEIRS)
        with turns:
            assert is_set(INTERVAL)
    assert is_set(THEIRS)


@pytest.mark.parametrize("found", [INTERVAL, INTERVAL / 2])
def test_turns_that_are_short_already_stay_so(found: float) -> None:
    sys.setswitchinterval(found)
    with Turns():
        assert is_set(found)
    assert is_set(found)


def test_a_block_that_fails_ends() -> None:
    with pytest.raises(ZeroDivisionError), Turns():
        _ = 1 // 0
    assert is_set(OURS)


def test_turns_are_short_while_modules_are_compiled_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on, seen = threading.Event(), threading.Event(), []
    threads: list[threading.Thread] = []

    def emitted(assembly: str, machine: Any) -> bytes:
        threads.append(threading.current_thread())
        seen.append(is_set(INTERVAL))
        begun.set()
        may_go_on.wait()
        return b"object"

    monkeypatch.setattr(jit, "available_threads", lambda: 2)
    monkeypatch.setattr(jit, "emitted", emitted)
    compiler = jit.Compiler(this_host())
    compiler.begin("a", "define void @f() {\nret void\n}\n")
    begun.wait()
    assert is_set(INTERVAL)
    may_go_on.set()
    assert compiler.take("a") == b"object" and seen == [True]
    threads[0].join()
    assert is_set(OURS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_has_the_interval_of_the_program() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with SHORT_TURNS:
            begun.set()
            may_end.wait()

    worker = threading.Thread(target=work)
    worker.start()
    begun.wait()
    child = os.fork()
    if not child:
        found = is_set(OURS)
        with SHORT_TURNS:
            found = found and is_set(INTERVAL)
        os._exit(7 if found and is_set(OURS) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    may_end.set()
    worker.join()
    assert is_set(OURS)
