"""The workloads in graphc's eager twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphc as gc
from benchmarks import models
from benchmarks.systems import Prepared, Table
from benchmarks.systems.graphc_session import Arrays, Data, model_of
from benchmarks.workloads import ADAM_LR, LINREG_LR, MOMENTUM, SGD_LR
from graphc import eager as ge


def training_step(loss_of: Callable[..., Any], optimizer: ge.Optimizer, data: Data) -> Prepared:
    """Forward, backward and update."""
    inputs = [ge.tensor(array) for array in data]

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of(*inputs)
        loss.backward()
        optimizer.step()
        return loss

    return Prepared(step)


def training(make: Callable[[models.Library], Any], rules: gc.optim.Optimizer) -> Callable[[Arrays, Data], Prepared]:
    """A classifier's training step."""

    def prepare(weights: Arrays, data: Data) -> Prepared:
        with gc.Graph():
            model = ge.module(model_of(make, weights))

        def loss_of(inputs: Any, targets: Any) -> Any:
            return gc.losses.cross_entropy(model(inputs), targets)

        return training_step(loss_of, ge.optimizer(rules, model), data)

    return prepare


def linreg(weights: Arrays, data: Data) -> Prepared:
    """w*t_u + b to t_c."""
    w, b = ge.tensor(1.0, requires_grad=True), ge.tensor(0.0, requires_grad=True)
    optimizer = ge.optimizer(gc.optim.SGD(lr=LINREG_LR), [w, b])
    return training_step(lambda t_u, t_c: ((w * t_u + b - t_c) ** 2).mean(), optimizer, data)


def tracked_add(weights: Arrays, data: Data) -> Prepared:
    """One small op whose gradient can be asked for."""
    a, b = (ge.tensor(array, requires_grad=True) for array in data)
    return Prepared(lambda: a + b, np.asarray)


def prepare(variant: str, threads: int) -> Table:
    """The table."""
    return {
        "tracked_add": tracked_add,
        "linreg": linreg,
        "mlp": training(models.mlp, gc.optim.Adam(lr=ADAM_LR)),
        "lenet": training(models.lenet, gc.optim.SGD(lr=SGD_LR, momentum=MOMENTUM)),
    }
