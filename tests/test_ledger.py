"""The ledger's ways compute the same, its waterfall adds up, and what it says follows from what it measured."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

import graphc as gc
from graphc import eager as ge
from graphc import ledger_report
from graphc.eager.counting import counted
from graphc.ledger_report import Ledger, Measured
from graphc.passes.pipeline import ALGEBRA, STABILISE, switches
from graphc.passes.rewrite import FP_CLASSES
from graphc.runtime.devices import SWITCHES

measuring = sys.modules["graphc.ledger"]  # gc.ledger is the function
T_U = np.linspace(1, 8, 11, dtype="float32")
NAMES = [technique.name for technique in measuring.TECHNIQUES]
QUICK = {"rounds": 1, "turn": 0.0, "threads": 2}


def regression():
    """What is fetched and fed to train a line."""
    x, y = gc.placeholder("x", shape=("n",)), gc.placeholder("y", shape=("n",))
    w, b = gc.Variable(1.0, name="w"), gc.Variable(0.0, name="b")
    loss = gc.losses.mse_loss(w * x + b, y)
    return [loss, gc.optim.SGD(lr=1e-2).minimize(loss)], {x: T_U, y: 3 * T_U - 1}


def in_numpy():
    """The same, written with NumPy."""
    state = {"w": np.float32(1), "b": np.float32(0)}

    def step(x, y):
        error = state["w"] * x + state["b"] - y
        state["w"] -= np.float32(1e-2) * np.mean(2 * error * x)
        state["b"] -= np.float32(1e-2) * np.mean(2 * error)
        return [np.mean(error**2), None]

    return step


@pytest.fixture(scope="module")
def found():
    with gc.Graph():
        return gc.ledger(*regression(), **QUICK)


def in_eager():
    """The same, written with eager tensors."""
    w, b = ge.tensor(1.0, requires_grad=True), ge.tensor(0.0, requires_grad=True)
    optimizer = ge.optimizer(gc.optim.SGD(lr=1e-2), [w, b])

    def step(x, y):
        optimizer.zero_grad()
        loss = gc.losses.mse_loss(w * ge.tensor(x) + b, ge.tensor(y))
        loss.backward()
        optimizer.step()
        return [loss.detach(), None]

    return step


def made(base=(4.0,), stages=((3.0,), (1.0,)), compiling=6.0):
    """A ledger of these seconds a step."""
    ways = [Measured(f"way {k}", seconds, 5, 3, 7, 2048, 1024) for k, seconds in enumerate((base, *stages))]
    return Ledger("cpu", 2, ways[0], tuple(ways[1:]), (ways[1],), 20, compiling, 0.5)


# --- what is measured


def test_the_waterfall_goes_from_eager_through_every_technique_to_the_full_compiler(found):
    assert [way.name for way in found.stages] == ["compiled ahead", *NAMES]
    assert [way.name for way in found.without] == NAMES
    assert [bar.name for bar in found.bars] == ["compiled ahead", *NAMES]
    assert found.bars[0].before == found.base.median and found.bars[-1].after == found.full.median


def test_what_is_saved_adds_up(found):
    assert math.fsum(bar.saved for bar in found.bars) == pytest.approx(found.base.median - found.full.median)


def test_techniques_are_all_that_can_be_switched_off():
    named = {switch for technique in measuring.TECHNIQUES for switch in technique.disable}
    members = {"stabilise": STABILISE, "algebra": ALGEBRA}
    within = {rule.name for group in named & members.keys() for rule in members[group]}
    whole = {"simplify", *FP_CLASSES, *[group for group in members if {r.name for r in members[group]} <= named]}
    assert sorted((switches() | SWITCHES) - named - within - whole) == []
    gc.Session(device="reference", disable=tuple(named)).close()


def test_no_switch_belongs_to_two_techniques():
    named = [switch for technique in measuring.TECHNIQUES for switch in technique.disable]
    assert len(named) == len(set(named))


def test_kernels_and_bytes_are_those_of_the_plans(found):
    by_name = {way.name: way for way in found.stages}
    assert by_name["compiled ahead"].kernels > 10 and by_name["fusion"].kernels == 1
    assert by_name["fusion"].allocated < by_name["simplification"].allocated
    assert found.full.kernels == 1 and found.full.calls == 1, "the entry needs no Python"
    assert found.full.calls < by_name["command list"].calls <= found.base.calls
    (without_entry,) = [way for way in found.without if way.name == "entry"]
    assert without_entry.calls > 1
    assert found.written >= found.base.kernels > 10


def test_no_way_allocates_less_than_it_has_at_one_time(found):
    for way in (*found.stages, *found.without):
        assert way.peak <= round_up(way.allocated, way.kernels)


def round_up(nbytes, kernels):
    """With the bytes between buffers, which begin at multiples of 64."""
    return nbytes + 64 * (kernels + 1)


def test_an_eager_form_is_what_the_rest_is_compared_with():
    with gc.Graph():
        ledger = gc.ledger(*regression(), eager=in_eager(), **QUICK)
    assert ledger.base.name == "eager" and ledger.base.calls > 10
    assert ledger.base.kernels >= 8, "*, +, loss; a gradient of each; two updates"
    numbers = 4 * 5  # the loss, two gradients, two new values
    assert ledger.base.allocated == 3 * T_U.nbytes + numbers, "w * x, w * x + b, and the gradient of the loss there"
    assert ledger.base.peak >= 4 * T_U.nbytes


def test_an_eager_form_may_be_of_another_library():
    with gc.Graph():
        ledger = gc.ledger(*regression(), eager=in_numpy(), **QUICK)
    assert ledger.base.kernels is None and ledger.base.allocated is None
    assert ledger.base.peak > 0 and ledger.base.calls > 1


def test_what_an_eager_step_runs_is_counted():
    x = ge.tensor(np.ones((2, 3), "float32"))
    assert counted(lambda: None) == (0, 0)
    gc.exp(x + x)
    assert counted(lambda: gc.exp(x + x)) == (2, 48)
    with pytest.raises(ZeroDivisionError):
        counted(lambda: [x + x, 1 / 0])
    before = gc.exp(x).numpy()
    assert counted(lambda: gc.exp(x)) == (1, 24) and (gc.exp(x).numpy() == before).all()


def test_feeds_may_be_named_and_need_converting():
    with gc.Graph():
        (loss, train), feeds = regression()
        values = {key.name: value.tolist() for key, value in feeds.items()}
        assert gc.ledger({"loss": [loss], "train": train}, values, **QUICK).full.kernels == 1


# --- what must be equal


def test_an_eager_form_that_computes_something_else_is_refused():
    with gc.Graph():
        fetches, feeds = regression()
        with pytest.raises(gc.ArgumentError, match="eager= computes something else: in step 1 value 0 differs by 1"):
            gc.ledger(fetches, feeds, eager=lambda x, y: [in_numpy()(x, y)[0] + 1], **QUICK)
        with pytest.raises(gc.ArgumentError, match="in step 2 value 0 differs"):
            gc.ledger(fetches, feeds, eager=lambda x, y: in_numpy()(x, y), **QUICK)  # never learns
        with pytest.raises(gc.ArgumentError, match="there are 2 values, not 1"):
            gc.ledger(fetches, feeds, eager=lambda x, y: [x, y], **QUICK)
        with pytest.raises(gc.ArgumentError, match=r"value 0 has the shape \[11\], not \[\]"):
            gc.ledger(fetches, feeds, eager=lambda x, y: [x], **QUICK)


def test_a_technique_that_changes_results_is_named():
    with gc.Graph():
        fetches, feeds = regression()
        with pytest.raises(gc.InternalError, match="changes results"):
            gc.ledger(fetches, feeds, tolerance=-1.0, **QUICK)


def test_rounds_are_checked():
    with gc.Graph(), pytest.raises(gc.ArgumentError, match="rounds must be a positive int, got 0"):
        gc.ledger(*regression(), rounds=0)


# --- what follows from the figures


@pytest.mark.parametrize(("compiling", "steps"), [(6.0, 2), (6.1, 3), (0.0, 0), (3.0, 1)])
def test_compiling_pays_when_the_steps_have_saved_what_it_took(compiling, steps):
    assert made(compiling=compiling).payback == steps  # three seconds a step


def test_compiling_that_makes_nothing_faster_never_pays():
    slower = made(base=(1.0,), stages=((1.0,),))
    assert slower.payback is None and "it never pays for itself" in str(slower)


def test_medians_and_quartiles_are_those_of_the_turns():
    way = made(base=(5.0, 1.0, 2.0, 4.0, 3.0)).base
    assert way.quartiles == (2.0, 3.0, 4.0) and way.median == 3.0


def test_what_overlaps_is_not_told_apart():
    way, near, far = (made(base=seconds).base for seconds in ((1.0, 2.0, 3.0), (2.0, 3.0, 4.0), (8.0, 9.0)))
    assert not way.differs(near) and not near.differs(way)
    assert way.differs(far) and far.differs(way)


def test_a_ledger_reads_as_a_table():
    lines = str(made()).splitlines()
    assert lines[0] == "way 0 against static on 'cpu' with 2 threads: a step, median of 1 turns"
    assert lines[2].split() == ["way", "0", "4", "s", "4", "s", "-", "4", "s", "3", "5", "7", "2", "KB", "1", "KB"]
    assert lines[4].startswith("+ way 2") and " 3.00x " in lines[4]
    assert lines[5] == "20 nodes were written; all in all 4.00x as fast"
    assert "without way 1     3 s  3 s - 3 s   3.00x" in lines
    assert lines[-1] == "compiling took 6 s, with 50% of the code found on disk: it has paid for itself after 2 steps"


def test_a_ledger_is_data(found):
    data = json.loads(json.dumps(found.to_dict()))
    assert data["payback"] == found.payback and data["speedup"] == pytest.approx(found.speedup)
    assert [bar["name"] for bar in data["bars"]] == ["compiled ahead", *NAMES]
    assert data["stages"][-1]["kernels"] == 1


# --- the chart


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_a_ledger_is_drawn(found, tmp_path, name, begins):
    found.plot(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_the_same_figures_give_the_same_drawing_with_every_name(found, tmp_path):
    for name in ("a.svg", "b.svg"):
        found.plot(tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"+ {name}<" not in drawn or f"without {name}<" not in drawn] == []
    found_twice = replace(found, base=replace(found.base, seconds=(2 * found.base.median,)))
    found_twice.plot(tmp_path / "c.svg")
    assert (tmp_path / "c.svg").read_text(encoding="utf-8") != drawn


def test_what_can_not_be_told_from_noise_is_pale():
    assert ledger_report._colour(1.0, True) == ledger_report.BETTER
    assert ledger_report._colour(-1.0, True) == ledger_report.WORSE
    assert ledger_report._colour(1.0, False) == ledger_report._colour(-1.0, False) == ledger_report.FAINT


def test_a_drawing_needs_a_known_format_and_matplotlib(found, tmp_path, monkeypatch):
    with pytest.raises(gc.ArgumentError, match=r"must end in \.svg, \.png, \.pdf"):
        found.plot(tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(gc.MissingExtra, match=r"ledger\.plot needs the package 'matplotlib'"):
        found.plot(tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
