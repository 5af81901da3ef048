"""Memory of large results: lent again when nobody has it, and to one result at a time."""

from __future__ import annotations

import numpy as np
import pytest
from state_testing import variable

import graphc as gc
from graphc.op import Array
from graphc.runtime.cpu import blocks, target
from graphc.runtime.cpu.blocks import Blocks

FLOAT32 = np.dtype("float32")
LARGE = 1000  # bytes from which memory is recycled in these tests


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGE", LARGE)


def place(array: Array) -> int:
    return int(array.ctypes.data)


def test_memory_that_nobody_has_is_lent_again() -> None:
    pool = Blocks()
    first = pool.array((20, 50), FLOAT32)
    assert first.shape == (20, 50) and first.dtype == FLOAT32 and first.flags.carray
    at = place(first)
    assert at % 64 == 0
    del first
    assert place(pool.array((1000,), FLOAT32)) == at
    assert place(pool.array((500,), np.dtype("float64"))) == at


def test_memory_that_somebody_has_is_not() -> None:
    pool = Blocks()
    kept = [pool.array((1000,), FLOAT32) for _ in range(5)]
    assert len({place(array) for array in kept}) == 5
    for k, array in enumerate(kept):
        array[:] = k
    view = kept[0][10:].reshape(-1, 2)[::3].T
    memory = memoryview(kept[1])
    del kept[:2]
    array = pool.array((1000,), FLOAT32)
    array[:] = -1
    assert (view == 0).all() and memory[0] == 1
    assert [set(other.tolist()) for other in kept] == [{2}, {3}, {4}]
    del view
    assert not np.shares_memory(pool.array((1000,), FLOAT32), array)


def test_small_results_and_empty_ones_are_not_recycled() -> None:
    pool = Blocks()
    for shape in ((), (0, 10**6), (249,)):
        assert pool.array(shape, FLOAT32).flags.owndata


def test_a_result_gets_no_block_that_is_much_larger() -> None:
    pool = Blocks()
    large = place(pool.array((1000,), FLOAT32))
    assert place(pool.array((801,), FLOAT32)) == large
    assert pool.array((600,), FLOAT32).base.size < 2500  # type: ignore[union-attr]


def test_blocks_past_the_cap_are_forgotten_and_stay_with_who_has_them() -> None:
    pool = Blocks(max_kept=10_000)
    kept = [pool.array((1000,), FLOAT32) for _ in range(5)]
    for k, array in enumerate(kept):
        array[:] = k
    assert sum(block.size for block in pool._blocks) <= 10_000
    assert [set(array.tolist()) for array in kept] == [{0}, {1}, {2}, {3}, {4}]
    assert pool.array((5000,), FLOAT32).shape == (5000,)


def test_results_of_a_middle_size_have_shelves_as_long_as_these_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MIDDLE", 100)
    monkeypatch.setattr(blocks, "MAX_SHELVED", 2000)
    pool = Blocks()
    assert pool.shelf(99) is None and pool.shelf(LARGE) is None
    shelf = pool.shelf(400)
    assert shelf is not None and pool.shelf(390) is shelf
    for block, (address, memory) in zip(shelf.blocks, shelf.words.tolist(), strict=True):
        first = block.ctypes.data
        assert address == id(block) and memory % 64 == 0 and first <= memory and memory + 400 <= first + block.size
    assert pool.shelf(500) is None, "that would be more than 2000 bytes"
    assert pool.shelf(100) is not None


def test_results_of_a_session_are_recycled_and_never_shared() -> None:
    x = gc.placeholder("x", (1000,))
    w = variable(np.ones(1000))
    y, bump = [x + w, x * w], w.assign_add(x * 0 + 1)
    given = np.arange(1000, dtype=np.float32)
    with gc.Session(device="cpu") as session:
        places = set()
        for _ in range(10):
            found = session.run(y, {x: given})
            assert not np.shares_memory(*found)
            places |= {place(array) for array in found}
            del found
        assert len(places) <= 4
        kept = [session.run([y, bump], {x: given})[0] for _ in range(3)]
        wanted = [[given + k, given * k] for k in (1, 2, 3)]
        assert [[a.tolist() for a in pair] for pair in kept] == [[a.tolist() for a in pair] for pair in wanted]
    (last,) = kept[-1:]
    assert last[0].tolist() == (given + 3).tolist(), "it survives the session"


def test_a_result_that_is_fed_again_is_not_returned_as_it_is() -> None:
    x = gc.placeholder("x", (1000,))
    with gc.Session(device="cpu") as session:
        first = session.run(x + 1, {x: np.zeros(1000, np.float32)})
        for fetch in (x, x.reshape((10, 100)), x + 0):
            found = session.run(fetch, {x: first})
            assert not np.shares_memory(found, first)


def test_it_is_the_cpu_target_that_recycles() -> None:
    assert isinstance(target.CpuTarget().blocks, Blocks)
