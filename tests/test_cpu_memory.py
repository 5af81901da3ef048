"""Memory that plans run in, and what other threads do about it before a run: nothing that anyone can see."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.runtime.cpu import memory
from graphc.runtime.cpu.driver import PAGE, driver
from graphc.runtime.cpu.memory import AHEAD, Expected, Kept, Memory, prefault, reserve_all
from graphc.runtime.pages import HUGE, LEAST, Pages
from graphc.runtime.strided import ALIGN

SIZE = LEAST // 4  # floats of a variable whose slot lies in a range of its own


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of memory that was asked for ahead."""
    found: list[int] = []
    monkeypatch.setattr(memory, "Thread", lambda **given: found.append(given["args"][0].nbytes) or threading.Thread())
    return found


def fresh(nbytes: int) -> np.ndarray[Any, Any]:
    """New memory of the system, in small pages."""
    made = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        made.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(made, np.uint8)


def resident(array: np.ndarray[Any, Any]) -> int:
    """How many pages of an array are there."""
    pages = (ctypes.c_ubyte * -(-array.nbytes // PAGE))()
    assert not ctypes.CDLL(None).mincore(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), pages)
    return sum(page & 1 for page in pages)


def ended() -> None:
    """Wait for the threads that ask for memory."""
    for thread in threading.enumerate():
        if thread.name == "graphc-pages":
            thread.join()


def training() -> tuple[Any, gc.Variable]:
    """A loss and its training step, whose slot is large, and the weight."""
    w = gc.Variable(np.ones(SIZE, np.float32), name="w")
    loss = gc.sum(w * w)
    return [loss, gc.optim.SGD(lr=0.25, momentum=0.5).minimize(loss)], w


@pytest.mark.skipif(sys.platform != "linux", reason="others count pages in other ways")
def test_touching_makes_all_pages() -> None:
    array = fresh(64 * PAGE)
    assert resident(array) == 0
    driver().touch(array.ctypes.data, 31 * PAGE + 1)
    assert resident(array) == 32
    driver().touch(array.ctypes.data, 0)
    assert resident(array) == 32 and not array.any()


def test_touching_changes_nothing() -> None:
    array = fresh(64 * PAGE)
    array[:] = np.random.default_rng(0).integers(0, 3, array.size)
    before = array.copy()
    driver().touch(array.ctypes.data, array.nbytes)
    assert np.array_equal(array, before)


def test_memory_that_is_used_meanwhile_keeps_what_is_written() -> None:
    for _ in range(5):
        array = fresh(AHEAD)
        prefault(array)
        array[:] = 1
        ended()
        assert array.all()


def test_memory_lives_until_it_was_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = [], threading.Event()
    touch = memory._touch

    def late(array: np.ndarray[Any, Any], by: Callable[[int, int], None]) -> None:
        begun.append(array.nbytes)
        go.wait()
        touch(array, by)

    monkeypatch.setattr(memory, "_touch", late)
    room = Memory()
    room.reserve(AHEAD, ahead=True)
    room.reserve(2 * AHEAD, ahead=True)
    del room
    go.set()
    ended()
    assert sorted(begun) == [AHEAD, 2 * AHEAD]


def test_who_asks_for_memory_loads_the_driver_not_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[threading.Thread] = []
    monkeypatch.setattr(memory, "driver", lambda: loads.append(threading.current_thread()) or driver())
    prefault(fresh(AHEAD))
    ended()
    assert loads == [threading.current_thread()]


@pytest.mark.parametrize("loaded", [False, True])
def test_new_arrays_wait_until_the_driver_is_there(loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[int] = []
    monkeypatch.setattr(memory, "prefault", lambda array: touched.append(array.nbytes))
    monkeypatch.setattr(memory, "module", lambda: SimpleNamespace(loaded=driver().code if loaded else None))
    expected = Expected()
    pages = [fresh(AHEAD * k).view(Pages) for k in (1, 2)]
    expected.add([pages[0][:AHEAD], pages[0][AHEAD:], pages[1][:1], np.zeros(AHEAD)])
    assert sorted(touched) == ([AHEAD, 2 * AHEAD] if loaded else [])
    for _ in range(2):
        expected.prefault()
        assert sorted(touched) == [AHEAD, 2 * AHEAD], "each block once, and arrays with memory of their own not at all"


def test_little_memory_is_worth_no_thread(asked: list[int]) -> None:
    room = Memory()
    room.reserve(AHEAD - 1, ahead=True)
    assert asked == []
    room.reserve(AHEAD, ahead=True)
    room.reserve(AHEAD, ahead=True)
    room.reserve(AHEAD + 1)
    assert asked == [AHEAD] and room.bytes.nbytes == AHEAD + 1


def test_a_system_that_grants_no_threads_gives_memory_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    room = Memory()
    room.reserve(AHEAD, ahead=True)
    room.bytes[:] = 1
    assert room.bytes.all()


# --- before a run


def test_a_step_that_is_compiled_has_its_slots_and_its_arena(asked: list[int]) -> None:
    with gc.Graph(), gc.Session(device="cpu", threads=2) as session:
        x = gc.placeholder("x", shape=(SIZE,))
        fetches, w = training()
        exponentials = gc.exp(x) + w
        step = session.compile([*fetches, exponentials[::-1] + gc.sum(exponentials)], [x])
        slots = [value for variable, value in session._state.values.items() if variable is not w]
        assert len(slots) == 1 and isinstance(slots[0].base, Pages) and not slots[0].any()
        arena = session._target.memory.bytes
        assert asked == [slots[0].nbytes, arena.nbytes]
        loss, _, _ = step(np.zeros(SIZE, np.float32))
        assert loss == SIZE and session._target.memory.bytes is arena
        assert np.array_equal(session[w], np.full(SIZE, 0.5, np.float32))
        assert len(asked) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_the_same_however_its_memory_came(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights() -> np.ndarray[Any, Any]:
        with gc.Graph(), gc.Session(device="cpu", threads=threads) as session:
            fetches, w = training()
            for _ in range(3):
                session.run(fetches)
            return session[w]

    ahead = weights()
    monkeypatch.setattr(gc.Session, "_expect", lambda *_: None)
    assert ahead.tobytes() == weights().tobytes()


def test_a_session_of_one_thread_starts_no_other(asked: list[int]) -> None:
    with gc.Graph(), gc.Session(device="cpu", threads=1) as session:
        session.run(training()[0])
        assert asked == []


@pytest.mark.parametrize(
    "look",
    [lambda session, fetches: session.plan(fetches), lambda session, fetches: session.compile(fetches[0])],
    ids=["plan", "inference"],
)
def test_what_trains_nothing_makes_no_slots(look: Callable[[gc.Session, Any], Any], asked: list[int]) -> None:
    with gc.Graph(), gc.Session(device="cpu", threads=2) as session:
        fetches, _ = training()
        look(session, fetches)
        assert not session._state.values and asked == []


def test_slots_that_have_values_or_are_loaded_later_keep_them(tmp_path: Any) -> None:
    with gc.Graph(), gc.Session(device="cpu", threads=2) as session, gc.Session(device="cpu", threads=2) as other:
        fetches, w = training()
        session.run(fetches)
        session.save(tmp_path / "state.safetensors")
        step = other.compile(fetches)
        other.load(tmp_path / "state.safetensors")
        session.run(fetches)
        step()
        assert session[w].tobytes() == other[w].tobytes()


def test_a_step_that_cannot_be_compiled_changes_no_value() -> None:
    with gc.Graph(), gc.Session(device="cpu", threads=2) as session:
        x = gc.placeholder("x", shape=(SIZE,))
        w = gc.Variable(np.ones(SIZE, np.float32), name="w")
        loss = gc.sum(w * x)
        update = gc.optim.SGD(lr=1.0, momentum=0.5).minimize(loss)
        with pytest.raises(gc.FeedError):
            session.compile([loss, update])
        assert all(not value.any() for value in session._state.values.values())
        assert session.run([loss, update], {x: np.ones(SIZE)})[0] == SIZE
        assert not session[w].any()


def test_kept_blocks_lie_one_after_the_other_and_share_nothing() -> None:
    blocks = [Kept(nbytes) for nbytes in (LEAST // 2 + 1, 1, LEAST // 2, 3 * ALIGN)]
    reserve_all(blocks)
    assert blocks[0].base % HUGE == 0 and all(block.base % ALIGN == 0 for block in blocks)
    for k, block in enumerate(blocks):
        assert block.bytes.size == block.nbytes
        block.bytes[:] = k
    assert all((block.bytes == k).all() for k, block in enumerate(blocks))
    assert blocks[-1].base + blocks[-1].nbytes - blocks[0].base < sum(block.nbytes + ALIGN for block in blocks)


def test_kept_blocks_stay_where_they_are_when_more_are_wanted() -> None:
    first, second = Kept(ALIGN + 1), Kept(5)
    reserve_all([first])
    first.bytes[:] = 7
    base = first.base
    reserve_all([second, first])
    second.bytes[:] = 9
    assert first.base == base and (first.bytes == 7).all()


def test_a_block_that_several_steps_share_has_its_bytes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    memory_of = memory.aligned_memory
    monkeypatch.setattr(memory, "aligned_memory", lambda nbytes: (asked.append(nbytes), memory_of(nbytes))[1])
    first, second = Kept(ALIGN), Kept(3 * ALIGN)
    del asked[:]
    reserve_all([first, second, first])
    assert asked == [4 * ALIGN]
    reserve_all([second, first])
    assert asked == [4 * ALIGN], "nothing more is asked for, as they have theirs"


def test_an_arena_that_is_too_large_is_told_by_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(nbytes: int) -> np.ndarray[Any, Any]:
        if nbytes:
            raise MemoryError
        return np.empty(0, np.uint8)

    with gc.Graph(), gc.Session(device="cpu", threads=2) as session:
        x = gc.placeholder("x", shape=(SIZE,))
        exponentials = gc.exp(x)
        monkeypatch.setattr(memory, "aligned_memory", refuse)
        step = session.compile(exponentials[::-1] + gc.sum(exponentials), [x])
        with pytest.raises(gc.GraphcError):
            step(np.zeros(SIZE))
        monkeypatch.undo()
        assert step(np.zeros(SIZE))[0] == SIZE + 1


def test_a_plan_that_no_memory_holds_is_told_by_the_run() -> None:
    with gc.Graph(), gc.Session(device="cpu", threads=2) as session:
        x = gc.placeholder("x", (4,))
        step = session.compile(gc.sum(gc.sort(gc.exp(gc.broadcast_to(gc.sum(x), (1 << 32, 1 << 30))))), [x])
        with pytest.raises(gc.ResourceError, match="this run needs"):
            step(np.zeros(4))
        assert session.run(gc.sum(x), {x: np.ones(4)}) == 4
