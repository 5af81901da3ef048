"""Memory that lacks: wherever a GPU's software finds it out, one clear error tells it, and the session goes on."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import Foreign, on_host
from cuda_host import needs_compiler
from fake_cupy import CUDARuntimeError
from state_testing import user_op, variable

import graphc as gc
from graphc.runtime.cuda import cublas, cudnn, cupy_driver, target
from graphc.runtime.cuda.cupy_driver import CupyDriver

MB = 1 << 20


@needs_compiler
@pytest.mark.parametrize("what", ["load", "launch", "instantiate", "pinned"])
def test_what_cuda_keeps_itself_may_lack_memory_and_nothing_is_lost(what, cupy):
    with gc.Graph(), gc.Session(device="cuda") as session:
        x, w = gc.placeholder("x", shape=("n",)), variable(np.ones(3))
        bump = w.assign_add(gc.sum(x))
        if what == "instantiate":
            session.run(bump, {x: [0.0]})
            session.run(bump, {x: [0.0]})

        def launched_and_captured(n):
            session.run(bump, {x: np.ones(n)})
            session.run(bump, {x: np.ones(n)})

        cupy.lacking = what
        for n in (2, 3):
            with pytest.raises(gc.ResourceError, match=r"code, graphs, and pinned.*out of memory") as caught:
                launched_and_captured(n)
            assert "nvidia-smi" in caught.value.hint and not isinstance(caught.value, gc.DeviceError)
        cupy.lacking = None
        before = session[w]
        for _ in range(3):
            session.run(bump, {x: [1.0, 2.0]})
        assert (session[w] == before + 9).all()


@needs_compiler
@pytest.mark.parametrize("status", [3, 13])
def test_only_a_lack_of_memory_of_cublas_is_told_as_one(status, cupy, monkeypatch):
    monkeypatch.setattr(cupy.cublas, "cublasCreate_v2", lambda handle: status, raising=False)
    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=(300, 300))
        expected = gc.ResourceError if status == 3 else gc.DeviceError
        with pytest.raises(expected, match=cublas.STATUSES[status]):
            session.run(x @ x, {x: np.eye(300)})


def test_an_error_that_is_no_lack_of_memory_loses_the_device(cupy):
    driver = CupyDriver(cupy)
    with pytest.raises(CUDARuntimeError), cupy_driver.lack_told():
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    assert driver.failures


def test_what_libraries_work_in_is_counted_once(cupy, monkeypatch):
    driver = CupyDriver(cupy)
    both = cublas.WORKSPACE_BYTES + cudnn.WORKSPACE_BYTES
    assert driver.to_work_in([]) == 0 and driver.to_work_in(["products", "convolutions"]) == both
    free = cupy.free
    assert driver._cublas is driver._cublas and free - cupy.free == cublas.WORKSPACE_BYTES
    assert driver.to_work_in(["products", "convolutions"]) == cudnn.WORKSPACE_BYTES
    driver.close()
    assert driver.to_work_in(["products", "convolutions"]) == both


@needs_compiler
@pytest.mark.parametrize("total", [33 * MB, 40 * MB])
def test_a_plan_that_leaves_no_room_for_libraries_is_told_before_it_runs(total, monkeypatch):
    drivers = on_host(monkeypatch, printed=True, total=total)
    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=(600, 600))  # 1.4 MB, and as much for the result
        if total < 36 * MB:
            with pytest.raises(gc.ResourceError, match=r"needs 34\.\d+ MB of memory, and the device has 33 MB for it"):
                session.run(x @ x, {x: np.eye(600)})
            assert "launch" not in drivers[0].asked and drivers[0].used == 0
        else:
            assert (session.run(x @ x, {x: np.eye(600)}) == np.eye(600)).all()


@needs_compiler
def test_a_closed_session_keeps_nothing_for_libraries(monkeypatch):
    drivers = on_host(monkeypatch, printed=True)
    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=(200, 200))
        session.run(x @ x, {x: np.eye(200)})
        assert drivers[0].used > 32 * MB
    assert drivers[0].used == 0


def test_a_variable_is_not_given_what_the_device_has_no_room_for(monkeypatch):
    on_host(monkeypatch, total=3 * MB)
    with gc.Graph(), gc.Session(device="cuda") as session:
        w, x = variable(np.zeros(MB // 2)), gc.placeholder("x", shape=())
        session[w] = Foreign(np.ones(MB // 2, "float32"))
        with pytest.raises(gc.ResourceError, match=r"2 MB on the device, float32\[524288\], can't be .* host has 1 MB"):
            session[w] = Foreign(np.zeros(MB // 2, "float32"))
        assert session.run(x + 1, {x: 1}) == 2 and (session[w] == 1).all()


def test_a_lost_device_is_told_where_a_variable_is_given_what_lies_there(monkeypatch):
    drivers = on_host(monkeypatch)
    with gc.Graph(), gc.Session(device="cuda") as session:
        w = variable(np.zeros(3))
        drivers[0].broken = True
        with pytest.raises(gc.DeviceError, match="the device host failed"):
            session[w] = Foreign(np.ones(3, "float32"))
        drivers[0].broken = False


def test_memory_of_the_host_that_lacks_for_results_is_told_as_that(monkeypatch):
    on_host(monkeypatch)
    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=("n",))
        y = x * 2

        def lacking(self, k):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(target.Run, "_new", lacking)
            with pytest.raises(gc.ResourceError, match="needs 12 B of memory, which can't be had"):
                session.run(y, {x: [1, 2, 3]})
        assert session.run(y, {x: [1, 2, 3]}).tolist() == [2, 4, 6]


def test_functions_of_the_users_may_lack_memory_themselves(monkeypatch):
    on_host(monkeypatch)

    def hungry(value):
        raise MemoryError("no memory for 7 bytes")

    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=(1,))
        with pytest.raises(MemoryError, match="no memory for 7 bytes") as caught:
            session.run(user_op(hungry)(x), {x: [1]})
        assert not isinstance(caught.value, gc.GraphcError)
