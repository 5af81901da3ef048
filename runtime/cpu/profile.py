"""Time stamps from inside a run: the same commands, cut and shared out in the same way, each call of a phase timed.

A timed command calls a function that reads the processor's clock, calls the phase, reads the clock again, and writes
both to a log, with the memory of the worker, which tells who it was. That adds some 25 nanoseconds to a call.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from graphc.op import Array
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.driver import (
    ADDRESS,
    ARGS,
    COMMAND_BYTES,
    COMMANDS,
    FIRST,
    PAGE,
    TICKETS,
    CommandList,
    Scratch,
    Threads,
    run,
)
from graphc.runtime.cpu.fields import Fields, call
from graphc.runtime.cpu.host import Host, this_host
from graphc.runtime.cpu.jit import Code, load
from graphc.runtime.cpu.phases import PARAMETERS
from graphc.runtime.cpu.values import I64, PTR, Value, constant
from graphc.runtime.pages import aligned_memory
from graphc.runtime.profile import Recorder, Span

# What a timed command takes as `args`: the phase, what that takes, the log, and the command's number. Byte offsets.
PHASE, INNER, LOG, NUMBER = range(0, 32, 8)
ARGS_BYTES = 32

# A log: how many records there are, and the records: command, ticks before and after, and the worker's memory.
RECORDS = 64
RECORD = ("command", "start", "end", "scratch")
RECORD_BYTES = 8 * len(RECORD)

CLOCKS = {"x86_64": "readcyclecounter"}  # elsewhere a counter of steady rate; where that is missing it says 0
CALIBRATION_S = 0.005
READINGS = 5  # of both clocks, of which the two that are closest count


def assembly(host: Host) -> str:
    """`timed`, a phase that times another, and `i64 ticks()`, the clock."""
    module = Module()
    f = module.function("timed", PARAMETERS, I64)
    table, args, low, high, scratch = (f.parameter(k) for k in range(5))
    given = Fields(f, args)
    phase, inner, log = (f.in_entry(partial(given.load, PTR, offset)) for offset in (PHASE, INNER, LOG))
    start = _ticks(f, host)
    failed = call(f, phase, table, inner, low, high, scratch)
    end = _ticks(f, host)
    number = Fields(f, log).update("add", constant(I64, 1), 0)
    record = f.address(f.address(log, RECORDS, "i8"), f.mul(number, RECORD_BYTES), "i8")
    worker = f.emit(I64, f"ptrtoint ptr {scratch.text} to i64")
    for k, value in enumerate((given.load(I64, NUMBER), start, end, worker)):
        f.store(value, f.address(record, 8 * k, "i8"), 8)
    f.ret(failed)
    f = module.function("ticks", (), I64)
    f.ret(_ticks(f, host))
    return module.text()


def _ticks(f: Function, host: Host) -> Value:
    name = f"llvm.{CLOCKS.get(host.triple.split('-')[0], 'readsteadycounter')}"
    f.module.declare(name, I64, [])
    return f.emit(I64, f"call i64 @{name}()")


class Clock(NamedTuple):
    """The processor's clock, in terms of `time.perf_counter_ns`.

    Attributes:
        code: keeps `timed` in memory, which is at the address `timed`.
        ns: of a tick.
    """

    code: Code
    timed: int
    ticks: Callable[[], int]
    ns: float

    def now(self) -> tuple[int, int]:
        """Ticks and nanoseconds of the same moment, nearly."""
        found = []
        for _ in range(READINGS):
            before, ticks, after = time.perf_counter_ns(), self.ticks(), time.perf_counter_ns()
            found.append((after - before, ticks, (before + after) // 2))
        _, ticks, ns = min(found)
        return ticks, ns


@cache
def clock() -> Clock:
    """The clock, held against that of Python once in a process."""
    code = load([assembly(this_host())], [["timed", "ticks"]])[0]
    found = Clock(code, code.address("timed"), ctypes.PYFUNCTYPE(ctypes.c_int64)(code.address("ticks")), 1.0)
    ticks, ns = found.now()
    time.sleep(CALIBRATION_S)
    later_ticks, later_ns = found.now()
    return found._replace(ns=(later_ns - ns) / max(1, later_ticks - ticks))


class Timed(CommandList):
    """The commands of a list, timed, for one run."""

    def __init__(self, commands: CommandList) -> None:
        self.names, self.short, self.parallel = commands.names, commands.short, commands.parallel
        self.clock = clock()
        count = len(commands)
        head = COMMANDS + COMMAND_BYTES * count
        plan = np.ctypeslib.as_array((ctypes.c_int64 * (head // 8)).from_address(commands.address))
        tickets = plan[COMMANDS // 8 :].reshape(-1, COMMAND_BYTES // 8)[:, TICKETS // 8]
        log = head + ARGS_BYTES * count
        log += -log % RECORDS
        records = int(np.maximum(tickets, 1).sum())
        self._memory = aligned_memory(log + RECORDS + RECORD_BYTES * records)
        self._commands = commands  # whose `args` are used
        self.address = self._memory.ctypes.data
        words = self._memory.view(np.int64)
        words[: head // 8] = plan
        words[log // 8] = 0
        rows = words[COMMANDS // 8 : head // 8].reshape(-1, COMMAND_BYTES // 8)
        args = words[head // 8 : (head + ARGS_BYTES * count) // 8].reshape(-1, ARGS_BYTES // 8)
        args[:, PHASE // 8], args[:, INNER // 8] = rows[:, ADDRESS // 8], rows[:, ARGS // 8]
        args[:, LOG // 8], args[:, NUMBER // 8] = self.address + log, np.arange(count)
        rows[:, ADDRESS // 8] = self.clock.timed
        rows[:, ARGS // 8] = self.address + head + ARGS_BYTES * np.arange(count)
        self._log = words[log // 8 :]
        self._now = self.clock.now()

    def calls(self, scratch: Scratch) -> list[Call]:
        """What ran, in the order in which it began, since this was made.

        Args:
            scratch: with which it was run; at least a page for each worker.
        """
        stride = int(scratch.memory[:8].view(np.int64)[0])
        count = int(self._log[0])
        records = self._log[RECORDS // 8 :][: len(RECORD) * count].reshape(-1, len(RECORD)).copy()
        ticks, ns = self._now
        records[:, 1:3] = np.round((records[:, 1:3] - ticks) * self.clock.ns).astype(np.int64) + ns
        records[:, 3] = (records[:, 3] - scratch.address - FIRST) // stride
        return list(_joined(records[np.lexsort((records[:, 1], records[:, 3], records[:, 0]))]))


class Call(NamedTuple):
    """A command on one thread, in nanoseconds of `time.perf_counter_ns`: all the tickets that it took.

    Attributes:
        worker: 0 is the thread that runs the plan.
    """

    command: int
    worker: int
    start: int
    end: int
    tickets: int


def _joined(records: Array) -> Iterator[Call]:
    """Records, by command and worker and start, as calls."""
    groups = np.flatnonzero(np.any(np.diff(records[:, [0, 3]], axis=0, prepend=-1) != 0, axis=1))
    parts: Sequence[Array] = np.split(records, groups[1:]) if len(records) else []
    for part in parts:
        command, start, _, worker = map(int, part[0])
        yield Call(command, worker, start, int(part[-1][2]), len(part))


def run_recorded(
    commands: CommandList, table: int, scratch_bytes: int, pool: Threads, steps: Sequence[int], recorder: Recorder
) -> int:
    """Run commands as `driver.run` does, and tell the recorder when each was run by whom.

    Args:
        steps: of each command the number of its step; commands beyond those belong to none.

    Returns:
        See `driver.run`.
    """
    timed = Timed(commands)
    # Memory of its own: entries that are bound to the session's must find that where it is.
    scratch = Scratch(pool.threads, max(scratch_bytes, PAGE))
    scratch.memory[FIRST:] = 0  # lest the first kernels wait for the system's pages
    recorder.skip()
    failed = run(timed, table, scratch, pool)
    recorder.did_all(lambda: _spans(timed.calls(scratch), steps))
    return failed


def _spans(calls: Iterable[Call], steps: Sequence[int]) -> Iterator[Span]:
    first = {step: len(steps) - k for k, step in enumerate(reversed(steps), 1)}  # command of each step
    for command, worker, start, end, tickets in calls:
        if command >= len(steps):
            yield Span("store variables", start, end, worker)
        else:
            step = steps[command]
            yield Span("", start, end, worker, step, command - first[step], tickets)
