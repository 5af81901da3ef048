"""What tests of eager execution share: leaves, and functions with gradients of their own."""

import pytest

import graphc as gc
from graphc import eager as ge
from graphc.eager.modes import KNOWN


def leaf(value=(1.0, 2.0, 3.0)):
    return ge.tensor(list(value) if isinstance(value, tuple) else value, requires_grad=True)


def forget_calls(monkeypatch: pytest.MonkeyPatch):
    """Until the test ends, nothing is known of the calls that others have compiled."""
    monkeypatch.setitem(KNOWN, True, {})
    monkeypatch.setattr(ge.modes.modes, "known", KNOWN[True])


class Scaled(ge.Function):
    """x * n, whose gradient is told to be twice that."""

    @staticmethod
    def forward(ctx, x, n):
        ctx.n = n
        return x * n

    @staticmethod
    def backward(ctx, g):
        return g * (2 * ctx.n), None


class Exp(ge.Function):
    """exp(x), whose gradient is made of the saved result."""

    @staticmethod
    def forward(ctx, x):
        y = gc.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Parts(ge.Function):
    """The sum and the product, of which one may have no gradient."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a + b, a * b

    @staticmethod
    def backward(ctx, first, second):
        a, b = ctx.saved_tensors
        return first + second * b, first + second * a
