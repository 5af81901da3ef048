"""The driver over CuPy: what it makes of CuPy's and cuBLAS's calls, on a machine without either."""

from __future__ import annotations

import itertools
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_driver import Foreign
from cuda_host import needs_compiler
from fake_cupy import CUDARuntimeError, FakeCublas, FakeCupy
from test_cuda_sessions import attentive, fed, mlp

import graphc as gc
from graphc.runtime.cuda import cupy_driver, gemm
from graphc.runtime.cuda.cublas import NO, TRANSPOSED, Cublas, by_columns
from graphc.runtime.cuda.cupy_driver import CupyDriver
from graphc.runtime.cuda.driver import Matrices, Product

DIMS = (1, 2, 5)


@needs_compiler
@pytest.mark.parametrize("network", [mlp, attentive])
def test_networks_learn_over_the_calls_of_cupy(network, cupy, monkeypatch):
    monkeypatch.setattr(gemm, "SMALL", 0)  # products that are as small as these are cuBLAS's, too
    with gc.Graph():
        inputs, loss, train = network()
        with gc.Session(device="cuda") as session, gc.Session(device="reference") as reference:
            rng = np.random.default_rng(0)
            for batch in (6, 6, 6, 4, 6):
                feeds = fed(inputs, batch, rng)
                found, expected = session.run([loss, train], feeds)[0], reference.run([loss, train], feeds)[0]
                np.testing.assert_allclose(found, expected, rtol=5e-4)


@needs_compiler
def test_large_products_are_cublas(cupy):
    with gc.Graph(), gc.Session(device="cuda") as session:
        a, b = gc.placeholder("a", shape=("n", 300)), gc.placeholder("b", shape=(300, 300))
        y = [a @ b, a @ b.T, (b.T @ a.T)]
        for n in (200, 200, 200, 7):
            x, w = (np.random.default_rng(n).normal(size=(k, 300)).astype("float32") for k in (n, 300))
            for found, expected in zip(session.run(y, {a: x, b: w}), [x @ w, x @ w.T, w.T @ x.T], strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert cupy.cublas.products


@pytest.mark.parametrize("sizes", list(itertools.product(DIMS, repeat=3)))
@pytest.mark.parametrize("a_turned", [False, True])
@pytest.mark.parametrize("b_turned", [False, True])
def test_matrices_in_rows_or_columns_are_multiplied(sizes, a_turned, b_turned):
    m, n, k = sizes
    rng = np.random.default_rng(m + 10 * n + 100 * k)
    for dtype, batch in (("float32", 1), ("float64", 3), ("float16", 2)):
        a, b = (rng.normal(size=(batch, rows, cols + 3)).astype(dtype) for rows, cols in ((m, k), (k, n)))
        a, b = a[:, :, :k], b[:, :, :n]  # rows that don't follow each other at once
        a = np.swapaxes(np.swapaxes(a, 1, 2).copy(), 1, 2) if a_turned else a
        b = np.swapaxes(np.swapaxes(b, 1, 2).copy(), 1, 2) if b_turned else b
        c = np.full((batch, m, n), np.nan, dtype)
        operands = [Matrices(x.ctypes.data, tuple(step // x.itemsize for step in x.strides), dtype) for x in (a, b, c)]
        compute = "float64" if dtype == "float64" else "float32"
        Cublas(FakeCublas(lambda work: work()), 7, 0).multiply(Product(*operands, batch, m, n, k, compute))
        expected = a.astype("float64") @ b.astype("float64")
        np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-2 if dtype == "float16" else 1e-5)


def test_matrices_without_elements_have_a_leading_dimension():
    assert by_columns(Matrices(0, (0, 0, 1), "float32"), 3, 0) == (NO, 1)
    assert by_columns(Matrices(0, (0, 1, 0), "float32"), 0, 3) == (TRANSPOSED, 1)


@needs_compiler
def test_cublas_is_opened_before_the_first_run_is_captured(cupy):
    with gc.Graph(), gc.Session(device="cuda") as session:
        w = gc.Variable(np.eye(200), name="w", dtype="float32")
        session.run(w.assign(w * 2))  # from now on the value is where updates write it, and they are captured at once
        captures = []
        cupy.cublas.cublasCreate_v2 = lambda handle: captures.append(cupy.streams[-1].recording) or 0
        session.run(w.assign(w @ w))
        assert captures == [None] and (session[w] == 4 * np.eye(200)).all()


@needs_compiler
def test_arrays_on_the_device_come_and_go(cupy):
    with gc.Graph(), gc.Session(device="cuda", results="device") as session:
        x = gc.placeholder("x", shape=("n", 3))
        y = x * 2
        array = np.arange(12, dtype="float32").reshape(3, 4).T
        for given in (Foreign(array), Foreign(array.copy()), array):
            found = session.run(y, {x: given})
            assert (np.asarray(found) == array * 2).all() and (np.from_dlpack(found) == array * 2).all()


@needs_compiler
def test_what_is_kept_in_the_pool_is_freed_before_memory_is_said_to_lack(cupy):
    cupy.free, cupy.pooled = 1 << 12, 1 << 20
    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=("n",))
        assert session.run((x + 1).sum(), {x: np.ones(1 << 14, "float32")}) == 1 << 15
        with pytest.raises(gc.ResourceError, match="the device has"):
            session.run(x + 1, {x: np.ones(1 << 22, "float32")})
        assert session.run((x + 1).sum(), {x: np.ones(4, "float32")}) == 8


@needs_compiler
def test_an_error_of_cuda_is_a_lost_device_and_ends_a_capture(cupy, monkeypatch):
    with gc.Graph(), gc.Session(device="cuda") as session:
        x = gc.placeholder("x", shape=("n",))
        session.run(x + 1, {x: [1]})

        def fail(*given):
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

        monkeypatch.setattr(cupy.cuda.driver, "launchKernel", fail)
        with pytest.raises(gc.DeviceError, match="a device failed: cudaErrorIllegalAddress"):
            session.run(x + 1, {x: [1]})
        assert cupy.streams[-1].recording is None


def test_copies_of_another_thread_are_no_part_of_a_graph():
    driver, target = CupyDriver(FakeCupy()), np.zeros(4, "float32")
    memory = driver.allocate(16)
    driver.upload(memory.address, np.ones(4, "float32"))
    other = threading.Thread(target=lambda: driver.download(target, memory.address))
    with driver.capture() as found:
        other.start()
        other.join(0.1)  # it waits until the graph is complete
    other.join()
    found[0].launch(None)
    assert found[0].works == [] and (target == 1).all()


@pytest.mark.parametrize(
    ("where", "here"), [((2, 0), True), ((13, 0), True), ((2, 1), False), ((3, 0), False), ((1, 0), False)]
)
def test_arrays_are_taken_that_lie_on_the_device_in_memory_of_any_kind(where, here):
    assert CupyDriver(FakeCupy()).is_here(SimpleNamespace(__dlpack_device__=lambda: where)) == here


def test_the_first_device_is_opened_once_it_is_seen_to_work(cupy, monkeypatch):
    monkeypatch.setattr(cupy_driver, "_cupy", lambda: cupy)
    opened = cupy_driver.opened()
    assert (opened.name, opened.architecture) == ("a device", "sm_90")
    assert cupy_driver.opened() is not opened  # each session has a stream of its own


def test_a_device_that_cannot_be_opened_is_told(cupy, monkeypatch):
    def refuse(*, non_blocking):
        raise CUDARuntimeError("cudaErrorDevicesUnavailable: the device is busy or unavailable")

    monkeypatch.setattr(cupy_driver, "_cupy", lambda: cupy)
    monkeypatch.setattr(cupy.cuda, "Stream", refuse)
    with pytest.raises(gc.DeviceError, match="can't be opened: cudaErrorDevicesUnavailable") as caught:
        cupy_driver.opened()
    assert "gc.Session(device='cpu')" in caught.value.hint


@pytest.mark.parametrize(("system", "name"), [("linux", "libcublas.so.13"), ("win32", "cublas64_13.dll")])
def test_cublas_is_asked_for_by_the_name_that_a_system_gives_it(system, name, monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", SimpleNamespace(cublas=object()))
    for parent in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, parent, SimpleNamespace(__path__=[]))
    monkeypatch.setattr(cupy_driver.sys, "platform", system)
    monkeypatch.setattr(cupy_driver.ctypes, "CDLL", asked.append)
    cupy_driver._library(SimpleNamespace(runtimeGetVersion=lambda: 13020))
    assert asked == [name]


def test_cupy_has_what_the_driver_calls():
    real, fake = pytest.importorskip("cupy"), FakeCupy()
    for room in ("", "cuda", "cuda.runtime", "cuda.driver", "cuda.memory", "cuda.function"):
        there, wanted = real, fake
        for part in filter(None, room.split(".")):
            there, wanted = getattr(there, part), getattr(wanted, part)
        names = ["from_dlpack", "ndarray", "cuda"] if not room else vars(wanted)
        assert [name for name in names if not hasattr(there, name)] == []
