"""The memory of real networks: little more than what is live at a time, in training and in evaluation.

Also that their plans are right: they are replayed byte by byte, and run.
"""

import runpy

import numpy as np
import pytest
from checkout import ROOT
from nets import NETS
from random_checks import byte_problems, is_tight, least_peak

import graphc as gc
from graphc.runtime import plan as plan_target
from graphc.runtime.devices import DEVICES
from graphc.verify_plan import verify_plan


@pytest.fixture(params=NETS)
def net(request):
    """Each network, in a graph of its own."""
    with gc.Graph():
        yield NETS[request.param]()


def test_the_arena_is_at_most_eight_percent_larger_than_what_is_live(net):
    with gc.Session() as sess:
        for fetches in ([net.loss, net.train], net.predicted):
            plan = sess.plan(fetches, net.feeds)
            verify_plan(plan)
            assert list(byte_problems(plan)) == []
            assert plan.lower_bound_bytes == least_peak(plan)
            assert is_tight(plan), f"{plan.peak_bytes} bytes, of which {least_peak(plan)} are live at once"


def test_predictions_loss_and_gradients_are_those_of_the_reference(net):
    slopes = gc.gradients(net.loss, [variable for variable in net.train if variable.trainable])
    found = {}
    for device in ("reference", "plan"):
        with gc.Session(device=device) as sess:
            predicted = sess.run(net.predicted, net.feeds)
            loss, gradients = sess.run([net.loss, slopes], net.feeds, training=True)
            found[device] = [predicted, loss, *gradients]
    for plan, reference in zip(found["plan"], found["reference"], strict=True):
        np.testing.assert_allclose(plan, reference, rtol=0, atol=1e-4 * max(1.0, np.abs(reference).max()))


@pytest.mark.parametrize("name", ["custom_gradient", "named_dims"])
def test_the_plans_of_the_small_examples_are_tight(name, monkeypatch):
    plans = []

    def recorded(*args, **options):
        plans.append(bind_plan(*args, **options))
        return plans[-1]

    bind_plan = plan_target.bind_plan
    monkeypatch.setattr(plan_target, "bind_plan", recorded)
    monkeypatch.setitem(DEVICES, "cpu", DEVICES["plan"])
    with gc.Graph():
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert plans
    assert all(is_tight(plan) for plan in plans)
