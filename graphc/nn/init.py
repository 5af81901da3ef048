"""What parameters start from: torch's initialisers, as values that are called with a seed and a name.

Every random one is a pure function of (seed, name of the variable, shape, dtype), so that adding other layers changes
nothing. `fan_in` and `fan_out` are those of a weight [out, in, *kernel]: in or out, times the taps of the kernel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from graphc import philox
from graphc.errors import ArgumentError, ShapeError, did_you_mean
from graphc.op import Array
from graphc.ops.state import Zeros
from graphc.types import np_dtype

__all__ = [
    "Initializer",
    "calculate_gain",
    "constant",
    "eye",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "trunc_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Shape = tuple[int, ...]

MAX_REDRAWS = 4096  # with LEAST_MASS inside, an element needs as many once in 10^18 elements
LEAST_MASS = 0.01


class Initializer(Protocol):
    """What makes the first value of a variable."""

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array: ...


# The factor that keeps the spread of activations from layer to layer, by nonlinearity and its parameter.
GAINS: dict[str, Callable[[float | None], float]] = {
    "linear": lambda parameter: 1.0,
    "conv1d": lambda parameter: 1.0,
    "conv2d": lambda parameter: 1.0,
    "conv3d": lambda parameter: 1.0,
    "sigmoid": lambda parameter: 1.0,
    "tanh": lambda parameter: 5 / 3,
    "relu": lambda parameter: math.sqrt(2),
    "leaky_relu": lambda parameter: math.sqrt(2 / (1 + (0.01 if parameter is None else parameter) ** 2)),
    "selu": lambda parameter: 3 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """torch's recommended gain for a nonlinearity; `param` is the slope of "leaky_relu" (0.01 by default).

    Raises:
        ArgumentError: an unknown nonlinearity.
    """
    if nonlinearity not in GAINS:
        raise ArgumentError(
            f"no gain is known for {nonlinearity!r}{did_you_mean(nonlinearity, GAINS)}",
            hint=f"one of {', '.join(GAINS)}",
        )
    return GAINS[nonlinearity](param)


def fans(shape: Shape) -> tuple[int, int]:
    """`(fan_in, fan_out)` of a weight [out, in, *kernel]; raises ShapeError for fewer than two dimensions."""
    if len(shape) < 2:
        raise ShapeError(f"fan in and fan out need at least two dimensions, got {list(shape)}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def _drawn_uniform(seed: int, name: str, shape: Shape, dtype: str, low: float, high: float) -> Array:
    if low == high or 0 in shape:
        return np.full(shape, low, np_dtype(dtype))
    return philox.uniform(seed, philox.stream_key(name), 0, shape, np_dtype(dtype), low, high)


def _drawn_normal(seed: int, name: str, shape: Shape, dtype: str, mean: float, std: float, counter: int = 0) -> Array:
    return philox.normal(seed, philox.stream_key(name), counter, shape, np_dtype(dtype), mean, std)


@dataclass(frozen=True)
class constant:
    """Every element `value`."""

    value: float

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        return np.full(shape, self.value, np_dtype(dtype))


@dataclass(frozen=True)
class zeros(Zeros, constant):
    """Zeros."""

    value: float = field(default=0.0, init=False, repr=False)


@dataclass(frozen=True)
class ones(constant):
    """Ones."""

    value: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True)
class eye:
    """The identity matrix, of two dimensions that may differ."""

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        if len(shape) != 2:
            raise ShapeError(f"{name!r}: an identity matrix has two dimensions, got {list(shape)}")
        return np.eye(*shape, dtype=np_dtype(dtype))


@dataclass(frozen=True)
class uniform:
    """Uniform in [a, b)."""

    a: float = 0.0
    b: float = 1.0

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        return _drawn_uniform(seed, name, shape, dtype, self.a, self.b)


@dataclass(frozen=True)
class normal:
    """Normal."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        return _drawn_normal(seed, name, shape, dtype, self.mean, self.std)


@dataclass(frozen=True)
class trunc_normal:
    """Normal of the given mean and deviation, kept within [a, b]: what falls outside is drawn again.

    Raises:
        ArgumentError: `std` isn't positive, or less than 1 % of the normal distribution lies within [a, b].
    """

    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ArgumentError(f"trunc_normal needs std > 0, got {self.std!r}")
        low, high = ((bound - self.mean) / (self.std * math.sqrt(2)) for bound in (self.a, self.b))
        if (math.erf(high) - math.erf(low)) / 2 < LEAST_MASS:
            raise ArgumentError(
                f"almost nothing of a normal distribution with mean {self.mean} and std {self.std} "
                f"lies within [{self.a}, {self.b}]",
                hint="gc.nn.init.uniform(a, b) is nearly the same there",
            )

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        values = _drawn_normal(seed, name, shape, dtype, self.mean, self.std)
        for counter in range(1, MAX_REDRAWS):
            outside = (values < self.a) | (values > self.b)
            if not outside.any():
                break
            values = np.where(outside, _drawn_normal(seed, name, shape, dtype, self.mean, self.std, counter), values)
        return values


class _Scaled(ABC):
    """A distribution around 0 whose standard deviation follows from the shape."""

    @abstractmethod
    def std(self, shape: Shape) -> float:
        """The standard deviation for a weight of this shape."""


class _Uniform(_Scaled):
    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        bound = 0.0 if 0 in shape else math.sqrt(3) * self.std(shape)
        return _drawn_uniform(seed, name, shape, dtype, -bound, bound)


class _Normal(_Scaled):
    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        return _drawn_normal(seed, name, shape, dtype, 0.0, 0.0 if 0 in shape else self.std(shape))


@dataclass(frozen=True)
class _Xavier(_Scaled):
    gain: float = 1.0

    def std(self, shape: Shape) -> float:
        return self.gain * math.sqrt(2 / sum(fans(shape)))


@dataclass(frozen=True)
class _Kaiming(_Scaled):
    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        calculate_gain(self.nonlinearity, self.a)
        if self.mode not in ("fan_in", "fan_out"):
            raise ArgumentError(f"mode {self.mode!r} is neither 'fan_in' nor 'fan_out'")

    def std(self, shape: Shape) -> float:
        fan = fans(shape)[self.mode == "fan_out"]
        return calculate_gain(self.nonlinearity, self.a) / math.sqrt(fan)


class xavier_uniform(_Uniform, _Xavier):
    """Uniform with variance gain² · 2/(fan_in + fan_out) (Glorot and Bengio, AISTATS 2010)."""


class xavier_normal(_Normal, _Xavier):
    """Normal with variance gain² · 2/(fan_in + fan_out) (Glorot and Bengio, AISTATS 2010)."""


class kaiming_uniform(_Uniform, _Kaiming):
    """Uniform with variance gain²/fan (He et al., ICCV 2015); `a` is the slope of "leaky_relu", `mode` the fan."""


class kaiming_normal(_Normal, _Kaiming):
    """Normal with variance gain²/fan (He et al., ICCV 2015); `a` is the slope of "leaky_relu", `mode` the fan."""


@dataclass(frozen=True)
class orthogonal:
    """`gain` times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al., ICLR 2014).

    A weight of more than two dimensions is taken as the matrix [out, everything else]. The matrix is Q of the QR
    decomposition of normal draws, with the signs that make it uniform among orthogonal ones.
    """

    gain: float = 1.0

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        if len(shape) < 2:
            raise ShapeError(f"{name!r}: an orthogonal weight has at least two dimensions, got {list(shape)}")
        rows, columns = shape[0], math.prod(shape[1:])
        drawn: np.ndarray[Any, Any] = _drawn_normal(seed, name, (rows, columns), "float64", 0.0, 1.0)
        q, r = np.linalg.qr(drawn.T if rows < columns else drawn)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return (self.gain * (q.T if rows < columns else q)).reshape(shape).astype(np_dtype(dtype))
