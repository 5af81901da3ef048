"""`gc.ledger`: what compiling buys, and what it costs: eager against static, technique by technique.

One model is run in many ways, turn by turn, so that a machine that is busy with something else slows all of them alike:
eagerly; compiled with everything switched off; with one technique after the other switched on, in a fixed order; and in
full but for one technique. Whatever the way, the results must be equal.
"""

from __future__ import annotations

import math
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from graphc.eager.counting import counted
from graphc.errors import ArgumentError, InternalError
from graphc.ir import current_graph
from graphc.ledger_report import Ledger, Measured
from graphc.op import Array
from graphc.passes import fold, rules, rules_logic, rules_shape
from graphc.passes.pipeline import COMMUTE
from graphc.passes.rewrite import rules_of
from graphc.plan import Plan
from graphc.runtime.cache import cache_info
from graphc.runtime.cpu.host import available_threads
from graphc.runtime.devices import FALLBACK, SWITCHES
from graphc.runtime.feeds import convert_feeds, feeds_given, resolve_feeds
from graphc.runtime.session import Session
from graphc.runtime.structure import flatten

CHECKED = 3  # first steps whose results are compared
TURN = 0.0005  # seconds
WARM = 3  # calls before the first that is timed: an entry is bound after two
MADE = frozenset({"arena", "result", "update"})  # roles of buffers that a step fills

BASE, STAGE, WITHOUT = ("base", 0), "stage", "without"  # keys of the ways; all others are pairs with a number
Step = Callable[[], Any]


class Technique(NamedTuple):
    """What can be switched off.

    Attributes:
        about: what it does, in a few words.
        disable: see `Session`.
        serial: whether one thread, too, is part of doing without.
    """

    name: str
    about: str
    disable: tuple[str, ...] = ()
    serial: bool = False


SIMPLIFY = ("inline", COMMUTE, *[rule.name for rule in rules_of(rules, rules_logic, rules_shape)])

# In the order in which the waterfall switches them on. What plans and targets can be told to do without has a line here
# or gets one with the name of its switch.
IN_ORDER: tuple[Technique, ...] = (
    Technique("folding", "constants are computed once", tuple([rule.name for rule in rules_of(fold)])),
    Technique("simplification", "algebra, and equal values computed once", SIMPLIFY),
    Technique("stabilisation", "log(softmax) and its like in one", ("stabilise",)),
    Technique("fusion", "several ops in one kernel", ("fuse",)),
    # On a GPU its libraries' products and convolutions belong here; there is no line that says nothing about a CPU.
    Technique(
        "epilogues", "products and convolutions go on computing", ("epilogues", "prologues", "cudnn", "cublaslt")
    ),
    Technique("rows", "kernels that pass several times over a row", ("rows",)),
    Technique("rematerialisation", "light ops computed again where they are read", ("rematerialise",)),
    Technique("schedule", "an order that needs little memory", ("schedule",)),
    Technique("in place", "results that take over the bytes of operands", ("in_place",)),
    Technique("arena", "temporaries that share bytes", ("arena",)),
    # The layout serves those convolutions only whose weights are kept like that.
    Technique("packed copies", "what is derived from weights, kept while they stay the same", ("prepared", "layout")),
    Technique("command list", "one call of native code for all kernels", ("commands",)),
    Technique("entry", "runs that come again without Python, or as a graph of the GPU", ("entry", "capture")),
)
UNNAMED = sorted(SWITCHES.difference(*[technique.disable for technique in IN_ORDER]))
TECHNIQUES: tuple[Technique, ...] = (
    *IN_ORDER,
    *[Technique(switch.replace("_", " "), "a switch of plans or targets", (switch,)) for switch in UNNAMED],
    Technique("threads", "kernels that are divided among threads", serial=True),
)


def ledger(
    fetches: Any,
    feeds: Mapping[Any, Any] | None = None,
    *,
    eager: Callable[..., Any] | None = None,
    training: bool | None = None,
    seed: int = 0,
    threads: int | None = None,
    rounds: int = 31,
    turn: float = TURN,
    tolerance: float = 1e-4,
) -> Ledger:
    """Measure what compiling buys for one model, and what it costs.

    Args:
        fetches, feeds, training: as for `Session.run`. Each way begins with the same variables, and all take the same
            first steps.
        eager: the same step, written eagerly, from the same weights: a function of the values of `feeds`, in order,
            that returns what is fetched (of tensors; updates have no value). Where it is missing, static ways are
            compared with NumPy, op by op.
        seed, threads: see `Session`.
        rounds: how many turns each way has.
        turn: seconds that a turn lasts, at least. Many turns that are shorter than an operating system's slices of time
            give steadier medians than a few long ones: what else the machine does spoils some of them only.
        tolerance: by how much results may differ, in parts of the largest value, or of 1 where that is larger.

    Raises:
        ArgumentError: an argument that can't be, or `eager` computes something else.
        InternalError: a technique changes results by more than `tolerance`. What `Session.run` raises.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ArgumentError(f"rounds must be a positive int, got {rounds!r}")
    model = _Model(fetches, feeds, training, seed, threads)
    ways = {BASE: model.by_numpy() if eager is None else _eager(eager, model.values)}
    try:
        ways |= {(STAGE, k): way for k, way in enumerate(model.stages())}
        ways |= {(WITHOUT, k): model.way(technique.name, [technique]) for k, technique in enumerate(TECHNIQUES)}
        full = ways[STAGE, len(TECHNIQUES)]
        _check(ways.values(), full, tolerance)
        seconds = interleaved({key: way.step for key, way in ways.items()}, rounds, turn)
        found = {key: way.measured(seconds[key]) for key, way in ways.items()}
    finally:
        for way in ways.values():
            way.close()
    return Ledger(
        device=model.device,
        threads=model.threads,
        base=found[BASE],
        stages=tuple([found[key] for key in found if key[0] == STAGE]),
        without=tuple([found[key] for key in found if key[0] == WITHOUT]),
        written=model.written,
        compile_seconds=model.compile_seconds,
        found=model.found,
    )


# ------------------------------------------------------------------------------------------- the ways


class _Facts(NamedTuple):
    """What doesn't depend on the machine's mood; see `Measured`."""

    kernels: int | None
    nodes: int | None
    allocated: int | None
    peak: int


class _Way(NamedTuple):
    """One way to run the model: a step, what is known of it, and what ends it."""

    name: str
    step: Step
    facts: Callable[[], _Facts]
    close: Callable[[], None]

    def measured(self, seconds: Sequence[float]) -> Measured:
        """All about it; takes a step or two."""
        return Measured(self.name, tuple(seconds), _calls(self.step), *self.facts())


class _Model:
    """A request with its feeds, compiled once to see how long that takes; and the static ways to run it.

    Attributes:
        values: of the feeds, in order.
        device, threads: of the full compiler.
        written, compile_seconds, found: see `Ledger`.
    """

    def __init__(
        self, fetches: Any, feeds: Mapping[Any, Any] | None, training: bool | None, seed: int, threads: int | None
    ) -> None:
        self._fetches = fetches
        self._training = training
        self._seed = seed
        before = cache_info()
        with Session(seed=seed, threads=threads) as session:
            started = time.perf_counter()
            step = session.compile(fetches, list(feeds_given(feeds)), training=training)
            self.compile_seconds = time.perf_counter() - started
            given = resolve_feeds(feeds_given(feeds).items(), session.graph or current_graph())
            arrays, _ = convert_feeds(given)
            self._keys = list(given)
            self.values = [np.ascontiguousarray(arrays[key]) for key in given]
            started = time.perf_counter()
            step(*self.values)
            self.compile_seconds += time.perf_counter() - started
            after = cache_info()
            self.device = session.device
            self.threads = threads or available_threads()
            plan = session.plan(fetches, self._feeds, training=training)
        self.written = len(plan.written.nodes()) if plan.written is not None else 0
        hits, misses = after.hits - before.hits, after.misses - before.misses
        self.found = hits / (hits + misses) if hits + misses else 1.0

    @property
    def _feeds(self) -> dict[Any, Array]:
        return dict(zip(self._keys, self.values, strict=True))

    def stages(self) -> Iterable[_Way]:
        """Compiled with nothing switched on, and then with one technique more each time."""
        names = ("compiled ahead", *[technique.name for technique in TECHNIQUES])
        for k, name in enumerate(names):
            yield self.way(name, TECHNIQUES[k:])

    def way(self, name: str, off: Sequence[Technique]) -> _Way:
        """The full compiler without some techniques."""
        disable = tuple(dict.fromkeys([switch for technique in off for switch in technique.disable]))
        threads = 1 if any(technique.serial for technique in off) else self.threads
        session = Session(device=self.device, seed=self._seed, threads=threads, disable=disable)
        return _Way(name, self._step(session), lambda: _of_plan(self._plan(session)), session.close)

    def by_numpy(self) -> _Way:
        """The program as it was written, each op by NumPy."""
        session = Session(device=FALLBACK, seed=self._seed)

        def facts() -> _Facts:
            profile = session.profile(self._fetches, self._feeds, runs=1, training=self._training)
            return _Facts(len(profile.kernels), self.written, None, max(profile.live, default=0))

        return _Way("NumPy, op by op", self._step(session), facts, session.close)

    def _step(self, session: Session) -> Step:
        return partial(session.compile(self._fetches, self._keys, training=self._training), *self.values)

    def _plan(self, session: Session) -> Plan:
        return session.plan(self._fetches, self._feeds, training=self._training)


def _of_plan(plan: Plan) -> _Facts:
    """Temporaries, results, and new values of variables that don't take over the bytes of the old ones."""
    buffers = zip(plan.buffers, plan.nbytes, strict=True)
    made = [(buffer.role, nbytes) for buffer, nbytes in buffers if buffer.role in MADE and buffer.takes is None]
    kept = sum([nbytes for role, nbytes in made if role != "arena"])
    nodes = len(plan.symbolic.program.nodes())
    return _Facts(len(plan.kernels), nodes, sum([nbytes for _, nbytes in made]), plan.peak_bytes + kept)


def _eager(eager: Callable[..., Any], values: Sequence[Array]) -> _Way:
    """A way of the user's; what graphc's eager tensors do in it is counted, and nothing where there are none."""
    step = partial(eager, *values)

    def facts() -> _Facts:
        counts = counted(step)
        return _Facts(counts.launches or None, None, counts.nbytes if counts.launches else None, _peak(step))

    return _Way("eager", step, facts, lambda: None)


def _peak(step: Step) -> int:
    """Bytes that a step has at one time, at most, besides those that it began with."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        step()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------- measuring


def _check(ways: Iterable[_Way], full: _Way, tolerance: float) -> None:
    """Take the first steps of all ways, and compare the results with those of the full compiler."""
    for number in range(1, CHECKED + 1):
        expected = _values(full.step())
        for way in ways:
            found = expected if way is full else _values(way.step())
            problem = _difference(found, expected, tolerance)
            if problem and way.name == "eager":
                raise ArgumentError(f"eager= computes something else: in step {number} {problem}")
            if problem:
                raise InternalError(f"{way.name!r} changes results: in step {number} {problem}")


def _values(results: Any) -> list[Array]:
    leaves, _ = flatten(results, lambda _: False)
    return [np.asarray(leaf) for leaf in leaves if leaf is not None]


def _difference(found: Sequence[Array], expected: Sequence[Array], tolerance: float) -> str:
    """What differs; "" if nothing does."""
    if len(found) != len(expected):
        return f"there are {len(found)} values, not {len(expected)}"
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape:
            return f"value {number} has the shape {list(a.shape)}, not {list(b.shape)}"
        scale = max(1.0, float(np.max(np.abs(b), initial=0, where=np.isfinite(b))))
        if not np.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True):
            return f"value {number} differs by {np.max(np.abs(a - b)):.3g}, more than {tolerance * scale:.3g}"
    return ""


def interleaved(steps: Mapping[Any, Step], rounds: int, turn: float) -> dict[Any, list[float]]:
    """Seconds a step, of each turn: all have one, then all have the next, in an order that no rhythm can match."""
    counts = {key: _count(step, turn) for key, step in steps.items()}
    found: dict[Any, list[float]] = {key: [] for key in steps}
    order, shuffle = list(steps.items()), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for key, step in order:
            step()  # what was in the caches belonged to another
            found[key].append(_seconds(step, counts[key]) / counts[key])
    return found


def _count(step: Step, turn: float) -> int:
    """How many steps last as long as a turn."""
    _seconds(step, WARM)
    count = 1
    while (took := _seconds(step, count)) < turn:
        count = max(2 * count, min(10 * count, math.ceil(count * turn / max(took, 1e-9))))
    return count


def _seconds(step: Step, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - started


def _calls(step: Step) -> int:
    """How many calls of functions the interpreter makes in a step."""
    count = 0

    def told(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(told)
    try:
        step()
    finally:
        sys.setprofile(before)
    return max(count - 1, 1)  # without that of setprofile; an entry calls nothing, but is called
