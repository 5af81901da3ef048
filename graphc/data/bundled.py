"""Small real data sets that come with scikit-learn, so that everything here works offline.

Each is split once and for all, by a rule of its own: within each class every fifth sample of a fixed random
order is held out. So the parts are disjoint, cover everything, have nearly the classes' shares, and never
change with a release of scikit-learn or NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from graphc import philox
from graphc.data.dataset import TensorDataset
from graphc.errors import ArgumentError, MissingExtra

Split = Literal["train", "test", "all"]
Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]

HELD_OUT = 5  # one sample in so many is in the test part


def _by_pixel_range(features: Features, train: Rows) -> Features:
    return features / np.float32(16)  # a pixel counts the marked dots of a 4×4 cell


def _standardised(features: Features, train: Rows) -> Features:
    """Zero mean and unit variance over the training part only, so that nothing of the test part leaks."""
    known = features[train].astype(np.float64)
    scaled = (features - known.mean(axis=0)) / known.std(axis=0)
    return np.asarray(scaled, np.float32)


@dataclass(frozen=True)
class _Source:
    """A loader of `sklearn.datasets`, the shape of one sample, and the way its features are normalised."""

    loader: str
    shape: tuple[int, ...]
    normalise: Callable[[Features, Rows], Features]


SOURCES = {
    "digits": _Source("load_digits", (1, 8, 8), _by_pixel_range),
    "iris": _Source("load_iris", (4,), _standardised),
    "wine": _Source("load_wine", (13,), _standardised),
    "breast_cancer": _Source("load_breast_cancer", (30,), _standardised),
}


def digits(split: Split = "train", *, normalize: bool = True) -> TensorDataset:
    """1,797 written digits: images float32 [n, 1, 8, 8] in [0, 1] (unnormalised 0 to 16), labels int64 [n].

    Raises:
        MissingExtra: scikit-learn isn't installed.
        ArgumentError: an unknown split.
    """
    return _load("digits", split, normalize)


def iris(split: Split = "train", *, normalize: bool = True) -> TensorDataset:
    """150 flowers of 3 kinds: features float32 [n, 4] (unnormalised: cm), labels int64 [n]. See `digits`."""
    return _load("iris", split, normalize)


def wine(split: Split = "train", *, normalize: bool = True) -> TensorDataset:
    """178 wines of 3 growers: features float32 [n, 13], labels int64 [n]. See `digits`."""
    return _load("wine", split, normalize)


def breast_cancer(split: Split = "train", *, normalize: bool = True) -> TensorDataset:
    """569 tumours, malignant (0) or benign (1): features float32 [n, 30], labels int64 [n]. See `digits`."""
    return _load("breast_cancer", split, normalize)


def _load(name: str, split: Split, normalize: bool) -> TensorDataset:
    source = SOURCES[name]
    features, labels = _raw(name)
    test = _held_out(labels, philox.stream_key(f"graphc.data.split/{name}"))
    parts = {"train": ~test, "test": test, "all": np.full(len(labels), True)}
    if split not in parts:
        raise ArgumentError(f"{name} has the splits {', '.join(map(repr, parts))}, got {split!r}")
    values = source.normalise(features, ~test) if normalize else features
    rows = parts[split]
    return TensorDataset(values[rows].reshape(-1, *source.shape), labels[rows])


def _held_out(labels: Labels, stream: int) -> Rows:
    """Which samples are in the test part: a stratified fifth, a function of `labels` and `stream` only."""
    test = np.full(len(labels), False)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        order = philox.permutation(0, stream, label, len(members))
        test[members[order[HELD_OUT - 1 :: HELD_OUT]]] = True
    return test


@functools.cache
def _raw(name: str) -> tuple[Features, Labels]:
    """All samples as scikit-learn gives them: features float32 [n, f] and labels int64 [n]."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra("scikit-learn", "data", f"graphc.data.{name}") from error
    table: Any = getattr(datasets, SOURCES[name].loader)()
    return table.data.astype(np.float32), table.target.astype(np.int64)
