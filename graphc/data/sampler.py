"""The order of samples, and how they are cut into batches.

A sampler is any iterable of sample numbers; a batch sampler is one of lists of them. One that has `set_epoch`
is told the epoch before each pass, so that its order can depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from graphc import philox

SHUFFLE = philox.stream_key("graphc.data.shuffle")


@runtime_checkable
class EpochAware(Protocol):
    """A sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int, /) -> None:
        """Make the next pass that of `epoch`, counted from 0."""
        ...


class RandomSampler:
    """All samples of `dataset` once, in an order that depends on their number, `seed` and the epoch only."""

    def __init__(self, dataset: Sized, *, seed: int = 0) -> None:
        self._dataset = dataset
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(philox.permutation(self._seed, SHUFFLE, self._epoch, len(self._dataset)).tolist())

    def __len__(self) -> int:
        return len(self._dataset)


class BatchSampler:
    """Lists of `batch_size` successive numbers of `sampler`; `drop_last` leaves out a shorter last one."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._drop_last = drop_last

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on to the sampler."""
        announce_epoch(self._sampler, epoch)

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self._sampler)
        while batch := list(islice(numbers, self._batch_size)):
            if len(batch) == self._batch_size or not self._drop_last:
                yield batch

    def __len__(self) -> int:
        full, rest = divmod(sized(self._sampler), self._batch_size)
        return full + (rest > 0 and not self._drop_last)


def announce_epoch(sampler: object, epoch: int) -> None:
    """Tell `sampler` the epoch, if it wants to know."""
    if isinstance(sampler, EpochAware):
        sampler.set_epoch(epoch)


def sized(sampler: Any) -> int:
    """`len(sampler)`; a sampler without a length raises Python's own `TypeError`, which says so."""
    return len(sampler)
