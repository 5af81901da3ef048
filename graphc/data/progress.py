"""A progress bar where one can be seen."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print a line; a bar that is being shown stays below it."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line)
    else:
        print(line, flush=True)


def progress(iterable: Iterable[Item], desc: str = "") -> Iterable[Item]:
    """The same items, under tqdm's bar called `desc` if tqdm is installed and stderr is a terminal."""
    if not sys.stderr.isatty():
        return iterable
    try:
        from tqdm import tqdm
    except ImportError:
        return iterable
    bar: Iterable[Item] = tqdm(iterable, desc=desc)
    return bar
