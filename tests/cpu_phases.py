"""Phases to run the driver with: each shows something of how it was called."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache

import numpy as np

from graphc.op import Array
from graphc.runtime.cpu.driver import Command, CommandList, Scratch, Threads, run
from graphc.runtime.cpu.jit import Code, load

PATIENCE = 10**11  # rounds that a phase waits for something before it fails: most of a minute, lest others' load decide

# The first entries of the table are addresses of int64 arrays; `args` has the argument of each phase.
PHASES = f"""
define i64 @count(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {{  ; adds 1 to units of table[0]
entry:
  %y = load ptr, ptr %table
  br label %loop
loop:
  %i = phi i64 [ %low, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %high
  br i1 %more, label %body, label %done
body:
  %at = getelementptr i64, ptr %y, i64 %i
  %old = load i64, ptr %at
  %new = add i64 %old, 1
  store i64 %new, ptr %at
  %next = add i64 %i, 1
  br label %loop
done:
  ret i64 0
}}
define i64 @note(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {{  ; appends args[0] to table[0]
  %y = load ptr, ptr %table
  %old = load i64, ptr %y
  %new = add i64 %old, 1
  store i64 %new, ptr %y
  %at = getelementptr i64, ptr %y, i64 %new
  %it = load i64, ptr %args
  store i64 %it, ptr %at
  ret i64 0
}}
define i64 @fail(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {{  ; fails if args[0] is among its units
  %unit = load i64, ptr %args
  %below = icmp sge i64 %unit, %low
  %above = icmp slt i64 %unit, %high
  %here = and i1 %below, %above
  %failed = zext i1 %here to i64
  ret i64 %failed
}}
define i64 @own(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {{  ; the address of its scratch, by unit
  %y = load ptr, ptr %table
  %at = getelementptr i64, ptr %y, i64 %low
  %address = ptrtoint ptr %scratch to i64
  store i64 %address, ptr %at
  ret i64 0
}}
define i64 @meet(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {{  ; waits until args[0] have come here
entry:
  %y = load ptr, ptr %table
  %wanted = load i64, ptr %args
  %before = atomicrmw add ptr %y, i64 1 seq_cst
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %here = load atomic i64, ptr %y seq_cst, align 8
  %all = icmp sge i64 %here, %wanted
  br i1 %all, label %met, label %again
again:
  %next = add i64 %i, 1
  %late = icmp sgt i64 %i, {PATIENCE}
  br i1 %late, label %lonely, label %loop
met:
  ret i64 0
lonely:
  ret i64 1
}}
define i64 @meet_own(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch) {{  ; meets, then as `own` from unit 1 on
  %failed = call i64 @meet(ptr %table, ptr %args, i64 %low, i64 %high, ptr %scratch)
  %after = add i64 %low, 1
  %own = call i64 @own(ptr %table, ptr %args, i64 %after, i64 %high, ptr %scratch)
  ret i64 %failed
}}
"""
SYMBOLS = ("count", "note", "fail", "own", "meet", "meet_own")
COSTLY = 1_000_000  # nanoseconds: a phase that is divided as far as it can be


@cache
def phases() -> Code:
    return load([PHASES], [SYMBOLS])[0]


def command(phase: str, *args: int, units: int = 1, cost: int = 1) -> Command:
    return Command(phases().address(phase), np.array(args, np.int64), units, cost, phase)


def helpers() -> set[threading.Thread]:
    """The threads of all pools; not those that compile and link, which come and end by themselves."""
    return {thread for thread in threading.enumerate() if thread.name.removeprefix("graphc-").isdigit()}


def ran(
    commands: Sequence[Command] | CommandList, y: Array, pool: Threads | None = None, scratch: Scratch | None = None
) -> int:
    """What a run of these commands on `y` returns."""
    listed = commands if isinstance(commands, CommandList) else CommandList(commands)
    table = (ctypes.c_void_p * 1)(y.ctypes.data)
    scratch = scratch or Scratch(1 if pool is None else pool.threads)
    return run(listed, ctypes.addressof(table), scratch, pool)
