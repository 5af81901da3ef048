"""Plans that are kept whole: a program that starts again is run as before, without passes; see `outlines`."""

from __future__ import annotations

import gc as collector
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pack_testing import own_cache, unchanged_sources

import graphc as gc
from graphc.errors import GraphcError, GuardError
from graphc.operands import primitive
from graphc.ops.state import tracked
from graphc.runtime import session as sessions
from graphc.runtime.cache import ObjectCache
from graphc.runtime.cpu import jit, outlines, packs
from graphc.runtime.cpu.host import narrowed, this_host
from graphc.runtime.cpu.target import CpuExecutable, CpuTarget, _RefusedError

DEPTH = 9


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache of the test's own, and no wish to see what the passes do."""
    for name in outlines.LOOKED_AT:
        monkeypatch.delenv(name, raising=False)
    return own_cache(tmp_path, (jit, packs, outlines), monkeypatch)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[gc.Program]:
    """The programs on which the passes were run."""
    found: list[gc.Program] = []
    run = sessions.run_pipeline

    def noting(program: gc.Program, *args: object, **options: object) -> gc.Program:
        found.append(program)
        return run(program, *args, **options)

    monkeypatch.setattr(sessions, "run_pipeline", noting)
    return found


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with unchanged_sources(monkeypatch):
        yield


class Trained:
    """A network that is trained with everything that a run may take, and its session."""

    def __init__(
        self, depth: int = DEPTH, batch: int | str = 3, scale: float = 0.5, name: str = "x", halved: bool = False
    ) -> None:
        self.graph = gc.Graph()
        with self.graph:
            self.x = gc.placeholder(name, (batch, 5))
            self.shift = gc.placeholder("shift", (), default=0.25)
            self.labels = gc.placeholder("labels", (batch,), "int64")
            h = self.x + self.shift
            for k in range(depth):
                w = gc.Variable(gc.nn.init.normal(), name=f"w{k}", shape=(5 + k, 6 + k))
                h = gc.tanh(h @ w) * scale
            h = gc.dropout(h, 0.25)
            self.loss = gc.losses.cross_entropy(h, self.labels)
            if halved:
                self.loss = self.loss + self.x.reshape(2, -1).mean()
            self.train = gc.optim.SGD(lr=0.1, momentum=0.9).minimize(self.loss)
        self.session = gc.Session(self.graph, device="cpu", seed=3)

    def feeds(self, rows: int = 3, label: int = 2) -> dict[gc.Node, np.ndarray]:
        values = np.linspace(-1, 1, 5 * rows, dtype=np.float32).reshape(rows, 5)
        return {self.x: values, self.labels: np.full(rows, label)}

    def steps(self, count: int = 3, rows: int = 3) -> bytes:
        """The losses of some steps and all variables after them."""
        losses = [self.session.run([self.loss, self.train], self.feeds(rows))[0] for _ in range(count)]
        return b"".join(a.tobytes() for a in [*losses, *[self.session[v] for v in self.graph.variables()]])


def file_of(objects: ObjectCache, what: str = "outline") -> Path:
    assert objects.directory is not None
    (found,) = objects.directory.glob(f"*-{what}.o")
    return found


def test_a_program_that_comes_again_needs_no_passes(objects: ObjectCache, passed: list[gc.Program]) -> None:
    first = Trained().steps()
    assert len(passed) == 1
    assert Trained(name="another name").steps() == first
    assert len(passed) == 1, "names are no part of it"
    second = Trained()
    assert [second.steps(), Trained().steps()] == [first, first]


@pytest.mark.skipif("linux" not in this_host().triple, reason="object files have another format here")
def test_its_code_is_linked_once_by_another_thread(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Trained().steps()
    collector.collect()
    jit._loaded.clear()
    linked: list[bool] = []
    begin = jit.Code.__init__

    def noting(code: jit.Code, *args: object, later: bool = False) -> None:
        linked.append(later)
        begin(code, *args, later=later)

    monkeypatch.setattr(jit.Code, "__init__", noting)
    assert Trained().steps() == first
    assert linked == [True]


def test_code_that_cannot_be_one_file_is_found_as_it_is(
    objects: ObjectCache, passed: list[gc.Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "merged", lambda images, aliases: None)
    first = Trained().steps()
    collector.collect()
    jit._loaded.clear()
    assert Trained().steps() == first
    assert len(passed) == 1


def test_symbolic_sizes_are_asked_for_again(objects: ObjectCache, passed: list[gc.Program]) -> None:
    first = [Trained(batch="n").steps(rows=rows) for rows in (3, 7)]
    assert [Trained(batch="n").steps(rows=rows) for rows in (3, 7)] == first
    assert len(passed) == 1
    assert first[0] == Trained(batch=3).steps()
    assert len(passed) == 2


def test_what_was_assumed_of_sizes_is_checked_again(objects: ObjectCache, passed: list[gc.Program]) -> None:
    def told() -> str:
        net = Trained(batch="n", halved=True)
        net.steps(1, rows=4)
        with pytest.raises(GuardError) as error:
            net.steps(1, rows=3)
        return str(error.value)

    wanted = told()
    assert "n = 3" in wanted
    assert told() == wanted
    assert len(passed) == 1


def test_what_differs_is_made_anew(objects: ObjectCache, passed: list[gc.Program]) -> None:
    Trained().steps()
    for count, other in enumerate((dict(depth=DEPTH + 1), dict(scale=0.25), dict(batch=4)), 2):
        rows = other.get("batch", 3)
        Trained(**other).steps(rows=rows)
        assert len(passed) == count, other


def test_an_evaluation_is_no_training(objects: ObjectCache, passed: list[gc.Program]) -> None:
    def scores(training: bool) -> bytes:
        jit._loaded.clear()  # code that is in memory isn't written to files
        net = Trained()
        return net.session.run([net.loss, net.train], net.feeds(), training=training)[0].tobytes()

    first = [scores(training) for training in (False, True)]
    assert first[0] != first[1], "dropout"
    assert [scores(training) for training in (False, True)] == first
    assert len(passed) == 2


def test_a_key_holds_all_that_a_plan_depends_on(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    key_of = outlines.key_of
    monkeypatch.setattr(outlines, "key_of", lambda *args: keys.append(key_of(*args)))
    for options in ({}, dict(disable="schedule"), dict(disable="algebra"), dict(conv_precision="exact")):
        net = Trained()
        net.session = gc.Session(net.graph, device="cpu", **options)
        net.steps()
    narrow = narrowed(this_host(), 16)
    init = CpuTarget.__init__
    monkeypatch.setattr(CpuTarget, "__init__", lambda self, *args, **more: init(self, *args, **more, host=narrow))
    Trained().steps()
    monkeypatch.setattr(packs, "_sources", lambda: "other files")
    Trained().steps()
    assert None not in keys
    assert len(set(keys)) == len(keys) == 6
    monkeypatch.setattr(packs, "_sources", lambda: "")
    Trained().steps()
    assert keys[6] is None, "files have changed since they were imported"


def test_a_key_holds_the_order_of_auxiliary_updates(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one variable compose in the order of their creation."""
    monkeypatch.setattr(outlines, "NODES", range(1, 100))

    def key(first: str) -> str | None:
        with gc.Graph():
            x, count = gc.placeholder("x"), gc.Variable(1.0, name="count")
            makers = {
                "add": lambda: tracked(gc.exp(x), count, count + 1.0),
                "double": lambda: tracked(x, count, count * 2.0),
            }
            made = {name: makers[name]() for name in sorted(makers, key=lambda name: name != first)}
            return outlines.key_of(gc.Program((x,), (made["add"], made["double"])), [])

    assert key("add") == key("add") is not None
    assert key("add") != key("double")


@pytest.mark.parametrize("what", ["outline", "plan"])
def test_a_damaged_file_counts_as_missing(objects: ObjectCache, passed: list[gc.Program], what: str) -> None:
    first = Trained().steps()
    file = file_of(objects, what)
    sound = file.read_bytes()
    file.write_bytes(sound[:-1])
    assert Trained().steps() == first
    assert len(passed) == 2
    assert file_of(objects, what).read_bytes() == sound


def test_what_is_no_outline_counts_as_missing(objects: ObjectCache) -> None:
    program = gc.Program((), ())
    objects.put("k-outline", b"no pickle")
    for key in ("k", "other", None):
        assert outlines.recalled(key, program, pytest.fail) is None


def test_who_wants_to_see_the_passes_does(
    objects: ObjectCache, passed: list[gc.Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_VERIFY", "1")
    assert Trained().steps() == Trained().steps()
    assert len(passed) == 2
    assert objects.directory is not None
    assert not list(objects.directory.glob("*-outline.o"))


def test_a_users_own_op_is_made_anew(objects: ObjectCache, passed: list[gc.Program]) -> None:
    for k in (2.0, 3.0):
        own = primitive("own", lambda x: x, lambda x, k=k: k * x, None, "opaque")
        with gc.Graph(), gc.Session(device="cpu") as session:
            h = x = gc.placeholder("x", (3, 5))
            for width in range(5, 120):
                h = gc.tanh(h @ np.full((width, width + 1), 0.01, np.float32))
            one = np.ones((3, 5), np.float32)
            assert session.run(own(x), {x: one}).tolist() == (k * one).tolist()
            session.run(own(h), {x: one})
    assert len(passed) == 4


def test_a_plan_tells_the_present_names(objects: ObjectCache, passed: list[gc.Program]) -> None:
    first = Trained()
    wanted = str(first.session.plan([first.loss, first.train], first.feeds()).report())
    again = Trained(name="features")
    again.steps()
    plan = again.session.plan([again.loss, again.train], again.feeds())
    assert plan.report() == wanted
    assert "features" in [buffer.node.display_name for buffer in plan.buffers if buffer.role == "given"]


def test_a_profile_tells_the_kernels(objects: ObjectCache) -> None:
    first, again = Trained(), Trained()
    kernels = first.session.profile([first.loss, first.train], first.feeds(), runs=1).kernels
    again.steps(1)
    found = again.session.profile([again.loss, again.train], again.feeds(), runs=1).kernels
    assert sorted(k.work.name for k in found) == sorted(k.work.name for k in kernels)


def test_what_native_code_refuses_is_told_as_ever(objects: ObjectCache, passed: list[gc.Program]) -> None:
    def told(net: Trained) -> str:
        before = net.session.run(net.loss, net.feeds(), training=False)
        with pytest.raises(GraphcError) as error:
            net.session.run([net.loss, net.train], net.feeds(label=99))
        assert net.session.run(net.loss, net.feeds(), training=False) == before, "nothing was changed"
        return str(error.value)

    Trained().steps()
    count = len(passed)
    wanted = told(Trained())
    assert "99" in wanted
    assert len(passed) > count, "whoever tells it knows the program"
    assert told(Trained()) == wanted


def test_short_memory_is_told_as_ever(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    Trained().steps()

    def short(self: CpuExecutable, *args: object) -> None:
        if self._whole is not None:
            raise MemoryError
        raise _RefusedError("the whole plan is asked")

    monkeypatch.setattr(CpuExecutable, "_run", short)
    with pytest.raises(_RefusedError, match="the whole plan is asked"):
        Trained().steps()


@pytest.mark.parametrize(("depth", "kept"), [(3, False), (DEPTH, True)])
def test_small_programs_are_not_kept(objects: ObjectCache, depth: int, kept: bool) -> None:
    Trained(depth=depth).steps()
    assert objects.directory is not None
    assert bool(list(objects.directory.glob("*-outline.o"))) == kept
