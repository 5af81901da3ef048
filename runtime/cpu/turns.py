"""The interpreter's lock, for threads that need it often and shortly.

A thread that wants the lock waits until another, which is busy, has had it for `sys.getswitchinterval()`: 5 ms, which
is what a module takes to compile. Threads that come back from LLVM twice for each module would be idle half of the
time.
"""

from __future__ import annotations

import os
import sys
from threading import Lock

INTERVAL = 1e-4  # seconds


class Turns:
    """A block of a thread during which the lock changes hands sooner, for all threads; blocks may overlap.

    What the program sets meanwhile holds, until another block begins.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._blocks = 0
        self._found: float | None = None  # the interval that was found, and is to come back
        self._set = 0.0  # ours, as the interpreter has it

    def __enter__(self) -> None:
        with self.lock:
            self._blocks += 1
            found = sys.getswitchinterval()
            if found > INTERVAL:
                sys.setswitchinterval(INTERVAL)
                self._found, self._set = found, sys.getswitchinterval()

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self._blocks -= 1
            if not self._blocks:
                self._restore()

    def _restore(self) -> None:
        if self._found is not None and sys.getswitchinterval() == self._set:
            sys.setswitchinterval(self._found)
        self._found = None

    def begin_anew(self) -> None:
        """In a child, which has only the thread that forked: no block goes on."""
        self._blocks = 0
        self._restore()
        self.lock.release()


SHORT_TURNS = Turns()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=SHORT_TURNS.lock.acquire,
        after_in_parent=SHORT_TURNS.lock.release,
        after_in_child=SHORT_TURNS.begin_anew,
    )
