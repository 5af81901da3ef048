"""Random draws, a new one each run: `gc.random.normal(shape)`; `graphc.ops.random` says what their bits depend on."""

from graphc.ops.random import bernoulli, integers, normal, uniform

__all__ = ["bernoulli", "integers", "normal", "uniform"]
