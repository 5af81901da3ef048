"""The collector rests while many objects are made, and doesn't scan them afterwards."""

import gc
import weakref

import pytest

from graphc.collector import MANY, paused


@pytest.fixture(autouse=True)
def running():
    gc.enable()
    yield
    gc.unfreeze()


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
    class Ring:
        pass

    with paused():
        made = [Ring() for _ in range(2 * MANY)]
        for ring in made:
            ring.itself = ring
    seen = weakref.ref(made[0])
    del made, ring
    assert seen() is not None
    gc.collect()
    assert seen() is None


def test_what_a_program_froze_stays_frozen():
    kept = []
    gc.freeze()
    many()
    assert not any(is_of(generation, kept) for generation in range(3))
