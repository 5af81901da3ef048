"""What native plans keep from run to run, made of variables: it is made again whenever these have changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_phases import command, ran

import graphc as gc
from graphc.runtime.cpu import target
from graphc.runtime.cpu.driver import CommandList, State

CHANNELS, SIDE = 32, 12  # of images for which convolutions transform their weights


class Net:
    """A network with a convolution and a product, to be trained and evaluated on one session; made in a graph."""

    def __init__(self, **options: Any) -> None:
        rng = np.random.default_rng(1)
        init = {"w": (CHANNELS, CHANNELS, 3, 3), "v": (CHANNELS, 10)}
        self.w, self.v = (
            gc.Variable(rng.standard_normal(shape).astype("float32") / 10, name=name) for name, shape in init.items()
        )
        self.count = gc.Variable(np.float32(0), name="count", trainable=False)
        self.x = gc.placeholder("x", (None, CHANNELS, SIDE, SIDE))
        y = gc.relu(gc.conv2d(self.x, self.w, padding=1)).mean(axis=(2, 3)) @ self.v
        self.y = y
        self.train = gc.optim.SGD(lr=1.0).minimize((y * y).mean())
        self.counted = self.count.assign_add(1)
        self.session = gc.Session(**options)
        self.steps: dict[str, Callable[..., Any]] = {}

    def evaluated(self, x: Any, *, entry: bool) -> Any:
        if not entry:
            return self.session.run(self.y, {self.x: x})
        return self.steps.setdefault("y", self.session.compile(self.y, self.x))(x)

    def trained(self, x: Any, *, entry: bool) -> None:
        if not entry:
            self.session.run(self.train, {self.x: x})
        else:
            self.steps.setdefault("train", self.session.compile(self.train, self.x))(x)

    def do(self, what: str, seed: int, folder: Path) -> Any:
        """One of the things that can be done with a session; what comes out of it."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((1 + seed % 2, CHANNELS, SIDE, SIDE)).astype("float32")
        way, _, entry = what.partition(" ")
        if way == "evaluate":
            return self.evaluated(x, entry=bool(entry))
        if way == "train":
            return self.trained(x, entry=bool(entry))
        if way == "count":  # changes a variable that nothing is made of
            return self.session.run([self.y, self.counted], {self.x: x})[0]
        if way == "assign":
            self.session[self.w] = rng.standard_normal(self.w.shape).astype("float32") / 10
        if way == "save":
            self.session.save(folder / "kept.safetensors")
        if way == "load" and (folder / "kept.safetensors").exists():
            self.session.load(folder / "kept.safetensors")
        return None


WAYS = ("evaluate", "evaluate entry", "train", "train entry", "count", "assign", "save", "load")


def same(found: Any, wanted: Any) -> bool:
    return (found is None and wanted is None) or np.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threads", [1, 2])
def test_any_order_of_what_a_session_can_do_gives_what_the_reference_gives(
    seed: int, threads: int, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("cpu", "reference")]
    nets = []
    for folder, options in zip(folders, ({"device": "cpu", "threads": threads}, {"device": "reference"}), strict=True):
        folder.mkdir()
        with gc.Graph():
            nets.append(Net(**options))
    rng = np.random.default_rng(seed)
    for number in range(40):
        what = str(rng.choice(WAYS, p=[0.25, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]))
        found, wanted = (net.do(what, number, folder) for net, folder in zip(nets, folders, strict=True))
        assert same(found, wanted), (number, what)
    for net in nets:
        net.session.close()


@pytest.mark.parametrize("rows", [("n", 40), ("n", 130), (200, 50)], ids=str)
@pytest.mark.parametrize("order", ["first", "second", "transposed"])
def test_products_keep_the_panels_of_what_is_steady(order: str, rows: tuple[int | str, int]) -> None:
    """Runs of a few rows, which need no panels, come before others, and assignments between."""
    count, columns = rows
    rng = np.random.default_rng(0)
    with gc.Graph(), gc.Session(device="cpu", threads=2) as session:
        shape = (columns, 300) if order == "transposed" else (300, columns)
        w = gc.Variable(rng.standard_normal(shape).astype("float32"), name="w")
        x = gc.placeholder("x", (count, 300))
        ways = {"first": lambda: w.T @ x.T, "second": lambda: x @ w, "transposed": lambda: x @ w.T}
        y = gc.relu(ways[order]() - 1)
        for size in (1, 3, 20, 150, 2, 129) if count == "n" else (200, 200):
            for _ in range(2):
                given = rng.standard_normal((size, 300)).astype("float32")
                value = session[w]
                wanted = np.maximum(given @ (value.T if order == "transposed" else value) - 1, 0)
                found = session.run(y, {x: given})
                np.testing.assert_allclose(found, wanted.T if order == "first" else wanted, rtol=1e-4, atol=1e-3)
                session[w] = rng.standard_normal(shape).astype("float32")
        assert session.plan(y, {x: given}).kept_bytes >= 300 * columns * 4


def test_sessions_in_threads_keep_to_themselves(tmp_path: Path) -> None:
    order = ["evaluate", "train", "evaluate entry", "evaluate entry", "evaluate entry", "train entry", "evaluate entry"]

    def life(name: str, found: dict[str, list[Any]]) -> None:
        with gc.Graph():
            net = Net(device="cpu", threads=2)
            net.session[net.w] = np.full(net.w.shape, 0.01 * int(name), "float32")
            found[name] = [net.do(what, 2, tmp_path) for what in order * 3]

    together: dict[str, list[Any]] = {}
    threads = [threading.Thread(target=life, args=(str(k), together)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone: dict[str, list[Any]] = {}
    for name in together:
        life(name, alone)
    assert len(together) == 3
    for name, wanted in alone.items():
        for a, b in zip(together[name], wanted, strict=True):
            assert (a is None and b is None) or np.array_equal(a, b)


def test_a_variable_that_is_fed_is_not_kept() -> None:
    with gc.Graph():
        net = Net(device="cpu")
        x = np.ones((1, CHANNELS, SIDE, SIDE), "float32")
        w = net.session[net.w]
        for factor in (1.0, 2.0, 4.0):
            w *= factor
            found = net.session.run(net.y, {net.x: x, net.w: w})
            net.session[net.w] = w
            assert np.allclose(found, net.session.run(net.y, {net.x: x}), atol=1e-4)


def test_reports_and_bytes_tell_what_is_kept() -> None:
    x = np.ones((2, CHANNELS, SIDE, SIDE), "float32")
    with gc.Graph():
        net, without = Net(device="cpu"), Net(device="cpu", disable="prepared")
        plan = net.session.plan(net.y, {net.x: x})
        assert plan.kept_bytes >= 36 * 4 * CHANNELS * CHANNELS
        assert plan.kept_bytes == sum(made.kept for made in plan.made)
        assert "prepared: " in plan.report()
        training = net.session.plan(net.train, {net.x: x})
        assert training.kept_bytes == 0 and "prepared: " not in training.report()
        other = without.session.plan(without.y, {without.x: x})
        assert other.kept_bytes == 0 and other.peak_bytes <= plan.peak_bytes - plan.kept_bytes


def test_no_more_is_kept_than_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((2, CHANNELS, SIDE, SIDE), "float32")
    monkeypatch.setattr(target, "MAX_KEPT", 0)
    with gc.Graph():
        net = Net(device="cpu")
        assert net.session.plan(net.y, {net.x: x}).kept_bytes == 0
        reference = Net(device="reference")
        assert same(net.session.run(net.y, {net.x: x}), reference.session.run(reference.y, {reference.x: x}))


def test_plans_of_a_session_share_what_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((2, CHANNELS, SIDE, SIDE), "float32")
    with gc.Graph():
        net = Net(device="cpu")
        first = net.session.plan(net.y, {net.x: x}).kept_bytes
        monkeypatch.setattr(target, "MAX_KEPT", first)  # which has no room for more
        assert net.session.plan([net.y, net.counted], {net.x: x}).kept_bytes == first
        other = gc.relu(gc.conv2d(net.x, net.w, padding=0)) * 3.0
        assert net.session.plan(other, {net.x: x}).kept_bytes == 0
        for factor in (1.0, 2.0):
            net.session[net.w] = np.full(net.w.shape, factor, "float32")
            alone = net.session.run(net.y, {net.x: x})
            assert np.array_equal(net.session.run([net.y, net.counted], {net.x: x})[0], alone)
            assert np.array_equal(net.session.run(net.y, {net.x: x}), alone)


def test_the_driver_prepares_when_the_epoch_is_another_one() -> None:
    epoch, y = np.zeros(1, np.int64), np.zeros(100, np.int64)
    state = State(epoch, CommandList([command("note", 1), command("note", 2)]))
    uses = CommandList([command("note", 3)], state)
    changes = CommandList([command("note", 4)], state, changes=True)
    runs = [uses, uses, changes, uses]
    assert [ran(commands, y) for commands in runs] == [0] * 4
    assert y[1 : 1 + y[0]].tolist() == [1, 2, 3, 3, 4, 3]  # its own changes are of other variables
    assert epoch.tolist() == [1]
    epoch += 1
    ran(uses, y)
    state.forget()
    ran(uses, y)
    assert y[7 : 1 + y[0]].tolist() == [1, 2, 3, 1, 2, 3]


def test_a_run_that_fails_changes_nothing_and_stays_prepared() -> None:
    epoch, y = np.zeros(1, np.int64), np.zeros(100, np.int64)
    state = State(epoch, CommandList([command("note", 1)]))
    fails = CommandList([command("fail", 0)], state, changes=True)
    assert [ran(fails, y), ran(fails, y)] == [1, 1]
    assert y[:2].tolist() == [1, 1] and epoch.tolist() == [0]
