"""Arrays on the device that others have taken by DLPack: their memory isn't used again as long as they have it."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
from cuda_driver import on_host
from cuda_host import needs_compiler
from fake_cupy import FakeCupy
from state_testing import variable

import graphc as gc
from graphc.runtime.cuda.cupy_driver import CupyDriver

COUNT = 50


@pytest.fixture(params=[pytest.param("cupy", marks=needs_compiler), "played"])
def session(request, monkeypatch):
    """A session whose results stay on the device, over the driver for CuPy and over one of the host's."""
    if request.param == "played":
        on_host(monkeypatch)
    else:
        request.getfixturevalue("cupy")
    with gc.Graph(), gc.Session(device="cuda", results="device") as made:
        yield made


def test_what_a_consumer_holds_is_written_by_no_later_run(session):
    x = gc.placeholder("x", shape=("n",))
    y = x * 2
    taken = [np.from_dlpack(session.run(y, {x: np.full(COUNT, k)})) for k in range(4)]
    for k in range(20):  # whose results nobody keeps
        session.run(y, {x: np.full(COUNT, 100 + k)})
    session.close()
    assert [set(array.tolist()) for array in taken] == [{2.0 * k} for k in range(4)]


def test_a_view_of_what_a_consumer_had_keeps_it(session):
    x = gc.placeholder("x", shape=("n",))
    part = np.from_dlpack(session.run(x + 1, {x: np.arange(COUNT)}))[10:20:3]
    for _ in range(5):
        session.run(x + 1, {x: np.zeros(COUNT)})
    assert part.tolist() == [11, 14, 17, 20]


def test_values_of_variables_that_were_fetched_are_nobody_elses(session):
    w = variable(np.arange(3))
    taken = []
    for _ in range(4):
        taken.append(np.from_dlpack(session.run([w + 0, w.assign_add(1)])[0]))
    assert [array.tolist() for array in taken] == [[k, k + 1, k + 2] for k in range(4)]


@needs_compiler
def test_what_was_let_go_is_used_again_once_the_device_has_done_all(cupy):
    with gc.Graph(), gc.Session(device="cuda", results="device") as session:
        x = gc.placeholder("x", shape=("n",))
        for _ in range(3):
            session.run(x * 2, {x: np.ones(COUNT)})
        free, blocks = cupy.free, len(cupy.blocks)
        taken = np.from_dlpack(session.run(x * 2, {x: np.ones(COUNT)}))
        assert len(cupy.blocks) == blocks - 1 and cupy.waited == 0
        session.run(x * 2, {x: np.ones(COUNT)})
        assert cupy.waited == 0  # nobody has let anything go
        del taken
        assert len(cupy.blocks) == blocks + 1
        for _ in range(3):
            session.run(x * 2, {x: np.ones(COUNT)})
        assert cupy.waited == 1 and len(cupy.blocks) == blocks + 1
        assert free - cupy.free == 4 * COUNT  # one block more than before, which was needed while the other was taken


def test_the_device_is_not_waited_for_while_a_stream_is_captured():
    cupy = FakeCupy()
    driver, other = CupyDriver(cupy), CupyDriver(cupy)
    memory = driver.allocate(64, pooled=True)
    taken = driver.shared(memory, memory.address, (16,), "float32")
    gone = weakref.ref(memory)
    del memory
    assert gone() is not None
    del taken
    assert gone() is None
    with other.capture():
        waiting = threading.Thread(target=lambda: driver.allocate(64, pooled=True))
        waiting.start()
        waiting.join(0.1)
        assert cupy.waited == 0 and waiting.is_alive()
    waiting.join()
    assert cupy.waited == 1
