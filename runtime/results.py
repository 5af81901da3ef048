"""Results belong to the user: arrays that share memory with nothing else, or the arrays that the user gave for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphc.errors import ArgumentError
from graphc.op import Array


def owned(results: Iterable[Array], others: Iterable[Array]) -> list[Array]:
    """`results` as arrays of their own: what shares memory with anything else, or can't be written, is copied."""
    taken = {id(array) for array in others}
    found = []
    for array in results:
        if array.base is not None or id(array) in taken or not array.flags.c_contiguous or not array.flags.writeable:
            array = np.array(array, order="C", copy=True)
        taken.add(id(array))
        found.append(array)
    return found


def copied_out(found: Sequence[Array], out: Any) -> list[Array]:
    """`out`, with `found` written into it.

    Raises:
        ArgumentError: it isn't one writable array for each result, of its shape and dtype, in memory of its own.
    """
    arrays = list(out) if isinstance(out, list | tuple) else []
    wanted = ", ".join(f"{f.dtype}{list(f.shape)}" for f in found)
    if len(arrays) != len(found) or not all(map(_fits, arrays, found)):
        got = ", ".join(map(_described, arrays)) if arrays else type(out).__name__
        raise ArgumentError(f"out= needs a list of writable arrays {wanted}, got {got}")
    for k, array in enumerate(arrays):
        if any(np.may_share_memory(array, other) for other in arrays[:k]):
            raise ArgumentError(f"out= needs arrays that share no memory, but number {k} does with one before it")
    for array, value in zip(arrays, found, strict=True):
        array[...] = value
    return arrays


def _fits(array: Any, found: Array) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.shape == found.shape
        and array.dtype == found.dtype
        and array.flags.writeable
    )


def _described(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    return f"{'' if array.flags.writeable else 'read-only '}{array.dtype}{list(array.shape)}"
