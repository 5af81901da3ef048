"""Entries: they run what they were bound to, and leave everything else to Python."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from cpu_phases import COSTLY, command

from graphc.op import Array
from graphc.runtime.cpu.driver import CommandList, Scratch
from graphc.runtime.cpu.entry import NOBODY, Argument, Bound, Form, bind, give, make_entry
from graphc.runtime.cpu.pool import Pool

INT64 = np.dtype("int64")


class Bench:
    """An entry whose plan adds 1 to its first feed in place, and what it is bound to.

    Its results are left as they come: arrays that nobody has written.
    """

    def __init__(
        self,
        feeds: tuple[tuple[int, ...], ...] = ((4, 2),),
        results: tuple[tuple[int, ...], ...] = ((3,),),
        form: Form = "one",
        items: tuple[int | None, ...] = (0,),
        commands: CommandList | None = None,
        pool: Array = NOBODY,
        counters: Sequence[Array] = (),
    ) -> None:
        self.slow_calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.busy, self.version = np.zeros(1, np.int64), np.zeros(1, np.int64)
        made = make_entry(self.slow, len(feeds), len(results), len(items))
        assert made is not None
        self.entry: Callable[..., Any] = made
        count = int(np.prod(feeds[0])) if feeds else 0
        self.bound = Bound(
            [Argument(INT64, shape, k) for k, shape in enumerate(feeds)],
            [Argument(np.dtype("float32"), shape, len(feeds) + k) for k, shape in enumerate(results)],
            form,
            items,
            commands or CommandList([command("count", units=count)]),
            np.zeros(len(feeds) + len(results) + 1, np.int64),
            Scratch(4),
            self.busy,
            self.version,
            pool,
            counters,
            None,
        )
        bind(self.entry, self.bound)

    def slow(self, *args: Any, **kwargs: Any) -> str:
        self.slow_calls.append((args, kwargs))
        return "slow"


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.int64)


def test_it_runs_the_plan_on_the_arrays_given() -> None:
    bench, x = Bench(), zeros(4, 2)
    found = bench.entry(x)
    assert x.tolist() == [[1, 1]] * 4
    assert type(found) is np.ndarray and found.dtype == np.float32 and found.shape == (3,)
    assert found.flags.owndata and found.flags.writeable and found.flags.c_contiguous
    assert int(bench.bound.table[0]) == x.ctypes.data and int(bench.bound.table[1]) == found.ctypes.data
    assert bench.slow_calls == []


def test_each_call_makes_results_of_its_own() -> None:
    bench, x = Bench(), zeros(4, 2)
    found = [bench.entry(x) for _ in range(50)]
    assert len({array.ctypes.data for array in found}) == 50
    assert x.tolist() == [[50, 50]] * 4


@pytest.mark.parametrize(
    ("form", "items", "wanted"),
    [
        ("one", (0,), "array"),
        ("one", (None,), None),
        ("list", (), []),
        ("list", (0, None, 1), ["array", None, "array"]),
        ("tuple", (None, 0), (None, "array")),
        ("tuple", (1, 0), ("array", "array")),
        ("list", (None,), [None]),
    ],
)
def test_results_have_their_form(form: Form, items: tuple[int | None, ...], wanted: object) -> None:
    shapes = ((2,), (3, 4))[: sum(item is not None for item in items)]
    found = Bench(results=shapes, form=form, items=items).entry(zeros(4, 2))
    parts = found if isinstance(found, list | tuple) else [found]
    names = [None if part is None else "array" for part in parts]
    assert (type(found)(names) if isinstance(found, list | tuple) else names[0]) == wanted
    assert [part.shape for part in parts if part is not None] == [shapes[k] for k in items if k is not None]


def test_shapes_of_all_ranks() -> None:
    shapes = tuple((2,) * rank for rank in range(9))
    bench = Bench(feeds=shapes, results=shapes, form="tuple", items=tuple(range(9)))
    found = bench.entry(*[np.zeros(shape, np.int64) for shape in shapes])
    assert tuple(array.shape for array in found) == shapes


class Sub(np.ndarray[Any, Any]):
    """An array of another type."""


def unaligned() -> Array:
    return np.zeros(65, np.uint8)[1:].view(np.int64).reshape(4, 2)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        None,
        [[0, 0]] * 4,
        np.int64(3),
        zeros(4, 2).astype(np.float64),
        zeros(4, 2).astype(">i8"),
        zeros(8),
        zeros(4, 2, 1),
        zeros(2, 4),
        zeros(5, 2),
        zeros(2, 4).T,
        zeros(8, 2)[::2],
        zeros(4, 2).view(Sub),
        unaligned(),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_left_to_python(value: object) -> None:
    bench = Bench()
    assert bench.entry(value) == "slow"
    ((args, kwargs),) = bench.slow_calls
    assert args[0] is value and len(args) == 1 and kwargs == {}


def test_another_number_of_arguments_is_left_to_python() -> None:
    bench, x = Bench(), zeros(4, 2)
    assert [bench.entry(), bench.entry(x, x), bench.entry(x, out=[x]), bench.entry(out=x)] == ["slow"] * 4
    assert [len(args) for args, _ in bench.slow_calls] == [0, 2, 1, 0]
    assert [list(kwargs) for _, kwargs in bench.slow_calls] == [[], [], ["out"], ["out"]]
    assert x.tolist() == [[0, 0]] * 4


def test_one_feed_that_does_not_fit_leaves_all_as_it_was() -> None:
    bench = Bench(feeds=((2,), (2,)))
    x = zeros(2)
    assert bench.entry(x, zeros(3)) == "slow"
    assert x.tolist() == [0, 0]


def test_while_another_run_goes_on_or_after_something_moved_python_is_asked() -> None:
    bench, x = Bench(), zeros(4, 2)
    bench.busy[0] = 1
    assert bench.entry(x) == "slow"
    bench.busy[0] = 0
    bench.version += 1
    assert bench.entry(x) == "slow"
    bind(bench.entry, bench.bound)
    assert bench.entry(x) is not None and len(bench.slow_calls) == 2
    assert x.tolist() == [[1, 1]] * 4


def test_an_entry_that_is_not_bound_asks_python() -> None:
    entry = make_entry(lambda *args: len(args), 2, 1, 1)
    assert entry is not None
    assert entry(zeros(1), zeros(2)) == 2


def test_an_entry_is_bound_again_to_other_sizes() -> None:
    bench, x = Bench(), zeros(7)
    other = bench.bound._replace(
        feeds=[Argument(INT64, (7,), 0)], commands=CommandList([command("count", units=7)]), form="tuple"
    )
    bind(bench.entry, other)
    assert isinstance(bench.entry(x), tuple)
    assert x.tolist() == [1] * 7
    assert bench.entry(zeros(4, 2)) == "slow"


def test_a_plan_that_fails_is_left_to_python() -> None:
    bench = Bench(commands=CommandList([command("fail", 0)]), form="list", items=(0,))
    assert bench.entry(zeros(4, 2)) == "slow"
    assert len(bench.slow_calls) == 1


def test_a_run_that_is_done_counts_up_what_it_drew_from() -> None:
    counters = [zeros(1), zeros(3)[1:2], zeros(1)]
    bench, x = Bench(counters=counters[:2]), zeros(4, 2)
    for runs in range(1, 4):
        bench.entry(x)
        assert [int(counter[0]) for counter in counters] == [runs, runs, 0]
    for arguments in ((1,), (zeros(4, 3),), ()):
        assert bench.entry(*arguments) == "slow"
    failing = Bench(commands=CommandList([command("fail", 0)]), counters=counters)
    assert failing.entry(x) == "slow"
    assert [int(counter[0]) for counter in counters] == [3, 3, 0]


def test_what_python_raises_is_raised() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("explained")

    entry = make_entry(fail, 0, 0, 0)
    assert entry is not None
    with pytest.raises(ZeroDivisionError, match="explained"):
        entry()


def test_a_longer_plan_runs_with_the_threads_that_there_are() -> None:
    pool = Pool(3)
    bench = Bench(feeds=((1,),), commands=CommandList([command("meet", 3, units=3, cost=COSTLY)]), pool=pool.place)
    for _ in range(2):
        pool.ready()
        assert bench.entry(zeros(1)).shape == (3,)
        pool.close()


def test_without_threads_a_plan_that_they_could_help_runs_alone() -> None:
    pool = Pool(3)
    bench = Bench(commands=CommandList([command("count", units=8, cost=COSTLY)]), pool=pool.place)
    for start in (list, pool.ready, pool.close, pool.ready):
        start()
        x = zeros(4, 2)
        bench.entry(x)
        assert x.tolist() == [[1, 1]] * 4
    pool.close()


def test_an_array_that_is_given_is_the_result_of_the_next_call_alone() -> None:
    bench, x = Bench(results=((3,), (3,)), form="tuple", items=(1, 0)), zeros(4, 2)
    array = np.empty(3, np.float32)
    references = sys.getrefcount(array)
    give(bench.entry, 1, array)
    found, other = bench.entry(x)
    assert found is array and other is not array
    assert int(bench.bound.table[2]) == array.ctypes.data
    del found
    assert sys.getrefcount(array) == references
    assert all(again is not array for again in bench.entry(x))


def test_nothing_is_leaked() -> None:
    bench, x = Bench(form="list", items=(0, None)), zeros(4, 2)
    failing = Bench(commands=CommandList([command("fail", 0)]), form="tuple", items=(0,))
    things = (x, np.dtype("float32"), bench.entry, bench.bound, None)
    gc.collect()  # what others have left holds some of these, too
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(10_000):
        bench.entry(x), bench.entry(1), failing.entry(x)
        bench.slow_calls.clear()
        failing.slow_calls.clear()
    assert all(abs(sys.getrefcount(thing) - count) < 1000 for thing, count in zip(things, before, strict=True))


def test_what_the_collector_runs_may_call_the_entry() -> None:
    """Making a list can set it to work: here, at every one, and it runs the entry that is about to return the list."""
    bench, x = Bench(form="list", items=(0, None)), zeros(4, 2)
    inner: list[Any] = []

    class Caller:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            inner.append(bench.entry(x))

    thresholds = gc.get_threshold()
    found = []
    try:
        gc.set_threshold(1)
        for _ in range(300):
            Caller()
            found.append(bench.entry(x))
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    arrays = [array for pair in (*found, *inner) for array in pair[:1]]
    assert len(inner) == 300 and len({array.ctypes.data for array in arrays}) == 600
    assert x.tolist() == [[600, 600]] * 4


def test_results_outlive_the_entry_and_the_entry_dies_with_its_last_reference() -> None:
    bench = Bench()
    found = bench.entry(zeros(4, 2))
    found[:] = 7
    dead = weakref.ref(bench.entry)
    del bench
    gc.collect()  # it and what Python does in its place know each other
    assert dead() is None
    assert found.tolist() == [7, 7, 7]
