"""Code that is linked while the interpreter does other things."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import pytest

from graphc.runtime.cpu import forks, jit
from graphc.runtime.cpu.host import this_host

CALLS = "declare i64 @missing()\ndefine i64 @f() {\n%x = call i64 @missing()\nret i64 %x\n}\n"


def test_what_is_linked_later_is_there_when_it_is_asked_for() -> None:
    image = jit.compiled("define i64 @f() {\nret i64 42\n}\n", this_host())
    code = jit.Code([image], ["f"], later=True)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.part("").address("f"))() == 42


def test_what_cant_be_linked_is_told_to_all_who_ask() -> None:
    code = jit.Code([jit.compiled(CALLS, this_host())], ["f"], later=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="materialize symbols"):
            code.address("f")


def test_without_a_thread_it_is_linked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert jit._Linking(lambda: {"f": 7})["f"] == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_waits_for_what_is_being_linked() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def link() -> Mapping[str, int]:
        begun.set()
        may_end.wait()
        return {"f": 7}

    library = jit._Linking(link)
    begun.wait()
    threading.Timer(0.05, may_end.set).start()
    child = os.fork()
    if not child:
        os._exit(library["f"] if library._linked.done() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_nothing_begins_to_be_linked_while_a_process_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, made = threading.Event(), list[jit._Linking]()

    def link() -> Mapping[str, int]:
        may_end.wait()
        return {"f": 7}

    other = threading.Thread(target=lambda: made.append(jit._Linking(link)))

    class Closing(forks.Gate):
        """What the process does after it has waited for what is being linked."""

        def close(self) -> None:
            other.start()
            other.join(0.1)
            super().close()

    monkeypatch.setattr(forks, "PAST_THE_LOCK", Closing())
    child = os.fork()
    if not child:
        os._exit(7 if all(library._linked.done() for library in made) else 1)
    may_end.set()
    other.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert made[0]["f"] == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("way", [lambda: forks.PAST_THE_LOCK, forks._lock], ids=["past the lock", "under the lock"])
def test_a_fork_waits_until_no_other_thread_is_within_llvm(way: Callable[[], AbstractContextManager[object]]) -> None:
    import llvmlite.binding  # noqa: F401 - whose lock it is

    inside, may_leave, left = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        with way():
            inside.set()
            may_leave.wait()
            left.set()

    caller = threading.Thread(target=call)
    caller.start()
    inside.wait()
    threading.Timer(0.05, may_leave.set).start()
    child = os.fork()
    if not child:
        with forks.PAST_THE_LOCK, forks._lock():  # both can be entered again
            os._exit(7 if left.is_set() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    caller.join()
    with forks.PAST_THE_LOCK, forks._lock():
        assert jit.compiled("define i64 @f() {\nret i64 42\n}\n", this_host())


def test_a_gate_that_is_closed_lets_nobody_in_until_it_is_open() -> None:
    gate, entered = forks.Gate(), threading.Event()

    def enter() -> None:
        with gate:
            entered.set()

    gate.close()
    caller = threading.Thread(target=enter)
    caller.start()
    assert not entered.wait(0.05)
    gate.open()
    caller.join()
    assert entered.is_set()
