"""What tests of messages share: programs that are wrong in one line, and what every message must satisfy."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import graphc as gc
from graphc.errors import MAX_LINES

MARK = "# <-"  # in the line of a program that its error must name

# The files of graphc itself, none of which may appear in a message.
INTERNAL = {
    path.name
    for folder in ("graphc", "passes", "runtime", "exporters")
    for path in (Path(__file__).parent.parent / folder).rglob("*.py")
}


class Program(NamedTuple):
    """A program that is wrong in its marked line: the class of its error, and what the message says."""

    run: Callable[[], object]
    kind: type[gc.GraphcError]
    says: tuple[str, ...]

    @property
    def place(self) -> str:
        """`file.py:12`, the marked line."""
        lines, first = inspect.getsourcelines(self.run)
        marked = [first + k for k, line in enumerate(lines) if MARK in line]
        assert len(marked) == 1, f"{self.run.__name__} must mark one line with {MARK}"
        return f"{Path(inspect.getsourcefile(self.run) or '').name}:{marked[0]}"


class Programs:
    """A table of wrong programs: `@broken(kind, *says)` adds one."""

    def __init__(self) -> None:
        self.table: list[Program] = []

    def __call__(self, kind: type[gc.GraphcError], *says: str) -> Callable[[Callable[[], object]], None]:
        return lambda run: self.table.append(Program(run, kind, says))

    @property
    def each(self) -> pytest.MarkDecorator:
        """Run a test for every program."""
        return pytest.mark.parametrize("program", [pytest.param(p, id=p.run.__name__) for p in self.table])


def message_of(program: Program) -> str:
    """What a program's error says, after the checks that hold for every message."""
    with gc.Graph(), pytest.raises(gc.GraphcError) as caught:
        program.run()
    assert type(caught.value) is program.kind
    text = str(caught.value)
    check_form(text)
    return text


def check_form(text: str) -> None:
    """A message is short, and says nothing of graphc's own files."""
    assert 0 < len(text.splitlines()) <= MAX_LINES < 15
    named = set(re.findall(r"(?<![\w])[\w.]+\.py(?=:\d)", text))
    assert not named & INTERNAL
    assert "Traceback" not in text and "site-packages" not in text


def check(program: Program) -> None:
    """The message of a program says what it must, and names the marked line."""
    text = message_of(program)
    assert [word for word in program.says if word not in text] == [], text
    assert re.search(rf"{re.escape(program.place)}\b", text), text
