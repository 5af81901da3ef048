"""Batches from a data set, in an order that can be repeated and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from graphc.data.collate import default_collate
from graphc.data.dataset import ArrayDataset, Dataset
from graphc.data.sampler import BatchSampler, RandomSampler, announce_epoch, sized
from graphc.errors import ArgumentError, StateError

NOTED = 8  # sample numbers that a note about a batch spells out


@dataclass
class _Cursor:
    """Where one pass over the data stands: its epoch, the batches it handed out, and whether it began."""

    epoch: int = 0
    batch: int = 0
    started: bool = False


class DataLoader:
    """Batches of `dataset`, under torch's names; each pass (`for batch in loader`) is the next epoch, from 0.

    The order depends on `seed` and the epoch only. Data is loaded in the caller's process, a batch when it is
    asked for.

    Args:
        dataset: `len(dataset)` samples `dataset[i]`; an `ArrayDataset` such as `TensorDataset` makes batches
            at once.
        batch_size: samples a batch; None hands out single samples as they are.
        shuffle: a new random order each epoch.
        sampler: an iterable of sample numbers, instead of `shuffle`; see `graphc.data.sampler`.
        batch_sampler: an iterable of lists of numbers, instead of `batch_size`, `shuffle`, `sampler` and
            `drop_last`.
        collate_fn: makes a batch of the list of its samples (with `batch_size=None`, of a single sample).
        drop_last: leave out a last batch that is shorter.
        seed: of the shuffling, 0 to 2^64 - 1.

    Raises:
        ArgumentError: arguments that exclude each other, or values they can't have; all are told together.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool = False,
        *,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        collate_fn: Callable[[Any], Any] | None = None,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        problems = {
            "batch_size must be a positive int or None": batch_size is not None
            and not _within(batch_size, 1, math.inf),
            "seed must be an int from 0 to 2**64 - 1": not _within(seed, 0, 1 << 64),
            "sampler and shuffle exclude each other": sampler is not None and shuffle,
            "batch_sampler excludes batch_size, shuffle, sampler and drop_last": batch_sampler is not None
            and (batch_size != 1 or shuffle or sampler is not None or drop_last),
            "drop_last needs a batch_size": batch_size is None and drop_last,
        }
        if any(problems.values()):
            raise ArgumentError(
                f"DataLoader can't work with these arguments (batch_size={batch_size!r}, seed={seed!r})",
                lines=[text for text, holds in problems.items() if holds],
            )
        if sampler is None:
            sampler = RandomSampler(dataset, seed=seed) if shuffle else range(len(dataset))
        if batch_sampler is None and batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self._batches: Iterable[int | Sequence[int]] = sampler if batch_sampler is None else batch_sampler
        self._collate = collate_fn
        self._settings = {"seed": seed, "shuffle": shuffle, "batch_size": batch_size, "drop_last": drop_last}
        self._cursor = _Cursor()

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return sized(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch that `load_state_dict` or `set_epoch` asked for, else the next epoch."""
        if self._cursor.started:
            self._cursor = _Cursor(self._cursor.epoch + 1)
        self._cursor.started = True
        return self._run(self._cursor)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`, from its first batch."""
        self._cursor = _Cursor(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the latest pass stands, as JSON values: a batch counts once it was handed out."""
        return {"epoch": self._cursor.epoch, "batch": self._cursor.batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next pass go on where `state` was taken; samplers of your own must repeat their order.

        Raises:
            StateError: the state is of a loader that would hand out other batches; every difference is told.
        """
        expected = self._identity()
        differences = [
            f"{name}: here {expected.get(name)!r}, in the state {state.get(name)!r}"
            for name in ("epoch", "batch", *expected)
            if (name not in state) or (name in expected and state[name] != expected[name])
        ]
        if differences:
            raise StateError("the state is not one of a loader like this one", lines=differences)
        self._cursor = _Cursor(state["epoch"], state["batch"])

    def _identity(self) -> dict[str, Any]:
        return {"samples": len(self.dataset), **self._settings}

    def _run(self, cursor: _Cursor) -> Iterator[Any]:
        announce_epoch(self._batches, cursor.epoch)
        for numbers in islice(self._batches, cursor.batch, None):
            batch = self._load(numbers)
            cursor.batch += 1
            yield batch
        cursor.epoch, cursor.batch, cursor.started = cursor.epoch + 1, 0, False

    def _load(self, numbers: int | Sequence[int]) -> Any:
        if isinstance(numbers, (int, np.integer)):
            sample = self._sample(int(numbers))
            with _noting("while collating", numbers):
                return self._collate(sample) if self._collate else sample
        if self._collate is None and isinstance(self.dataset, ArrayDataset):
            with _noting("while gathering", numbers):
                return self.dataset.gather(np.asarray(numbers, np.int64))
        samples = [self._sample(number) for number in numbers]
        with _noting("while collating", numbers):
            return (self._collate or default_collate)(samples)

    def _sample(self, number: int) -> Any:
        with _noting(f"while loading from {type(self.dataset).__name__}", number):
            return self.dataset[number]


def _within(value: object, low: int, high: float) -> bool:
    return isinstance(value, int) and low <= value < high


@contextmanager
def _noting(doing: str, numbers: int | Sequence[int]) -> Iterator[None]:
    """Let the error of the user's own code pass as it is, with a note that names the samples it concerns."""
    try:
        yield
    except Exception as error:
        many = [numbers] if isinstance(numbers, (int, np.integer)) else list(numbers)
        listed = ", ".join(str(number) for number in many[:NOTED]) + (", ..." if len(many) > NOTED else "")
        error.add_note(f"{doing}: sample{'s' if len(many) > 1 else ''} {listed}")
        raise
