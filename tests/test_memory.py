"""The memory planner: offsets that never overlap, near the lower bound, equal for equal input."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import InternalError
from graphc.passes import arena
from graphc.passes.memory import (
    ALIGNMENT,
    Interval,
    assign_offsets,
    lower_bound,
    round_up,
    share_storage,
    verify,
)


@st.composite
def interval_lists(draw, max_size=40):
    """Any intervals: empty ones, equal ones, and few or many live together."""
    steps = draw(st.integers(1, 60))
    step = st.integers(0, steps)
    spans = draw(st.lists(st.tuples(st.integers(0, 40), step, step), max_size=max_size))
    return [Interval(ALIGNMENT * lines, min(a, b), max(a, b)) for lines, a, b in spans]


def live_bytes(intervals, step):
    return sum(i.size for i in intervals if i.start <= step <= i.end)


def overlapping(intervals, offsets):
    """Every pair of buffers that are live together and share a byte."""
    placed = [(i, offset) for i, offset in zip(intervals, offsets, strict=True) if i.size]
    return [
        (a, b)
        for (a, at), (b, bt) in itertools.combinations(placed, 2)
        if a.start <= b.end and b.start <= a.end and at < bt + b.size and bt < at + a.size
    ]


def assert_sound(intervals, offsets, peak):
    assert overlapping(intervals, offsets) == []
    assert all(offset % ALIGNMENT == 0 and offset >= 0 for offset in offsets)
    ends = [offset + i.size for i, offset in zip(intervals, offsets, strict=True) if i.size]
    assert peak == max(ends, default=0)
    verify(intervals, offsets)


def training_chain(depth, temporaries=1):
    """Activations that are live from their forward to their backward step, and short buffers at every step."""
    draw = random.Random(depth)
    spans = [(i, 2 * depth - i) for i in range(depth)]
    spans += [(i, i + 2) for _ in range(temporaries) for i in range(2 * depth - 2)]
    return [Interval(ALIGNMENT * draw.randint(4, 4096), start, end) for start, end in spans]


def graph_like(seed):
    """Lifetimes up to the last use in a random DAG, its nodes in the order in which they were made."""
    draw = random.Random(seed)
    n = draw.randint(5, 300)
    reach = draw.choice([2, 4, 16, 64, n])
    batch, features = draw.choice([1, 8, 32, 128]), [draw.choice([1, 10, 64, 256, 784, 2048]) for _ in range(4)]
    size_of = draw.choice(
        [
            lambda: 2 ** draw.uniform(2, 20),
            lambda: draw.randint(4, 1 << 20),
            lambda: min(4 * draw.choice([1, batch, batch]) * draw.choice(features), 1 << 20),
        ]
    )
    last_use = list(range(n))
    for node in range(1, n):
        for _ in range(draw.randint(1, 3)):
            last_use[draw.randint(max(0, node - reach), node - 1)] = node
    return [Interval(round_up(int(size_of())), i, last_use[i]) for i in range(n)]


@given(interval_lists())
def test_any_intervals_get_disjoint_offsets(intervals):
    offsets, peak = assign_offsets(intervals)
    assert_sound(intervals, offsets, peak)
    assert lower_bound(intervals) <= peak <= sum(i.size for i in intervals)


@given(interval_lists(max_size=25))
def test_each_heuristic_is_sound_alone(intervals):
    kept = sorted((i for i in intervals if i.size), key=lambda i: i.start)
    if not kept:
        return
    buffers = arena.Buffers(*np.array([(i.size, i.start, i.end) for i in kept]).T)
    for heuristic, _ in arena.HEURISTICS:
        placement = heuristic(buffers)
        assert_sound(kept, placement.offsets, placement.peak)
        better = arena.improve(buffers, placement, buffers.lower_bound, 5_000)
        assert_sound(kept, better.offsets, better.peak)
        assert better.peak <= placement.peak


@given(interval_lists())
def test_lower_bound_is_the_most_live_bytes(intervals):
    assert lower_bound(intervals) == max((live_bytes(intervals, i.start) for i in intervals), default=0)


@given(interval_lists() | st.integers(0, 20).map(graph_like))
def test_equal_intervals_get_equal_offsets(intervals):
    assert assign_offsets(intervals) == assign_offsets(list(intervals))


@pytest.mark.parametrize(
    ("intervals", "peak"),
    [
        ([], 0),
        ([Interval(0, 0, 9)], 0),
        ([Interval(128, 3, 3)], 128),
        ([Interval(128, 0, 1), Interval(128, 2, 3)], 128),
        ([Interval(128, 0, 2), Interval(128, 2, 3)], 256),  # both are live at step 2
        ([Interval(192, 5, 7)] * 10, 1920),
        ([Interval(64, 0, 4), Interval(0, 0, 4), Interval(64, 0, 4)], 128),
    ],
    ids=["none", "empty", "one", "one after the other", "meeting", "identical", "empty between"],
)
def test_small_cases_are_exact(intervals, peak):
    offsets, found = assign_offsets(intervals)
    assert_sound(intervals, offsets, found)
    assert found == peak


def test_an_empty_interval_lies_at_zero():
    offsets, _ = assign_offsets([Interval(64, 0, 9), Interval(0, 0, 9), Interval(64, 0, 9)])
    assert offsets[1] == 0


@pytest.mark.parametrize("depth", [1, 2, 10, 500])
def test_nested_lifetimes_take_exactly_the_lower_bound(depth):
    intervals = training_chain(depth, temporaries=0)
    assert assign_offsets(intervals)[1] == lower_bound(intervals)


@pytest.mark.parametrize("temporaries", [1, 2])
def test_a_training_chain_is_near_the_lower_bound(temporaries):
    intervals = training_chain(300, temporaries)
    offsets, peak = assign_offsets(intervals)
    assert_sound(intervals, offsets, peak)
    assert peak <= 1.01 * lower_bound(intervals)


def test_a_deep_training_chain_is_near_the_lower_bound():
    intervals = training_chain(25_000, temporaries=2)
    offsets, peak = assign_offsets(intervals)
    verify(intervals, offsets)
    assert peak <= 1.01 * lower_bound(intervals)


def test_many_short_lifetimes_are_near_the_lower_bound():
    draw = random.Random(0)
    intervals = [
        Interval(ALIGNMENT * draw.randint(1, 4096), i, i + 1 + int(draw.expovariate(1 / 8))) for i in range(30_000)
    ]
    offsets, peak = assign_offsets(intervals)
    verify(intervals, offsets)
    assert peak <= 1.08 * lower_bound(intervals)


def test_what_dies_together_lies_together():
    """First fit leaves holes of one line here, too small for the buffers of two lines that come next."""
    n = 100
    intervals = [Interval(ALIGNMENT, 0, 1 if i % 2 else 9) for i in range(2 * n)]
    intervals += [Interval(2 * ALIGNMENT, 2, 9) for _ in range(n // 2)]
    assert assign_offsets(intervals)[1] == lower_bound(intervals) == 2 * n * ALIGNMENT


def test_random_graphs_are_near_the_lower_bound():
    near = 0
    for seed in range(300):
        intervals = graph_like(seed)
        offsets, peak = assign_offsets(intervals)
        verify(intervals, offsets)
        near += peak <= 1.08 * lower_bound(intervals)
    assert near >= 0.95 * 300


@pytest.mark.parametrize(
    "wrong", [Interval(65, 0, 1), Interval(-64, 0, 1), Interval(64, 2, 1)], ids=["misaligned", "negative", "reversed"]
)
def test_a_malformed_interval_is_named(wrong):
    with pytest.raises(InternalError, match="buffer 1: Interval"):
        assign_offsets([Interval(64, 0, 1), wrong])


@given(interval_lists(max_size=8), st.lists(st.integers(0, 60), min_size=8, max_size=8))
def test_verify_finds_exactly_the_overlaps(intervals, lines):
    offsets = [ALIGNMENT * line for line in lines[: len(intervals)]]
    if overlapping(intervals, offsets):
        with pytest.raises(InternalError, match="overlap while both are live"):
            verify(intervals, offsets)
    else:
        verify(intervals, offsets)


def test_verify_finds_a_planted_overlap_among_many():
    intervals = training_chain(1000)
    offsets, _ = assign_offsets(intervals)
    inner = max(range(1000), key=lambda i: offsets[i])
    offsets[inner] -= ALIGNMENT
    with pytest.raises(InternalError, match=rf"\b{inner}\b.*overlap"):
        verify(intervals, offsets)


@pytest.mark.parametrize("offset", [-64, 32])
def test_verify_refuses_a_misplaced_buffer(offset):
    with pytest.raises(InternalError, match=f"buffer 0 has offset {offset}"):
        verify([Interval(64, 0, 0)], [offset])


def test_verify_wants_an_offset_for_each_buffer():
    with pytest.raises(InternalError, match="1 buffers have 2 offsets"):
        verify([Interval(64, 0, 0)], [0, 64])


@pytest.mark.parametrize("pairs", list(itertools.permutations([(0, 2), (2, 3)])))
def test_a_chain_of_reuse_is_one_storage(pairs):
    intervals = [Interval(64, 0, 1), Interval(640, 0, 9), Interval(256, 1, 4), Interval(128, 4, 7)]
    storages, storage_of = share_storage(intervals, pairs)
    assert storages == [Interval(256, 0, 7), Interval(640, 0, 9)]
    assert storage_of == [0, 1, 0, 0]


def test_a_storage_may_be_handed_on_many_times():
    n = 100_000
    storages, storage_of = share_storage(
        [Interval(64, i, i + 1) for i in range(n)], [(i, i + 1) for i in reversed(range(n - 1))]
    )
    assert storages == [Interval(64, 0, n)]
    assert storage_of == [0] * n


def test_without_reuse_each_buffer_is_its_own_storage():
    intervals = [Interval(64, 0, 1), Interval(64, 1, 2)]
    assert share_storage(intervals, []) == (intervals, [0, 1])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 1), (0, 2)], "handed on twice"),
        ([(0, 2), (1, 2)], "handed on twice"),
        ([(0, 3)], "buffer 3 must be born in the step in which buffer 0 dies"),
        ([(1, 2), (2, 1)], "buffer 1 takes its storage from itself"),
    ],
)
def test_impossible_reuse_is_refused(pairs, message):
    intervals = [Interval(64, 0, 5), Interval(64, 5, 5), Interval(64, 5, 5), Interval(64, 6, 7)]
    with pytest.raises(InternalError, match=message):
        share_storage(intervals, pairs)
