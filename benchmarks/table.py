"""One table for all benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One measured figure, what is wanted, and whether it was reached."""

    what: str
    measured: str
    wanted: str
    reached: bool


def show(rows: Iterable[Row]) -> bool:
    """Print rows as they come; whether all wanted figures were reached."""
    everything = True
    for row in rows:
        mark = "" if not row.wanted else "  ok" if row.reached else "  MISSED"
        print(f"{row.what:44s} {row.measured:>18s}   {row.wanted}{mark}", flush=True)
        everything &= row.reached
    return everything
