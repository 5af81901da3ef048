"""The collector rests while many objects are made, and doesn't scan them afterwards."""

import gc
import sys
import weakref

import pytest

from graphc import collector
from graphc.collector import MANY, paused


@pytest.fixture(autouse=True)
def running():
    gc.enable()
    yield
    gc.unfreeze()


class Ring:
    """An object that only the collector frees."""

    def __init__(self):
        self.itself = self


def is_of(generation, wanted):
    return any(found is wanted for found in gc.get_objects(generation=generation))


def many():
    with paused():
        return [[] for _ in range(2 * MANY)]


def test_many_objects_are_old_when_the_block_ends():
    made = many()
    assert is_of(2, made[0]) and is_of(2, made[-1])


def test_few_objects_are_young_when_the_block_ends():
    gc.collect()
    with paused():
        made = [[]]
        inside = is_of(0, made[0])
    assert inside and not is_of(2, made[0])


def test_garbage_of_the_block_is_collected_by_a_full_collection():
    with paused():
        made = [Ring() for _ in range(2 * MANY)]
    seen = weakref.ref(made[0])
    del made
    assert seen() is not None
    gc.collect()
    assert seen() is None


def test_garbage_between_many_blocks_is_collected(monkeypatch):
    """What becomes garbage later is alive when its block ends, so it is old and no scan for young garbage finds it."""
    monkeypatch.setattr(collector._pauses, "unseen", 0)
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: 5 * MANY)
    seen, alive = [], []
    for _ in range(12):
        ring = Ring()
        seen.append(weakref.ref(ring))
        many()
        del ring
        alive.append(sum(each() is not None for each in seen))
    assert max(alive) <= 4 < len(alive)


def test_no_collection_is_made_for_a_program_that_wants_none(monkeypatch):
    monkeypatch.setattr(collector._pauses, "unseen", MANY)
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: 0)
    ring = weakref.ref(Ring())
    gc.disable()
    many()
    still = ring() is not None
    gc.enable()
    assert still and collector._pauses.unseen == MANY


def test_what_a_program_froze_stays_frozen():
    kept = []
    gc.freeze()
    many()
    assert not any(is_of(generation, kept) for generation in range(3))
