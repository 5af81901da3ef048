"""Hooks, and functions and ops of one's own, in eager execution."""

from __future__ import annotations

import numpy as np
import pytest
from eager_testing import Exp, Parts, Scaled, leaf

import graphc as gc
from graphc import eager as ge
from graphc.errors import GradientError

pytestmark = pytest.mark.usefixtures("as_a_thread_begins")


# --------------------------------------------------------------------------------------------- hooks and functions


def test_hooks_see_and_replace_gradients():
    w = leaf(2.0)
    y = w * 3
    seen = []
    y.register_hook(lambda g: seen.append(g.item()))
    w.register_hook(lambda g: g * 10)
    (y + y).backward()
    assert seen == [2]
    assert w.grad.item() == 60


def test_a_removed_hook_is_not_called():
    w = leaf(2.0)
    handle = w.register_hook(lambda g: g * 10)
    handle.remove()
    (w * 1.0).backward()
    assert w.grad.item() == 1
    with pytest.raises(GradientError, match="no hooks"):
        ge.tensor(1.0).register_hook(print)


def test_a_function_has_its_own_gradient():
    w = leaf()
    Scaled.apply(w, 3).sum().backward()
    assert w.grad.tolist() == [6, 6, 6]
    assert not Scaled.apply(ge.tensor(1.0), 3).requires_grad


def test_a_function_of_several_results():
    a, b = leaf(2.0), leaf(5.0)
    total, product = Parts.apply(a, b)
    product.backward(retain_graph=True)
    assert (a.grad.item(), b.grad.item()) == (5, 2)
    (total * product).backward()
    assert a.grad.item() == 5 + 10 + 7 * 5


def test_a_function_is_differentiated_twice():
    x = leaf(1.0)
    (g,) = ge.grad(Exp.apply(x), x, create_graph=True)
    (h,) = ge.grad(g, x)
    assert g.item() == h.item() == pytest.approx(np.e)


def test_a_function_keeps_the_values_of_its_call():
    w = leaf(3.0)
    total, product = Parts.apply(w, w)
    with ge.no_grad():
        w -= 2.0
    (total + product).backward()
    assert w.item() == 1 and w.grad.item() == 2 + 2 * 3


def test_a_function_that_returns_too_few_gradients_is_told():
    class Wrong(Scaled):
        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(GradientError, match=r"Wrong.backward returned 1 gradients for 2 arguments"):
        Wrong.apply(leaf(), 2).sum().backward()


def test_own_ops_run_eagerly():
    @gc.composite
    def swish(x, *, beta=1.0):
        return x * gc.sigmoid(beta * x)

    @gc.custom_gradient
    def clipped(x):
        return x, lambda dy: gc.clip(dy, -1, 1)

    w = leaf(0.0)
    swish(w, beta=2.0).backward()
    assert w.grad.item() == 0.5
    v = leaf(2.0)
    (clipped(v) * 7).backward()
    assert v.grad.item() == 1


def test_the_mode_is_that_of_the_call():
    by_mode = [gc.by_mode(ge.tensor(1.0), ge.tensor(2.0)).item()]
    with ge.set_training(False):
        by_mode.append(gc.by_mode(ge.tensor(1.0), ge.tensor(2.0)).item())
    assert by_mode == [1, 2]


def test_own_ops_that_read_changing_values_see_the_present_one():
    factor = 2.0

    @gc.composite
    def scaled(x):
        return x * factor

    t = ge.tensor(1.0)
    assert scaled(t).item() == 2
    factor = 5.0
    assert scaled(t).item() == 5
