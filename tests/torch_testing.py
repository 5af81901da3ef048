"""A function of arrays, with its gradients: in a graph, on eager tensors, and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import eager as ge

torch = pytest.importorskip("torch", reason="torch isn't installed here: `make test-torch` makes an environment")
torch.set_num_threads(1)  # the operands are tiny


def weights(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """The cotangent: positive and all different, so that no gradient cancels."""
    return np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(dtype)


def ours(function: Callable[..., Any], operands: Any, weight: Any = weights) -> list[np.ndarray[Any, Any]]:
    """The value, and the gradients in the float operands."""
    with gc.Graph(), gc.Session() as session:
        leaves = [gc.placeholder("x", array.shape, array.dtype) for array in operands]
        y = function(*leaves)
        floats = [leaf for leaf, array in zip(leaves, operands, strict=True) if array.dtype.kind == "f"]
        slopes = []
        if floats and np.dtype(y.dtype).kind == "f":
            slopes = gc.vjp(y, floats, weight(y.shape, y.dtype), disconnected="zero")
        return session.run([y, *slopes], dict(zip(leaves, operands, strict=True)))


def eagerly(function: Callable[..., Any], operands: Any, weight: Any = weights) -> list[np.ndarray[Any, Any]]:
    """The same, an op at a time over a tape."""
    with gc.Graph(), ge.set_training(False):  # as a session runs what trains nothing
        leaves = [ge.tensor(array, requires_grad=array.dtype.kind == "f") for array in operands]
        y = function(*leaves)
        floats = [leaf for leaf in leaves if leaf.requires_grad]
        slopes: Any = []
        if floats and np.dtype(y.dtype).kind == "f":
            if y.requires_grad:
                y.backward(weight(y.shape, y.dtype))
            slopes = [ge.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in floats]
        return [tensor.numpy() for tensor in (y, *slopes)]


def theirs(function: Callable[..., Any], operands: Any, weight: Any = weights) -> list[np.ndarray[Any, Any]]:
    leaves = [torch.tensor(array, requires_grad=array.dtype.kind == "f") for array in operands]
    y = function(*leaves)
    floats = [leaf for leaf in leaves if leaf.requires_grad]
    slopes: Any = []
    if floats and y.dtype.is_floating_point:
        if y.requires_grad:
            y.backward(torch.tensor(weight(y.shape, str(y.dtype).removeprefix("torch."))))
        slopes = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in floats]
    return [tensor.detach().numpy() for tensor in (y, *slopes)]


SIDES: dict[str, Callable[..., list[np.ndarray[Any, Any]]]] = {"static": ours, "eager": eagerly}
