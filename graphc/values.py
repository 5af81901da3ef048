"""From values of users to arrays of the dtype that a graph declares, wherever nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.op import Array
from graphc.types import DTYPES, is_float, np_dtype

_KNOWN = frozenset(map(np_dtype, DTYPES))


def converted(value: Any, dtype: str) -> tuple[Any, str]:
    """A value as an array of a dtype, and an empty string; or the array as it is and why it doesn't fit.

    float64 becomes float32 silently unless that makes numbers infinite, and integers become floats or other integers
    where they fit exactly; anything else that would lose values is a problem. What can't become an array at all is
    None.
    """
    wanted = np_dtype(dtype)
    if value.__class__ is np.ndarray and value.dtype == wanted:
        return value, ""
    if isinstance(value, np.ma.MaskedArray):
        return None, "a masked array, whose mask would be lost; fill it: value.filled(0)"
    try:
        array = np.asarray(value)
    except Exception as error:
        ragged = isinstance(error, ValueError) and isinstance(value, list | tuple)
        what = "a ragged list: its rows differ in length" if ragged else f"{type(value).__name__}: {error}"
        return None, what.partition("\n")[0]
    given = array.dtype
    if given == wanted:
        return array, ""
    if given not in _KNOWN and given.kind not in "iuf":
        return None, _described(value, array)
    is_exact = given.kind in "biu" and wanted.kind != "b"
    by_accident = is_float(dtype) and (not hasattr(value, "dtype") or dtype in ("float32", "float64"))
    if array.size == 0 or (by_accident and not is_exact):  # data is float64 by accident, and [] has no dtype
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        fits = given.kind != "f" or np.array_equal(np.isinf(cast), np.isinf(array))
        return (cast, "") if fits else (array, f"{given} values that are too large for {dtype}")
    if not is_exact:
        return array, f"{given}; convert it: value.astype({str(wanted)!r})"
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
        wraps = wanted.kind in "iu" and not np.array_equal(cast, array)  # and back again: uint8 255 is int8 -1
        if np.array_equal(cast.astype(given), array) and not wraps:
            return cast, ""
    return array, f"{given} values that don't fit {dtype} exactly"


def _described(value: Any, array: Array) -> str:
    if value is None:
        return "None"
    entries = sorted({type(entry).__name__ for entry in array.flat if entry is not value})
    inside = ", ".join(entries) if array.dtype == object else str(array.dtype)
    return f"{type(value).__name__} of {inside}" if inside else type(value).__name__
