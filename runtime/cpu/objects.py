"""How objects of CPython and NumPy lie in memory, for machine code that reads them: where their fields are."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from graphc.op import Array

# Of objects, in bytes: PyObject.ob_refcnt (its low half) and ob_type, and the fields of PyArrayObject. See `is_known`.
REFERENCES, TYPE, DATA, NDIM, DIMS, DESCR, FLAGS = 0, 8, 16, 24, 32, 56, 64
IN_ORDER = 0x0001 | 0x0100  # C_CONTIGUOUS and ALIGNED
WRITEABLE = 0x0400

# The table of NumPy's C interface: numbers that never change.
ARRAY_TYPE, NEW_FROM_DESCR, SET_BASE_OBJECT = 2, 94, 282


def numpy_table() -> Any:
    """NumPy's C interface, as a table of addresses."""
    capsule = import_module("numpy._core._multiarray_umath")._ARRAY_API
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return (ctypes.c_size_t * (SET_BASE_OBJECT + 1)).from_address(pointer(capsule, None))


@cache
def is_known() -> bool:
    """Whether objects lie in memory as machine code reads them: CPython's of 64 bits, with its lock, and NumPy's."""
    if sys.implementation.name != "cpython" or sys.maxsize != 2**63 - 1:
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    try:
        table = numpy_table()
    except (ImportError, AttributeError, ValueError):
        return False
    samples: list[Array] = [np.zeros((3, 5), np.float32), np.zeros((7, 2, 4), np.int64)[:, ::2], np.zeros((), bool)]
    lonely: list[Array] = [np.zeros(3)]
    alone = _word(ctypes.c_uint32, id(lonely[0]), REFERENCES)
    return alone == 1 and table[ARRAY_TYPE] == id(np.ndarray) and all(_is_as_read(array) for array in samples)


def _word(type: Any, place: int, offset: int) -> int:
    return int(type.from_address(place + offset).value or 0)


def _is_as_read(array: Array) -> bool:
    place = id(array)
    return (
        _word(ctypes.c_void_p, place, TYPE) == id(np.ndarray)
        and _word(ctypes.c_void_p, place, DATA) == array.ctypes.data
        and _word(ctypes.c_int, place, NDIM) == array.ndim
        and (ctypes.c_ssize_t * array.ndim).from_address(_word(ctypes.c_void_p, place, DIMS))[:] == list(array.shape)
        and _word(ctypes.c_void_p, place, DESCR) == id(array.dtype)
        and _word(ctypes.c_int, place, FLAGS) & IN_ORDER == IN_ORDER * array.flags.c_contiguous | 0x0100
    )
