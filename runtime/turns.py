"""Whose turn it is: one use of an object at a time, from any thread, and none from inside another.

Methods take turns by `@exclusive`. The lock is taken and given back by `with` on a lock that is written in C: Python
raises KeyboardInterrupt neither between taking it and entering the block, nor between leaving the block and giving it
back. A class with `__enter__` and `__exit__` in Python could be interrupted there, and would stay locked for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakSet

import numpy as np

from graphc.errors import SessionError


class Turns:
    """The lock of an object, and the thread whose turn it is.

    Attributes:
        busy: a word of memory that isn't 0 during a turn, for machine code that looks without taking the lock.
    """

    def __init__(self) -> None:
        _all.add(self)
        self.busy = np.zeros(1, np.int64)
        self.renew()

    def renew(self) -> None:
        """Forget whose turn it was."""
        self.lock = threading.Lock()
        self.owner: int | None = None
        self.busy[0] = 0

    @property
    def mine(self) -> bool:
        """Whether it is this thread's turn already."""
        return self.owner == threading.get_ident() and self.lock.locked()


_all: WeakSet[Turns] = WeakSet()


def _renew_all() -> None:
    for turns in _all:
        turns.renew()


# A forked child has only the thread that forked: a lock that another one held would never be given back.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class TakesTurns(Protocol):
    """What `exclusive` needs of an object."""

    _turns: Turns


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=TakesTurns)


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that waits until no other exclusive method of the object runs.

    Raises:
        SessionError: it was called from inside one, where it would wait for ever.
    """

    @wraps(method)
    def taking_turns(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        turns = self._turns
        if turns.mine:
            raise SessionError("a session can't be used from inside one of its own runs")
        with turns.lock:
            turns.owner = threading.get_ident()
            turns.busy[0] = 1
            try:
                return method(self, *args, **kwargs)
            finally:
                turns.owner = None
                turns.busy[0] = 0

    return taking_turns
