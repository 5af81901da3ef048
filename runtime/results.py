"""Results belong to the user: arrays that share memory with nothing else, or the arrays that the user gave for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphc.errors import ArgumentError
from graphc.op import Array
from graphc.runtime.cpu.blocks import Block
from graphc.runtime.pages import is_alone
from graphc.types import TensorType, np_dtype


def owned(results: Iterable[Any], others: Iterable[Array], out: Iterable[Array] = ()) -> list[Array]:
    """`results` as arrays of their own: what shares memory with anything else, or can't be written, is copied.

    Args:
        out: arrays of the user's into which results may have been written.
    """
    taken = {id(array) for array in others}
    users = {id(array) for array in out} - taken
    found = []
    for array in results:
        if not isinstance(array, np.ndarray):  # on a device, where all have memory of their own
            found.append(array)
            continue
        alone = array.base is None or isinstance(array.base, Block) or id(array) in users
        if not alone or id(array) in taken or not array.flags.c_contiguous or not array.flags.writeable:
            array = np.array(array, order="C", copy=True)
        taken.add(id(array))
        found.append(array)
    return found


def is_own(value: Any) -> bool:
    """Whether a variable's value has memory that runs may write to: in order, and nobody else's."""
    return not isinstance(value, np.ndarray) or (is_alone(value) and value.flags.carray)


def check_out(out: Any, wanted: Sequence[TensorType]) -> None:
    """Make sure that results of these types, whose dims are known, can be written into `out`.

    Raises:
        ArgumentError: it isn't one writable array for each result, of its shape and dtype, in memory of its own.
    """
    arrays = list(out) if isinstance(out, list | tuple) else []
    if len(arrays) != len(wanted) or not all(map(_fits, arrays, wanted)):
        types = ", ".join(f"{type.dtype}{list(type.shape)}" for type in wanted)
        got = ", ".join(map(_described, arrays)) if arrays else type(out).__name__
        raise ArgumentError(f"out= needs a list of writable arrays {types}, got {got}")
    for k, array in enumerate(arrays):
        if any(np.may_share_memory(array, other) for other in arrays[:k]):
            raise ArgumentError(f"out= needs arrays that share no memory, but number {k} does with one before it")


def copied_out(found: Iterable[Array], out: Sequence[Array]) -> Sequence[Array]:
    """`out`, with `found` written into it where it isn't there yet."""
    for array, value in zip(out, found, strict=True):
        if array is not value:
            array[...] = value
    return out


def _fits(array: Any, wanted: TensorType) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.shape == wanted.shape
        and array.dtype == np_dtype(wanted.dtype)
        and array.flags.writeable
    )


def _described(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    return f"{'' if array.flags.writeable else 'read-only '}{array.dtype}{list(array.shape)}"
