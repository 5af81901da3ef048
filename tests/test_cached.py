"""What is computed once of an object: what is kept, and what other threads and forked processes see of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from graphc.cached import cached_property, kept_with
from tests.checkout import modules

PATIENT_S = 60  # for what takes microseconds


class Counted:
    """Its attribute is how often that has been computed."""

    def __init__(self, meanwhile: Callable[[Counted], Any] = lambda counted: None) -> None:
        self.meanwhile = meanwhile
        self.times = 0

    @cached_property
    def number(self) -> int:
        """What it says of itself."""
        self.times += 1
        number = self.times
        self.meanwhile(self)
        return number


def test_it_is_computed_once_for_each_object() -> None:
    one, other = Counted(), Counted()
    assert [one.number, one.number, other.number] == [1, 1, 1]
    assert one.times == 1 and one.__dict__["number"] == 1


def test_what_fails_is_computed_again() -> None:
    def fail_once(counted: Counted) -> None:
        if counted.times == 1:
            raise KeyError

    counted = Counted(fail_once)
    with pytest.raises(KeyError):
        counted.number  # noqa: B018 - the value isn't needed
    assert counted.number == 2


def test_a_class_shows_what_is_said_of_the_attribute() -> None:
    assert Counted.number.__doc__ == "What it says of itself."


def test_threads_that_ask_at_the_same_time_all_get_what_was_kept_first() -> None:
    found: list[int] = []

    def ask_in_another_thread(counted: Counted) -> None:
        if counted.times == 1:
            other = threading.Thread(target=lambda: found.append(counted.number), daemon=True)
            other.start()
            other.join(PATIENT_S)

    assert Counted(ask_in_another_thread).number == 2
    assert found == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_meanwhile_computes_it_for_itself() -> None:
    begun, go = threading.Event(), threading.Event()
    slow = Counted(lambda _: [begun.set(), go.wait()])
    thread = threading.Thread(target=lambda: slow.number)
    thread.start()
    begun.wait()
    child = os.fork()
    if not child:
        signal.alarm(PATIENT_S)  # ends it if it waits for the thread, which it doesn't have
        os._exit(Counted().number)
    status = os.waitpid(child, 0)[1]
    go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 1


def test_a_function_of_an_object_is_computed_once_for_each() -> None:
    @kept_with
    def double(counted: Counted) -> int:
        """Twice what it says of itself."""
        counted.times += 1
        return 2 * counted.times

    one, other = Counted(), Counted()
    assert [double(one), double(one), double(other)] == [2, 2, 2]
    assert one.times == other.times == 1
    assert one.number == 2, "it is apart from what the object computes of itself"
    assert double.__doc__ == "Twice what it says of itself."


def test_functions_of_one_name_in_different_rooms_are_kept_apart() -> None:
    def named(module: str) -> Callable[[Counted], str]:
        def whose(counted: Counted) -> str:
            return module

        whose.__module__ = module
        return kept_with(whose)

    counted = Counted()
    assert [named("one")(counted), named("other")(counted)] == ["one", "other"]


def test_no_module_takes_the_attributes_of_functools() -> None:
    users = [name for name, path in modules().items() if "cached_property" in path.read_text(encoding="utf-8")]
    assert "graphc.ir" in users
    texts = {name: modules()[name].read_text(encoding="utf-8") for name in users if name != "graphc.cached"}
    assert [name for name, text in texts.items() if "from graphc.cached import cached_property" not in text] == []
