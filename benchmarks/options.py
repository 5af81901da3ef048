"""What a run of the benchmarks can be told."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).parent.parent / ".venv-peers" / "bin" / "python"  # what `make bench-peers` makes


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
        only: names of workloads or ops; all by default.
        systems: names of peers; all by default. graphc takes part always.
        rounds: how often each system has its turn.
        turn: how long a turn lasts, in seconds.
        threads: how many threads each system may use.
        python: the interpreter that has the peers.
        json: a file for all figures.
        charts: a folder for charts of the comparison.
    """

    only: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    rounds: int = 15
    turn: float = 0.2
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    python: str = str(PEERS if PEERS.exists() else sys.executable)
    json: str | None = None
    charts: str | None = None

    def wants(self, name: str) -> bool:
        """Whether a workload or op is to be measured."""
        return not self.only or name in self.only
