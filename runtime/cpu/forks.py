"""LLVM across forks: a child has only the thread that forks, so no other may be within LLVM at that moment.

llvmlite lets one thread at a time into LLVM, under a lock, which a fork takes here. Calls that are made past that lock
are made within `PAST_THE_LOCK`: a fork waits until none runs, and begins none.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from threading import Condition
from typing import Any


class Gate:
    """Lets any number of threads in, until it is closed; closing it waits until all have left."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._closing = 0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in, and return when nobody is."""
        self._changed.acquire()
        self._closing += 1
        self._changed.wait_for(lambda: not self._inside)  # the lock stays taken: nobody has it when the process forks

    def open(self) -> None:
        """Let others in again."""
        self._closing -= 1
        self._changed.notify_all()
        self._changed.release()


PAST_THE_LOCK = Gate()


def _lock() -> AbstractContextManager[Any]:
    """The lock of llvmlite, if that is imported and has one where we know it."""
    ffi = sys.modules.get("llvmlite.binding.ffi")
    lock: AbstractContextManager[Any] = getattr(getattr(ffi, "lib", None), "_lock", nullcontext())
    return lock


_taken: list[AbstractContextManager[Any]] = []


def _leave() -> None:
    PAST_THE_LOCK.close()
    _taken.append(_lock())
    _taken[-1].__enter__()


def _return() -> None:
    _taken.pop().__exit__(None, None, None)
    PAST_THE_LOCK.open()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_leave, after_in_parent=_return, after_in_child=_return)
