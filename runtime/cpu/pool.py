"""Threads that help with runs: daemon threads of Python that live in the driver's code, without the interpreter's lock.

They start with the first run that can use them. A pool serves one run at a time; which, the driver settles. Sessions
that ask for the same number of threads share a pool, so that many sessions aren't many times as many threads.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from graphc.errors import ArgumentError
from graphc.op import Array
from graphc.runtime.cpu.driver import POOL_BYTES, SPIN, THREADS, WAIT, WAKE, Driver, driver
from graphc.runtime.cpu.host import available_threads
from graphc.runtime.pages import aligned_memory

SPIN_NS = 50_000  # before a thread that waits sleeps
SAMPLE = 1_000  # pauses that are timed to know how many that is
END_S = 5.0  # for how long closing waits for a worker that is busy


class Pool:
    """Workers, and the state that they share with the runs that they help.

    Args:
        threads: that take part in a run, its own included; by default those that the process may use.
        futex: sleep by the system's futex where there is one; otherwise by a condition variable.
    """

    def __init__(self, threads: int | None = None, *, futex: bool = True) -> None:
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be a positive int, got {threads!r}")
        self.threads = available_threads() if threads is None else threads
        self._futex = futex
        self.place = np.zeros(1, np.int64)  # see `driver.Threads`
        self._starting = threading.Lock()
        self._crew: Crew | None = None
        self._end: weakref.finalize[..., Pool] | None = None
        _all.add(self)

    def renew(self) -> None:
        """Begin anew, in a forked child: it has none of its parent's threads."""
        self._starting = threading.Lock()
        self._crew = None
        self.place[0] = 0
        if self._end is not None:
            self._end.detach()

    def ready(self) -> Crew:
        """Start the workers unless they run."""
        return self._crew or self._start()

    def _start(self) -> Crew:
        with self._starting:
            if self._crew is None:
                crew = Crew(self.threads, self._futex, self.place)
                self._end = weakref.finalize(self, crew.end)  # at the latest at the interpreter's exit
                self._crew = crew
                crew.start()
                self.place[0] = crew.address
            return self._crew

    def close(self) -> None:
        """End the workers; a run that goes on does the rest alone, and the next one starts new ones."""
        with self._starting:
            if self._end is not None:
                self._crew = None
                self._end()

    @property
    def workers(self) -> int:
        """Threads that have been started and live."""
        return 0 if self._crew is None else self._crew.alive


_all: weakref.WeakSet[Pool] = weakref.WeakSet()
_shared: weakref.WeakValueDictionary[int, Pool] = weakref.WeakValueDictionary()


def shared_pool(threads: int | None = None) -> Pool:
    """The pool of this many threads, which lives as long as someone uses it."""
    wanted = available_threads() if threads is None else threads
    pool = _shared.get(wanted)
    return _shared.setdefault(wanted, Pool(wanted)) if pool is None else pool


def _renew_all() -> None:
    for pool in _all:
        pool.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class Crew:
    """The threads of a pool between two forks or closings, with all the memory that they use."""

    def __init__(self, threads: int, futex: bool, place: Array) -> None:
        self.threads = threads
        self._place = place
        self._driver = driver()
        self.memory = aligned_memory(POOL_BYTES)
        self.memory[:] = 0
        self.address: int = self.memory.ctypes.data
        self._numbers = itertools.count(1)
        self._started: list[threading.Thread] = []
        words = self.memory.view(np.uint64)
        # Where threads outnumber cores, one that spins keeps another from what it waits for.
        words[SPIN // 8] = _pauses_before_sleep() if threads <= available_threads() else 0
        self._sleep = _sleep(self._driver, futex)
        words[WAIT // 8], words[WAKE // 8] = self._sleep[:2]
        words[THREADS // 8] = threads

    def start(self) -> None:
        """Start the threads; as many as the system grants, for any number will do."""
        for k in range(1, self.threads):
            thread = threading.Thread(target=self._serve, name=f"graphc-{k}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._started.append(thread)

    def _serve(self) -> None:
        number = next(self._numbers)
        if number < self.threads:  # an interrupt may have had a thread started twice
            self._driver.worker(self.address, number)

    def end(self) -> None:
        """Let all workers leave their loop, and wait for them; no run that begins from now on knows of them."""
        self._place[0] = 0
        self._driver.end(self.address)
        for thread in self._started:
            thread.join(END_S)

    @property
    def alive(self) -> int:
        """How many live."""
        return sum([thread.is_alive() for thread in self._started])


@cache
def _pauses_before_sleep() -> int:
    """How often a thread that spins pauses in `SPIN_NS`."""
    pauses = driver().pauses
    times = []
    for _ in range(5):
        start = time.perf_counter_ns()
        pauses(SAMPLE)
        times.append(time.perf_counter_ns() - start)
    return max(1, SAMPLE * SPIN_NS // max(1, min(times)))


def _sleep(code: Driver, futex: bool) -> tuple[int, int, Any]:
    """The addresses of what sleeps on an address and what wakes from it, and what keeps them."""
    if futex and code.wait is not None and code.wake is not None:
        return code.wait, code.wake, code
    condition = threading.Condition()

    def wait(word: int, expected: int) -> None:
        with condition:
            while ctypes.c_int32.from_address(word).value == expected:
                condition.wait()

    def wake(word: int, count: int) -> None:
        with condition:
            condition.notify_all()

    kind: Callable[..., Any] = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)
    kept = kind(wait), kind(wake)
    first, second = (ctypes.cast(fn, ctypes.c_void_p).value or 0 for fn in kept)
    return first, second, kept
