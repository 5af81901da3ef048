"""What the CPU target's thresholds for threads rest on: the price of dividing work, of waking, and of Python's lock.

A phase that computes for a known time stands for the kernels; the thresholds are those of the code. They leave room for
what isn't measured here: costs of kernels are estimates, and data move between the caches of cores.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import repeat
from statistics import median

import numpy as np

from benchmarks.measured import duration
from benchmarks.options import Options
from benchmarks.running import warn_if_busy
from benchmarks.table import Row
from graphc.runtime.cpu.driver import (
    MAX_TICKETS,
    PARALLEL_NS,
    SHORT_NS,
    TICKET_NS,
    WAKE_NS,
    Command,
    CommandList,
    Scratch,
    run,
)
from graphc.runtime.cpu.jit import Code, load
from graphc.runtime.cpu.pool import SPIN_NS, Pool

COMMANDS = 200  # of a list: the call of the list itself doesn't count
WORK_NS = [PARALLEL_NS * factor // 4 for factor in (1, 2, 4, 8, 16)]  # on both sides of the threshold
OVERHEAD = 0.05  # of a ticket's work, which taking it may cost
STEPS = 1_000_000  # of work, timed to know what one takes
DIVIDED = 1_000_000  # a cost, in nanoseconds, at which a command is divided as far as its units allow
ASLEEP_S = 20 * SPIN_NS * 1e-9  # after which all threads sleep

PHASES = """
define i64 @work(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {  ; args[0] steps for each unit
entry:
  %each = load i64, ptr %args
  %units = sub i64 %high, %low
  %steps = mul i64 %units, %each
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %x = phi i64 [ %low, %entry ], [ %mixed, %body ]
  %more = icmp slt i64 %i, %steps
  br i1 %more, label %body, label %done
body:
  %shifted = lshr i64 %x, 7
  %folded = xor i64 %x, %shifted
  %mixed = mul i64 %folded, 6364136223846793005
  %next = add i64 %i, 1
  br label %loop
done:
  store i64 %x, ptr %scratch
  ret i64 0
}
define i64 @meet(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {  ; waits until args[0] threads are here
entry:
  %count = load ptr, ptr %table
  %wanted = load i64, ptr %args
  %before = atomicrmw add ptr %count, i64 1 seq_cst
  br label %loop
loop:
  %here = load atomic i64, ptr %count seq_cst, align 8
  %all = icmp sge i64 %here, %wanted
  br i1 %all, label %met, label %loop
met:
  ret i64 0
}
"""


@cache
def phases() -> Code:
    """The phases in memory."""
    return load([PHASES], [("work", "meet")])[0]


def command(phase: str, argument: int, units: int, cost_ns: int) -> Command:
    """A call of a phase, divided as a kernel of this cost would be."""
    return Command(phases().address(phase), np.array([argument], np.int64), units, cost_ns, phase)


def typical(rounds: int, commands: CommandList, pool: Pool | None = None, pause: float = 0.0) -> float:
    """Seconds of a run, the median of several, each after a pause of so many seconds."""
    count = np.zeros(1, np.int64)
    table = (ctypes.c_void_p * 1)(count.ctypes.data)
    scratch = Scratch(1 if pool is None else pool.threads, 8)
    seconds = []
    for _ in repeat(None, rounds):
        count[0] = 0
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        run(commands, ctypes.addressof(table), scratch, pool)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def at_most(what: str, seconds: float, limit_ns: float, name: str) -> Row:
    """A figure that a threshold wants to be no larger."""
    return Row(what, duration(seconds), f"<= {duration(limit_ns * 1e-9)}, {name}", seconds <= limit_ns * 1e-9)


def thresholds(options: Options) -> Iterator[Row]:
    """What was measured, and beside it the threshold that follows from it."""
    warn_if_busy()
    rounds = options.rounds
    with closing(Pool(options.threads)) as pool:
        if options.threads > 1:
            yield from dividing(rounds, pool)
            yield from waking(rounds, pool)
    yield from locking(rounds)


def dividing(rounds: int, pool: Pool) -> Iterator[Row]:
    """The price of a ticket, and from what work on two or more are faster than one thread."""
    few, many = (no_work(rounds, pool, tickets) for tickets in (2, MAX_TICKETS))
    yield Row("a command in two tickets, without work", duration(few), "", True)
    ticket = (many - few) / (MAX_TICKETS - 2)
    yield at_most("  each ticket more", ticket, OVERHEAD * TICKET_NS, f"{OVERHEAD:.0%} of TICKET_NS")
    step = seconds_of_a_step(rounds)
    for work in WORK_NS:
        units = max(2, work // TICKET_NS)
        each = round(work * 1e-9 / step / units)
        lists = [CommandList([command("work", each, units, cost)] * COMMANDS) for cost in (DIVIDED, 1)]
        divided, alone = (typical(rounds, commands, pool) for commands in lists)
        wanted = "<= 1x, from PARALLEL_NS on" if work >= PARALLEL_NS else ""
        ratio = divided / alone
        yield Row(f"{duration(work * 1e-9)} of work, divided", f"{ratio:.2f}x", wanted, not wanted or ratio <= 1)


def seconds_of_a_step(rounds: int) -> float:
    """Of those that `work` counts."""
    return typical(rounds, CommandList([command("work", STEPS, 1, 1)])) / STEPS


def no_work(rounds: int, pool: Pool, tickets: int) -> float:
    """Seconds that a command of so many tickets takes, none of which has anything to do."""
    return typical(rounds, CommandList([command("work", 0, tickets, DIVIDED)] * COMMANDS), pool) / COMMANDS


def waking(rounds: int, pool: Pool) -> Iterator[Row]:
    """How much later a thread comes that sleeps than one that spins."""
    both = CommandList([command("meet", 2, 2, DIVIDED)])
    awake = typical(rounds, both, pool)
    late = typical(rounds, both, pool, ASLEEP_S) - awake
    yield Row("two threads meet, both awake", duration(awake), "", True)
    yield at_most("  one asleep, later by", late, SPIN_NS, "SPIN_NS")
    yield at_most("  one asleep, later by", late, WAKE_NS, "WAKE_NS")


def locking(rounds: int) -> Iterator[Row]:
    """What a plan waits for that gives the interpreter's lock back while another thread of Python's computes.

    That one then keeps it for as long as Python lets it, `sys.getswitchinterval()`. Beside that, what others wait for a
    short plan is little.
    """
    each = round(SHORT_NS * 1e-9 / seconds_of_a_step(rounds))
    lists = [CommandList([command("work", each, 1, cost)]) for cost in (SHORT_NS - 1, SHORT_NS)]
    with busy_thread():
        kept, given = (typical(rounds, commands) for commands in lists)
    yield Row("a plan that keeps Python's lock", duration(kept), "", True)
    more, least = duration(given - kept), SHORT_NS * 1e-9
    yield Row("  that gives it back, longer by", more, f">= {duration(least)}, SHORT_NS", given - kept >= least)


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread of Python's that computes all the time."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
