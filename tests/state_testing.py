"""What the tests of the rules of run time share."""

from __future__ import annotations

import gc as collector
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.op import NoGradient
from graphc.operands import primitive

PATIENT_S = 600  # until a process or thread that hangs is told, however busy the machine is
RUNTIME = Path(sys.modules["graphc.runtime.session"].__file__).parent  # where the session lies


def variable(value: Any, name: str = "w", **options: Any) -> gc.Variable:
    return gc.Variable(np.asarray(value, "float32"), name=name, **options)


def user_op(function: Any, kind: str = "opaque") -> Any:
    """An op of one operand whose value a Python function computes."""
    return primitive("user_op", lambda x: x, function, NoGradient("it is a Python function"), kind)


class Interrupt:
    """Raises KeyboardInterrupt at one step of what runs inside the block: before a line or, finer, an instruction.

    Args:
        at: the number of the step, from 0.
        files: where steps are counted.
        opcodes: whether instructions are counted instead of lines.

    `reached` tells whether there were that many steps. The collector rests meanwhile: it may run code at any step, and
    Python drops an interrupt that comes there.
    """

    def __init__(self, at: int, files: frozenset[str], *, opcodes: bool = False) -> None:
        self.left = at
        self.files = files
        self.event = "opcode" if opcodes else "line"
        self.reached = False

    def __enter__(self) -> Interrupt:
        self.before = sys.gettrace()
        self.collecting = collector.isenabled()
        collector.disable()
        sys.settrace(self._called)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self.before)
        if self.collecting:
            collector.enable()

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = self.event == "opcode"
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == self.event and not self.reached:
            if self.left == 0:
                self.reached = True
                raise KeyboardInterrupt
            self.left -= 1
        return self._stepped


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs in a thread of its own.

    Where a trace function raises before some instructions, CPython doesn't notice the end of an `except`. That error
    stays the one which the thread handles, and would be the context of all that later tests raise.
    """

    @wraps(test)
    def alone(*args: Any, **kwargs: Any) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(test, *args, **kwargs).result()

    return alone


def output_of(script: str, **environment: str) -> str:
    """What a script prints in a Python process of its own, which must end well and say nothing else."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


class Picky(namedtuple("Pair", "first second")):
    """A named tuple that can't be made of small numbers."""

    def __new__(cls, first, second):
        if isinstance(first, np.ndarray) and first.sum() < 100:
            raise ArithmeticError("too small")
        return super().__new__(cls, first, second)


def check_that_a_failing_form_changes_nothing(session):
    """Results that the user's own class refuses fail the run, as often as it is tried; variables keep their values."""
    w = variable([1, 2])
    bump = w.assign(w * 10)
    for _ in range(3):
        with pytest.raises(ArithmeticError):
            session.run(Picky(bump[w], bump))
        assert session[w].tolist() == [1, 2]
    session.run(bump)
    for _ in range(3):
        with pytest.raises(ArithmeticError):
            session.run(Picky(bump[w] - 200, bump))
        assert session[w].tolist() == [10, 20]
    assert session.run(Picky(bump[w], bump)).second is None and session[w].tolist() == [100, 200]
    session.run(bump)
    assert session[w].tolist() == [1000, 2000]
