"""Every op of graphc, forward and with its gradient, at three sizes, against torch eager: the worst ratio first.

Both run in processes of their own and take turns at each op. A gradient that torch returns as a view of what it starts
from, or that is the same tensor, is copied there, since a result of graphc is an array of the caller's own; the time
without that copy is printed beside it.

Most ops are far from the limit, and a few turns show it. Those that are near it or beyond take all the turns of the
options, and the medians are of all of them: so it isn't chance that decides. They are prepared anew every few turns,
by both systems: where the arrays come to lie in memory is chance, too, and stays until then.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.measured import duration
from benchmarks.op_cases import RANDOM, SHOWN, VIEWS, WITH_VIEWS, labels
from benchmarks.options import Options
from benchmarks.peers import AGREEMENT
from benchmarks.running import Worker, WorkerError, warn_if_busy

LIMIT = 1.2  # times torch's
NEAR = 1.05  # times torch's: ops that take longer have all rounds of the options
ROUNDS = 5  # of the others
TURN = 0.1  # of the turn of a whole workload
PAUSE = 0.02  # seconds between turns: torch's threads spin for a few milliseconds when they are done


class Sample(NamedTuple):
    """Medians of an op at a size, in seconds, and whether both computed the same.

    Attributes:
        views: of torch, where it returns views as they are; None where it returns none.
    """

    name: str
    ours: float
    theirs: float
    same: bool
    views: float | None = None

    @property
    def ratio(self) -> float:
        """How many times torch's time graphc takes."""
        return self.ours / self.theirs

    @property
    def good(self) -> bool:
        """Whether it is within the limit, and right."""
        return self.same and self.ratio <= LIMIT


def compare(options: Options) -> bool:
    """Print the table; whether no op is beyond the limit or differs."""
    warn_if_busy()
    samples: list[Sample] = []
    failures: dict[str, str] = {}
    with Worker("graphc ops", options) as ours, Worker("torch ops", options) as theirs:
        try:
            for worker in (ours, theirs):
                worker.answer()
        except WorkerError as failure:
            print(f"the ops aren't compared: {failure}")
            return False
        for name in labels(options.only):
            try:
                samples.append(sampled_op(name, (ours, theirs), options))
            except WorkerError as failure:
                failures[name] = str(failure)
    show(samples, failures)
    if options.json:
        rows = [{**sample._asdict(), "ratio": sample.ratio} for sample in samples]
        Path(options.json).write_text(json.dumps({"ops": rows, "failures": failures}, indent=1), encoding="utf-8")
    return not failures and all(sample.good for sample in samples)


def sampled_op(name: str, workers: tuple[Worker, Worker], options: Options) -> Sample:
    """What `sampled` finds of an op at a size, and what torch takes if it may return views."""
    found, (op, level, direction) = sampled(name, workers, options), name.split("/")
    if direction != "gradient" or op not in WITH_VIEWS:
        return found
    return found._replace(views=alone(f"{op}/{level}/{VIEWS}", workers[1], options))


def sampled(name: str, workers: tuple[Worker, Worker], options: Options) -> Sample:
    """Both prepare what has this name and take turns: again and again where the first turns are near the limit.

    Raises:
        WorkerError: one of them can't.
    """
    values: list[np.ndarray] = []
    steps: list[int] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(options.rounds):
        if number == ROUNDS and median(seconds[0]) < NEAR * median(seconds[1]):
            break
        if number % ROUNDS == 0:
            values, steps = map(list, zip(*[prepared(name, worker, options) for worker in workers], strict=True))
        for worker, count, found in zip(workers, steps, seconds, strict=True):
            time.sleep(PAUSE)
            found.append(worker.ask("time", steps=count, turn=options.turn)["seconds"])
    is_random = name.split("/")[0] in RANDOM
    return Sample(name, median(seconds[0]), median(seconds[1]), is_random or agree(*values))


def prepared(name: str, worker: Worker, options: Options) -> tuple[np.ndarray, int]:
    """Have a system prepare what has this name: values of the first steps, and how many steps a turn shall have."""
    worker.ask("prepare", workload=name)
    values = np.array(worker.ask("values")["values"])
    return values, worker.ask("time", steps=0, turn=options.turn * TURN)["steps"]


def alone(name: str, worker: Worker, options: Options) -> float:
    """The median of a system that takes no turns, in seconds."""
    _, steps = prepared(name, worker, options)
    rounds = min(ROUNDS, options.rounds)
    return median([worker.ask("time", steps=steps, turn=options.turn)["seconds"] for _ in range(rounds)])


def agree(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether values are equal up to rounding, relative to the largest."""
    if ours.shape != theirs.shape:
        return False
    return bool(np.all(np.abs(ours - theirs) <= AGREEMENT * np.abs(theirs).max(initial=0)))


def show(samples: list[Sample], failures: dict[str, str]) -> None:
    """The table, worst first, then what failed, then how many are beyond the limit."""
    print(f"{'op':30s} {'direction':10s} {'size':>5s} {'graphc':>10s} {'torch':>10s} {'ratio':>8s}")
    for sample in sorted(samples, key=lambda sample: -sample.ratio):
        op, level, direction = sample.name.split("/")
        times = f"{duration(sample.ours):>10s} {duration(sample.theirs):>10s} {sample.ratio:7.2f}x"
        notes = "" if sample.same else "  DIFFERENT"
        if sample.views is not None:
            notes += f"  ({sample.ours / sample.views:.2f}x of {duration(sample.views)}, where torch returns views)"
        print(f"{op:30s} {direction:10s} {SHOWN[int(level)]:>5s} {times}{notes}")
    for name, why in failures.items():
        print(f"{name}: failed: {why}")
    viewed = [sample.ours / sample.views for sample in samples if sample.views is not None]
    if viewed:
        worse = sum(ratio > LIMIT for ratio in viewed)
        print("gradients that torch returns as views of what it starts from are copied, as graphc's are the caller's;")
        print(f"{worse} of these {len(viewed)} are beyond {LIMIT}x of torch's time without that copy, in brackets")
    beyond = sum(not sample.good for sample in samples) + len(failures)
    print(f"{len(samples)} measured, {beyond} beyond {LIMIT}x, different or failed", flush=True)
