"""The GPU target over a driver of the host's: what is copied when, graphs, variables, what fails, and what is said."""

from __future__ import annotations

import json
import tomllib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from checkout import ROOT
from cuda_driver import BrokenError, Foreign, HostDriver, on_host
from state_testing import check_that_a_failing_form_changes_nothing, output_of, user_op, variable

import graphc as gc
from graphc.runtime.cuda import cupy_driver
from graphc.runtime.cuda.bound import LAUNCH_BYTES, SMALL
from graphc.runtime.cuda.carrier import LEAST, PIECE, Carrier
from graphc.runtime.cuda.driver import DeviceMemoryError
from graphc.types import DTYPES, np_dtype

MB = 1 << 20


@pytest.fixture
def drivers(monkeypatch):
    return on_host(monkeypatch)


@pytest.fixture
def session(drivers):
    with gc.Graph(), gc.Session(device="cuda") as made:
        made.driver = drivers[0]
        yield made


def asked(session, call):
    """How often a call asks for what of the driver."""
    before = dict(session.driver.asked)
    call()
    return {what: n - before.get(what, 0) for what, n in session.driver.asked.items() if n != before.get(what, 0)}


def training(n=8):
    x = gc.placeholder("x", shape=("n", n))
    w = variable(np.linspace(-1, 1, 2 * n).reshape(n, 2))
    loss = (gc.tanh(x @ w) ** 2).mean()
    return x, w, [loss, gc.optim.SGD(lr=0.1, momentum=0.9).minimize(loss)]


# --- copies and graphs


def test_a_run_that_comes_again_is_one_graph_and_nothing_else(session):
    x, _, step = training()
    feeds = {x: np.ones((4, 8), "float32")}
    session.run(step, feeds)
    second = asked(session, lambda: session.run(step, feeds))
    third = asked(session, lambda: session.run(step, feeds))
    assert second["capture"] == 1 and second["launch"] > 1 and second["upload"] == second["download"] == 1
    assert third == {"enter": 1, "replay": 1, "synchronise": 1}


def test_every_size_has_its_graph_and_the_values_of_the_reference(session):
    x, w, step = training()
    rng = np.random.default_rng(0)
    with gc.Session(device="reference") as reference:
        for n in (4, 4, 4, 5, 4, 5, 5, 400, 4, 5, 400):  # with 400 the memory of runs moves
            feeds = {x: rng.normal(size=(n, 8)).astype("float32")}
            value, expected = session.run(step, feeds)[0], reference.run(step, feeds)[0]
            assert np.allclose(value, expected) and np.allclose(session[w], reference[w])


def test_capture_can_be_switched_off(drivers):
    with gc.Graph(), gc.Session(device="cuda", disable="capture") as session:
        x, _, step = training()
        for _ in range(3):
            session.run(step, {x: np.ones((4, 8), "float32")})
        assert "capture" not in drivers[0].asked and "replay" not in drivers[0].asked


@pytest.mark.parametrize("count", [0, 1, SMALL // 4, SMALL // 4 + 1, 3 * PIECE // 4 + 5])
def test_feeds_of_any_size_arrive_and_may_change_afterwards(session, count):
    x = gc.placeholder("x", shape=("n",))
    y = [x * 2, gc.reshape(x, (1, -1)) + 1]
    for seed in range(3):
        fed = np.random.default_rng(seed).normal(size=count).astype("float32")
        kept = fed.copy()
        double, more = session.run(y, {x: fed})
        assert (double == kept * 2).all() and (more == kept + 1).all() and more.shape == (1, count)
        fed[...] = np.nan
        assert (double == kept * 2).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_feeds_of_every_dtype_arrive(session, dtype):
    x = gc.placeholder("x", shape=(3, 4), dtype=dtype)
    array = (np.arange(24).reshape(4, 6) % 3).astype(np_dtype(dtype))[:, ::2].T
    for _ in range(2):
        found = session.run(gc.concat([x, x], axis=0), {x: array})
        assert found.dtype == array.dtype and (found[:3] == array).all() and (found[3:] == array).all()


def test_results_are_the_callers_and_out_receives_them(session):
    x = gc.placeholder("x", shape=("n",))
    step = session.compile([x * 2, x + 1], feeds=x)
    for n in (3, SMALL):
        fed = np.ones(n, "float32")
        first = step(fed)
        second = step(fed)
        assert not np.shares_memory(first[0], second[0]) and not np.shares_memory(first[0], first[1])
        out = [np.zeros(n, "float32"), np.zeros(n, "float32")]
        assert step(fed, out=out)[0] is out[0] and (out[0] == 2).all() and (out[1] == 2).all()
        first[0][...] = 7
        assert (step(fed)[0] == 2).all()


@pytest.mark.parametrize("count", [SMALL + 4, LEAST, LEAST + 4, 2 * PIECE, 2 * PIECE + 4, 5 * PIECE - 8])
def test_large_results_come_by_way_of_pinned_memory_while_the_next_part_is_copied(session, count):
    x = gc.placeholder("x", shape=("n",))
    y = [x + 1, x * 2]
    step = session.compile(y, feeds=x)
    fed = np.random.default_rng(count).normal(size=count // 4).astype("float32")
    out = [np.zeros(count // 4, "float32"), np.zeros(count // 4, "float32")]
    step(fed)
    found = asked(session, lambda: step(fed, out=out))
    parts = -(-count // min(PIECE, max(LEAST, -(-count // 2))))
    assert found["download"] == 2 * parts and "pinned" not in found
    assert (out[0] == fed + 1).all() and (out[1] == fed * 2).all()


def test_threads_take_turns_with_pinned_memory(drivers):
    carrier = Carrier(HostDriver())
    arrays = [np.full(3 * LEAST, k, np.uint8) for k in range(4)]
    places = [carrier.driver.allocate(3 * LEAST) for _ in arrays]
    found = [np.zeros(3 * LEAST, np.uint8) for _ in arrays]

    def work(k):
        for _ in range(5):
            carrier.send(arrays[k], places[k].address)
            carrier.fetch(found[k], places[k].address)
            assert (found[k] == k).all()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [None] * 4


def test_draws_are_those_of_every_device(session):
    noise = gc.random.uniform((5,), name="noise")
    with gc.Session(device="reference") as reference:
        for _ in range(4):
            assert (session.run(noise) == reference.run(noise)).all()


# --- variables


def home(session, v):
    return session._state.values[v].address


def test_variables_stay_where_they_are(session):
    a, b, c = variable([1, 2], "a"), variable([3, 4], "b"), variable([5, 6], "c")
    update = gc.group(a.assign(b), b.assign(a), c.assign_add(1))
    session.run(update)
    before = [home(session, v) for v in (a, b, c)]
    for _ in range(2):
        session.run(update)
    assert [home(session, v) for v in (a, b, c)] == before
    assert [session[v].tolist() for v in (a, b, c)] == [[3, 4], [1, 2], [8, 9]]


def test_weights_that_no_run_changes_are_uploaded_once(session):
    w, x = variable(np.ones(SMALL)), gc.placeholder("x", shape=())
    y = (w * x).sum()
    found = [asked(session, lambda k=k: session.run(y, {x: k})) for k in range(4)]
    assert [each.get("upload", 0) for each in found] == [2, 1, 0, 0]  # the mirror; captured; not asked for again
    session[w] = np.zeros(SMALL)
    assert session.run(y, {x: 1}) == 0


def test_assigned_and_loaded_values_are_used_and_updated(session, tmp_path):
    w = variable(np.arange(5))
    bump = w.assign_add(1)
    for _ in range(3):
        session.run(bump)
    session.save(tmp_path / "state.safetensors")
    session[w] = [0, 0, 0, 0, 10]
    session.run(bump)
    assert session[w].tolist() == [1, 1, 1, 1, 11]
    session.load(tmp_path / "state.safetensors")
    for _ in range(2):
        session.run(bump)
    assert session[w].tolist() == [5, 6, 7, 8, 9]


def test_a_feed_for_a_variable_is_not_written_and_the_result_is_kept(session):
    w = variable([1, 2])
    feed = np.array([10, 20], "float32")
    for _ in range(3):
        session.run(w.assign(w + 1), {w: feed})
        assert feed.tolist() == [10, 20] and session[w].tolist() == [11, 21]


def test_a_form_of_the_users_that_fails_leaves_everything_as_it_was(session):
    check_that_a_failing_form_changes_nothing(session)


def test_all_memory_is_given_back(session):
    x, w, step = training()
    for n in (3, 5):
        session.run(step, {x: np.ones((n, 8), "float32")})
    assert session.driver.used > 0
    kept = session[w]
    session.close()
    assert session.driver.used == 0 and kept.shape == (8, 2)


# --- steps that fail, and steps of the host's


def test_an_index_out_of_range_is_told_before_a_variable_is_written(session):
    table, index = variable(np.arange(12).reshape(4, 3)), gc.placeholder("index", shape=("n",), dtype="int64")
    rows = gc.embedding(index, table)
    update = gc.group(table.assign(table - gc.scatter_add(table, index, rows)))
    for _ in range(4):
        before = session[table]
        with pytest.raises(gc.ArgumentError) as caught:
            session.run([rows, update], {index: [0, 4]})
        assert "test_cuda_runtime.py" in str(caught.value) and (session[table] == before).all()
        session.run([rows, update], {index: [0, 3]})
        assert (session[table] != before).any()


def test_the_first_of_several_steps_that_fail_is_told(session):
    index = gc.placeholder("index", shape=("n",), dtype="int64")
    first = gc.take(gc.constant(np.arange(3.0)), index)
    second = gc.take(gc.constant(np.arange(5.0)), index + gc.cast(gc.exp(first) * 0, "int64"))
    session.run(second, {index: [0]})
    for _ in range(2):
        with pytest.raises(gc.ArgumentError, match="3"):
            session.run(second, {index: [7]})
        assert session.run(second, {index: [2]}) == 2


def test_the_host_runs_what_has_no_code_and_the_report_says_so(session):
    seen = []

    def noted(value):
        seen.append(value.copy())
        return value * 3

    x, w = gc.placeholder("x", shape=("n",)), variable([1.0])
    y = gc.exp(user_op(noted)(gc.tanh(x)))
    bump = w.assign_add(y.sum())
    fed = np.linspace(-1, 1, 5).astype("float32")
    for k in range(3):
        assert np.allclose(session.run([y, bump], {x: fed})[0], np.exp(3 * np.tanh(fed)))
        assert len(seen) == k + 1
    report = session.plan([y, bump], {x: fed}).report()
    assert "user_op" in report and "20 B copied to the host, 20 B back" in report
    assert "copies: a run takes 20 B to the host, for what NumPy computes, and 20 B back" in report
    assert "threads" not in report


def test_the_user_leaves_nodes_to_the_host(session):
    x, w = gc.placeholder("x", shape=("n", 4)), variable(np.linspace(-1, 1, 12).reshape(4, 3))
    with gc.device("cpu"):
        hidden = gc.tanh(x @ w) * 2
        with gc.device("cuda"):
            shifted = gc.exp(hidden) + 1
        y = hidden - shifted
    loss = (gc.sqrt(y * y + 1) * 3).sum()
    step = [loss, gc.optim.SGD(lr=0.01).minimize(loss)]
    feeds = {x: np.random.default_rng(0).normal(size=(5, 4)).astype("float32")}
    with gc.Session(device="reference") as reference, gc.Session(device="cpu") as native:
        for _ in range(3):
            expected = reference.run(step, feeds)[0]
            for each in (session, native):
                assert np.allclose(each.run(step, feeds)[0], expected, rtol=1e-5)
                assert np.allclose(each[w], reference[w], rtol=1e-5)
        plan, other = session.plan(step, feeds), native.plan(step, feeds)
    ops = {True: set(), False: set()}
    for kernel, made in zip(plan.kernels, plan.made, strict=True):
        ops[made.native].update(node.op.name for node in kernel.nodes)
    assert {"exp", "sqrt"} <= ops[True] and {"matmul", "tanh"} <= ops[False] and "exp" not in ops[False]
    assert "left to the host by gc.device; " in plan.report() and "copied to the host" in plan.report()
    assert "gc.device" not in other.report() and all(made.native for made in other.made)


def test_nodes_are_left_to_devices_that_exist():
    with pytest.raises(gc.ArgumentError, match="'cpu' or 'cuda', got 'gpu'"):
        gc.device("gpu")


def test_a_function_that_fails_leaves_variables_and_says_where(session):
    def picky(value):
        if value[0] > 5:
            raise ArithmeticError("too large")
        return value

    x, w = gc.placeholder("x", shape=(1,)), variable([1.0])
    update = w.assign(user_op(picky)(w + x))
    session.run(update, {x: [1]})
    session.run(update, {x: [1]})
    with pytest.raises(ArithmeticError) as caught:
        session.run(update, {x: [9]})
    assert "test_cuda_runtime.py" in caught.value.__notes__[0] and session[w].tolist() == [3]


def test_a_function_of_the_users_is_called_once_even_where_a_later_step_fails(session):
    calls = []

    def counted(value):
        calls.append(1)
        return value

    index = gc.placeholder("index", shape=(1,), dtype="int64")
    y = gc.take(gc.constant([1.0, 2.0]), user_op(counted)(index))
    with pytest.raises(gc.ArgumentError):
        session.run(y, {index: [2]})
    assert len(calls) == 1


# --- arrays on the device


@pytest.fixture
def apart(drivers):
    with gc.Graph(), gc.Session(device="cuda", results="device") as made:
        made.driver = drivers[0]
        yield made


def test_results_stay_on_the_device_if_asked_for(apart):
    x, w, (loss, train) = training()
    feeds = {x: np.ones((4, 8), "float32")}
    with gc.Session(device="reference") as reference:
        for _ in range(4):
            found, expected = apart.run([loss, train], feeds)[0], reference.run([loss, train], feeds)[0]
            assert repr(found) == "<array on 'cuda', float32[]>" and found.shape == () and found.nbytes == 4
            assert np.allclose(found, expected) and np.allclose(apart[w], reference[w])
    last = asked(apart, lambda: apart.run([loss, train], feeds))
    assert "download" not in last and last["copy"] == 1


def test_results_on_the_device_are_nobody_elses(apart):
    x = gc.placeholder("x", shape=("n",))
    y = x * 2
    found = [apart.run(y, {x: [k, k]}) for k in range(4)]
    assert [array.numpy().tolist() for array in found] == [[2 * k, 2 * k] for k in range(4)]
    apart.close()
    assert found[3].numpy().tolist() == [6, 6]


def test_what_lies_on_the_device_is_fed_by_one_copy(apart):
    x, bias = gc.placeholder("x", shape=("n", 3)), gc.placeholder("bias", shape=(3,))
    y = x * 2 + bias
    array = np.arange(12, dtype="float32").reshape(3, 4)[:, 1:].T[::-1]
    fed = {x: Foreign(np.ascontiguousarray(array)), bias: [1, 2, 3]}
    for _ in range(3):
        found = asked(apart, lambda: apart.run(y, fed))
        assert found["take"] == 1 and "download" not in found
    assert (np.asarray(apart.run(y, fed)) == array * 2 + [1, 2, 3]).all()
    assert (np.asarray(apart.run(y, {x: array, bias: Foreign(np.ones(3, "float32"))})) == array * 2 + 1).all()


def test_large_arrays_on_the_device_are_read_and_written_in_place(apart):
    count = LAUNCH_BYTES // 4
    x, y = gc.placeholder("x", shape=("n",)), gc.placeholder("y", shape=("n",))
    ones, more = apart.run([x + 1, x * 0 + 3], {x: np.zeros(count, "float32")})
    z = [gc.tanh(x * y), x - y]
    for _ in range(3):
        found = asked(apart, lambda: apart.run(z, {x: ones, y: more}))
        assert not {"take", "copy", "download", "replay"} & found.keys()
    moved = asked(apart, lambda: apart.run(z, {x: Foreign(np.ones(2 * count, "float32")[::2]), y: more}))
    assert moved["take"] == 1 and "copy" not in moved
    product, difference = apart.run(z, {x: ones, y: more})
    assert np.allclose(product, np.tanh(3.0)) and (difference.numpy() == -2).all()
    assert (ones.numpy() == 1).all() and (more.numpy() == 3).all()


def test_results_are_fed_again_without_waiting_for_the_device(apart, monkeypatch):
    x = gc.placeholder("x", shape=("n",))
    y = x + 1
    found = apart.run(y, {x: np.zeros(3, "float32")})
    monkeypatch.setattr(HostDriver, "imported", None)  # which is for arrays of others
    for _ in range(3):
        found = apart.run(y, {x: found})
    assert found.numpy().tolist() == [4, 4, 4]
    assert asked(apart, lambda: apart.run(y, {x: found}))["take"] == 1


def test_a_session_of_a_lost_device_can_be_closed(apart):
    x = gc.placeholder("x", shape=(2,))
    apart.run(x * 2, {x: [1, 2]})
    apart.driver.broken = True
    apart.close()
    apart.driver.broken = False


def test_sharing_an_array_of_a_lost_device_says_so(apart):
    x = gc.placeholder("x", shape=(2,))
    found = apart.run(x * 2, {x: [1, 2]})
    apart.driver.broken = True
    for share in (found.__dlpack__, found.__dlpack_device__, found.numpy):
        with pytest.raises(gc.DeviceError, match="the device host failed"):
            share()
    apart.driver.broken = False


def test_a_variable_is_given_what_lies_on_the_device(session):
    w = variable([1, 2])
    bump = w.assign_add(1)
    for k in range(3):
        found = asked(session, lambda k=k: session.__setitem__(w, Foreign(np.array([k, 5], "float32"))))
        assert found["take"] == 1 and "upload" not in found
        session.run(bump)
        session.run(bump)
        assert session[w].tolist() == [k + 2, 7]


def test_feeds_on_the_device_that_do_not_fit_are_told_with_all_others(session):
    x, y = gc.placeholder("x", shape=(2,)), gc.placeholder("y", shape=(3,))
    feeds = {x: Foreign(np.ones(2)), y: Foreign(np.ones(4, "float32"))}
    with pytest.raises(gc.FeedError, match="fed float64 on the device; convert it there"):
        session.run(x * 2, {x: feeds[x]})
    with pytest.raises(gc.FeedError, match="'y'"):
        session.run(y * 2, {y: feeds[y]})


def test_other_devices_take_nothing_that_lies_on_a_gpu():
    with gc.Graph(), gc.Session(device="cpu") as session:
        x = gc.placeholder("x", shape=(2,))
        with pytest.raises(gc.FeedError, match="an array on the device can't become one of NumPy"):
            session.run(x * 2, {x: Foreign(np.ones(2, "float32"))})


# --- what is missing, or lost


def test_a_plan_that_does_not_fit_is_told_before_it_runs(monkeypatch):
    drivers = on_host(monkeypatch, total=3 * MB)
    with gc.Graph(), gc.Session(device="cuda") as session:
        x, w = gc.placeholder("x", shape=("n", 256)), variable(np.ones(256))
        y = gc.softmax(x * w) @ gc.reshape(w, (256, 1))
        bump = w.assign_add(1)
        session.run([y, bump], {x: np.ones((16, 256), "float32")})
        launched = drivers[0].asked["launch"]
        with pytest.raises(gc.ResourceError) as caught:
            session.run([y, bump], {x: np.ones((4096, 256), "float32")})
        told = str(caught.value)
        assert "of memory, and the device has" in told and "4 MB: placeholder, float32[4096, 256]" in told
        assert "test_cuda_runtime.py" in told and drivers[0].asked["launch"] == launched
        assert session[w].tolist() == [2] * 256
        fitting = int(told.split("hint: n = ")[1].split(" ")[0])
        assert 16 < fitting < 4096
        session.run([y, bump], {x: np.ones((fitting, 256), "float32")})
        assert session[w].tolist() == [3] * 256


@pytest.mark.parametrize("results", ["numpy", "device"])
def test_whatever_memory_lacks_is_told_and_nothing_has_changed(monkeypatch, results):
    (drivers, allocate) = on_host(monkeypatch), HostDriver.allocate
    with gc.Graph(), gc.Session(device="cuda", results=results) as session:
        x, w, step = training()
        for n in range(3, 20):
            left = [n - 3 if n < 19 else 1000]

            def lacking(driver, nbytes, *, pooled=False, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise DeviceMemoryError
                return allocate(driver, nbytes, pooled=pooled)

            before, feeds = session[w], {x: np.ones((n * 1000, 8), "float32")}
            monkeypatch.setattr(HostDriver, "allocate", lacking)
            try:
                session.run(step, feeds)
                assert (session[w] != before).any()
            except gc.ResourceError:
                assert (session[w] == before).all() and n < 19
            monkeypatch.setattr(HostDriver, "allocate", allocate)
    assert drivers[0].asked["launch"]


def test_weights_that_do_not_fit_are_told(monkeypatch):
    on_host(monkeypatch, total=MB)
    with gc.Graph(), gc.Session(device="cuda") as session:
        w, x = variable(np.ones(MB)), gc.placeholder("x", shape=())
        with pytest.raises(gc.ResourceError, match="the device has"):
            session.run((w * x).sum(), {x: 1})
        assert session.run(x + 1, {x: 1}) == 2 and session[w].shape == (MB,)


def test_a_lost_device_is_told_and_other_sessions_go_on(session, drivers):
    x, w, step = training()
    feeds = {x: np.ones((4, 8), "float32")}
    with gc.Session(device="cpu") as other, gc.Session(device="cuda") as fresh:
        for each in (session, other, fresh):
            each.run(step, feeds)
        session.driver.broken = True
        for _ in range(2):
            with pytest.raises(gc.DeviceError, match="the device host failed: an illegal memory access") as caught:
                session.run(step, feeds)
            assert "session.load(...)" in caught.value.hint
        with pytest.raises(gc.DeviceError):
            session[w]
        assert isinstance(caught.value.__cause__, BrokenError)
        for each in (other, fresh):
            each.run(step, feeds)
            assert np.isfinite(each[w]).all()
        session.driver.broken = False


UNUSABLE = {
    "no driver": ((0, 13020, 1), "needs NVIDIA's driver", "nvidia.com/drivers"),
    "an old driver": ((12090, 13020, 1), "CUDA 13, and the driver knows CUDA 12", "pip install 'graphc[gpu12]'"),
    "a very old driver": ((11080, 12090, 1), "the driver knows CUDA 11", "install a newer driver"),
    "no device": ((13020, 13020, 0), "finds no device", "CUDA_VISIBLE_DEVICES"),
}


@pytest.mark.parametrize("why", UNUSABLE)
def test_what_keeps_a_gpu_from_being_used_is_told_with_the_remedy(why):
    (driver, made_for, count), message, remedy = UNUSABLE[why]
    with pytest.raises(gc.DeviceError, match=message) as caught:
        cupy_driver.check(driver, made_for, lambda: count)
    assert remedy in caught.value.hint


@pytest.mark.parametrize(("driver", "made_for"), [(13020, 13020), (13000, 13020), (13020, 12090), (12040, 12090)])
def test_drivers_run_what_was_made_for_older_ones(driver, made_for):
    assert cupy_driver.check(driver, made_for, lambda: 1) is None


def test_the_remedies_name_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra, package in cupy_driver.EXTRAS.values():
        assert any(needed.startswith(package) for needed in extras[extra])


def test_without_cupy_the_extra_is_named_and_nothing_is_imported_before():
    script = """
import sys
sys.modules["cupy"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "cupy" else find(name, *rest)
import graphc as gc
gc.Session(device="cpu").close()
print(any(name.startswith(("cupy", "graphc.runtime.cuda")) for name in sys.modules if sys.modules[name]))
try:
    gc.Session(device="cuda")
except gc.MissingExtra as error:
    print(error.message, error.hint)
"""
    first, second = output_of(script).splitlines()
    assert first == "False"
    assert second == "device 'cuda' needs the package 'cupy', which is not installed pip install 'graphc[gpu]'"


# --- profiles


def test_profiles_have_every_kernel_and_change_nothing(session, tmp_path):
    x, w, step = training()
    feeds = {x: np.ones((4, 8), "float32")}
    with gc.Session(device="reference") as reference:
        for k in range(3):
            value = session.run(step, feeds, profile=tmp_path / "trace.json")[0] if k else session.run(step, feeds)[0]
            assert np.allclose(value, reference.run(step, feeds)[0]) and np.allclose(session[w], reference[w])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kernels = [event for event in events if event["ph"] == "X" and event["cat"] != "session"]
    assert len(kernels) == len(session.plan(step, feeds).kernels)
    profile = session.profile(step, feeds, runs=2)
    assert "on 'cuda'" in str(profile) and all(kernel.ns > 0 for kernel in profile.kernels)
    assert profile.kernels[0].work.how == "played"
