"""`python -m benchmarks [name ...]`: run the named benchmarks, or all, and print what was measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks import building, compile, eager, gpu, load, memory, ops, peers, threads
from benchmarks.op_cases import CASES
from benchmarks.options import Options
from benchmarks.systems import OWN, SYSTEMS
from benchmarks.table import Row, show
from benchmarks.workloads import EAGER, GPU, WORKLOADS

Benchmark = Callable[[Options], bool]


def shown(rows: Callable[[Options], Iterable[Row]]) -> Benchmark:
    """A benchmark that prints rows."""
    return lambda options: show(rows(options))


BENCHMARKS: dict[str, Benchmark] = {
    "build": shown(lambda options: building.build()),
    "scale": shown(lambda options: building.scale()),
    "loop": shown(lambda options: building.loop()),
    "compile": shown(compile.first_steps),
    "peers": peers.compare,
    "ops": ops.compare,
    "memory": shown(memory.peaks),
    "load": shown(load.percentiles),
    "threads": shown(threads.thresholds),
    "eager": shown(eager.compare),
    "gpu": gpu.compare,
}
BY_DEFAULT = ("build", "scale", "loop", "compile", "peers", "eager")


def parsed(arguments: list[str]) -> tuple[list[str], Options]:
    """Names of benchmarks, and the options."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--only", default="", help=f"workloads of `peers` ({', '.join(WORKLOADS)}) or ops, with commas")
    listed = ", ".join(name for name in SYSTEMS if name not in OWN)  # torch, torch.compile and jax know GPUs
    parser.add_argument("--systems", default="", help=f"peers to measure: {listed}; `none` for graphc alone")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="turns of each system")
    parser.add_argument("--turn", type=float, default=default.turn, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=default.threads, help="threads of each system")
    parser.add_argument("--python", default=default.python, help="the interpreter that has the peers")
    parser.add_argument("--json", help="write all figures of `peers` or `ops` to this file")
    parser.add_argument("--charts", metavar="DIR", help="draw the figures of `peers` there; needs matplotlib")
    given = vars(parser.parse_args(arguments))
    names = given.pop("names") or list(BY_DEFAULT)
    lists = {key: tuple(filter(None, given[key].split(","))) for key in ("only", "systems")}
    known: dict[str, tuple[Iterable[str], Mapping[str, Any]]] = {
        "benchmark": (names, BENCHMARKS),
        "peer": (lists["systems"], {**SYSTEMS, "none": None}),
        "workload or op": (lists["only"], {**WORKLOADS, **EAGER, **GPU, **CASES}),
    }
    for what, (asked, there) in known.items():
        unknown = [name for name in asked if name not in there]
        if unknown:
            parser.error(f"no {what} named {', '.join(unknown)}; there are {', '.join(there)}")
    return names, Options(**{**given, **lists})


def main(arguments: list[str]) -> int:
    """Exit status: 0 if all wanted figures were reached, 1 if one was missed, 2 for a wrong argument."""
    names, options = parsed(arguments)
    reached = [BENCHMARKS[name](options) for name in names]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
