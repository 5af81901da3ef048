"""Types of values: the dtypes with their promotion, and tensor types, interned so that equal types are one object.

A dtype is a plain string, a shape a tuple of `graphc.dims.Dim`. Promotion is NumPy's with one exception: an integer
or a bool never widens a float operand, so int64 with float32 is float32. Python scalars are weak, as in NumPy 2.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, final
from weakref import WeakValueDictionary

import ml_dtypes
import numpy as np

from graphc.dims import (
    Dim,
    DimExpr,
    as_dim,
    compare,
    evaluate,
    naming_hint,
    product,
    require_equal,
    shape_text,
    symbols_of,
)
from graphc.errors import DTypeError, ShapeError, did_you_mean

Kind: TypeAlias = Literal["float", "int", "bool"]
K = TypeVar("K")
T = TypeVar("T")


# ---- dtypes


@dataclass(frozen=True, slots=True)
class DTypeInfo:
    """A row of the table of dtypes.

    Attributes:
        np_dtype: its NumPy counterpart.
        float_result: what a function that gives floats only (`exp`, `/`) makes of it.
    """

    np_dtype: np.dtype[Any]
    kind: Kind
    float_result: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.np_dtype.itemsize


DTYPES: dict[str, DTypeInfo] = {
    "float64": DTypeInfo(np.dtype(np.float64), "float", "float64"),
    "float32": DTypeInfo(np.dtype(np.float32), "float", "float32"),
    "float16": DTypeInfo(np.dtype(np.float16), "float", "float16"),
    "bfloat16": DTypeInfo(np.dtype(ml_dtypes.bfloat16), "float", "bfloat16"),
    "int8": DTypeInfo(np.dtype(np.int8), "int", "float16"),
    "int16": DTypeInfo(np.dtype(np.int16), "int", "float32"),
    "int32": DTypeInfo(np.dtype(np.int32), "int", "float64"),
    "int64": DTypeInfo(np.dtype(np.int64), "int", "float64"),
    "uint8": DTypeInfo(np.dtype(np.uint8), "int", "float16"),
    "bool": DTypeInfo(np.dtype(np.bool_), "bool", "float16"),
}
NAMES = {info.np_dtype: name for name, info in DTYPES.items()}  # NumPy takes its time for the name of a dtype


def dtype_name(dtype: object) -> str:
    """The name of a dtype given as a name, a NumPy dtype or a type; `float` is float64 and `int` int64, as in NumPy.

    Raises:
        DTypeError: graphc has no such dtype.
    """
    if type(dtype) is str and dtype in DTYPES:
        return dtype
    if isinstance(dtype, np.dtype) and dtype in NAMES:
        return NAMES[dtype]
    try:
        name = np.dtype(dtype).name if dtype is not None else "None"  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError, DeprecationWarning):  # NumPy parses strings; before 2.3 it may warn
        name = str(dtype)
    if name in DTYPES:
        return str(name)
    near = did_you_mean(name, DTYPES)
    raise DTypeError(f"{dtype!r} is not a dtype of graphc{near}", hint=f"the dtypes are {', '.join(DTYPES)}")


def dtype_info(dtype: str) -> DTypeInfo:
    """The row of `dtype`; raises DTypeError for a name that the table lacks."""
    return DTYPES.get(dtype) or DTYPES[dtype_name(dtype)]


def np_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype with this name."""
    return dtype_info(dtype).np_dtype


def float_result(dtype: str) -> str:
    """What a function that gives floats only makes of this dtype: floats stay, integers become as wide as in NumPy."""
    return dtype_info(dtype).float_result


def is_float(dtype: str) -> bool:
    """Whether it is one of the floating-point dtypes."""
    return dtype_info(dtype).kind == "float"


def is_integer(dtype: str) -> bool:
    """Whether it is one of the integer dtypes; bool isn't."""
    return dtype_info(dtype).kind == "int"


def is_bool(dtype: str) -> bool:
    """Whether it is bool."""
    return dtype_info(dtype).kind == "bool"


def promote(*dtypes: str) -> str:
    """The dtype in which operands of these dtypes meet.

    NumPy's rule, except that an integer or a bool never widens a float. bfloat16 and float16, of which neither holds
    the other's values, meet in float32.

    Raises:
        DTypeError: one is unknown, or none is given.
    """
    if not dtypes:
        raise DTypeError("no dtype to promote")
    result = dtypes[0]
    for dtype in dtypes:
        if dtype != result or dtype not in DTYPES:
            result = _promote_pair(result, dtype)
    return result


@cache
def _promote_pair(a: str, b: str) -> str:
    first, second = dtype_info(a), dtype_info(b)
    if (first.kind == "float") != (second.kind == "float"):
        return a if first.kind == "float" else b
    if a != b and {a, b} == {"float16", "bfloat16"}:
        return "float32"
    if first.kind == "float":
        return max(a, b, key=lambda dtype: dtype_info(dtype).itemsize)
    return str(np.promote_types(first.np_dtype, second.np_dtype).name)


_SCALAR_RESULT: dict[tuple[type, Kind], str] = {
    (int, "bool"): "int64",
    (float, "bool"): "float64",
    (float, "int"): "float64",
}  # where a weak scalar changes the dtype


def promote_scalar(dtype: str, value: object) -> str:
    """The dtype in which a tensor of `dtype` meets a number: a Python scalar only ever changes its kind.

    A NumPy scalar has a dtype of its own and is promoted as a tensor would be.

    Raises:
        DTypeError: it is no real number, or an integer that the dtype can't hold.
    """
    if isinstance(value, np.generic):
        return promote(dtype, dtype_name(value.dtype))
    if not isinstance(value, bool | int | float):
        raise DTypeError(f"{value!r} ({type(value).__name__}) is not a number that {dtype} can meet")
    result = _SCALAR_RESULT.get((type(value), dtype_info(dtype).kind), dtype)
    if type(value) is int and is_integer(result):
        _check_range(value, result)
    return result


def _check_range(value: int, dtype: str) -> None:
    limits = np.iinfo(np_dtype(dtype))
    if not limits.min <= value <= limits.max:
        raise DTypeError(
            f"the integer {value} does not fit {dtype}, which holds {limits.min} to {limits.max}",
            hint="cast the tensor to a wider dtype first",
        )


# ---- tensor types


class _Frozen:
    """Interned values: identity is equality, and no attribute changes."""

    __slots__ = ("__weakref__",)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a type is immutable: cannot set {name!r} of {self}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a type is immutable: cannot delete {name!r} of {self}")

    def __repr__(self) -> str:
        return str(self)


@final
class TensorType(_Frozen):
    """dtype and shape of a tensor. Equal types are one object, so compare with `is`.

    Args:
        dtype: a name in `DTYPES`.
        shape: a dimension for each axis; `parse_shape` makes it of what a user wrote.

    Attributes:
        rank: number of axes.
        symbolic: whether a dimension is not known while the graph is built.

    Raises:
        DTypeError, ShapeError: the dtype is unknown, or an entry of the shape is no dimension.
    """

    __slots__ = ("dtype", "rank", "shape", "symbolic")

    dtype: str
    shape: tuple[Dim, ...]
    rank: int
    symbolic: bool

    def __new__(cls, dtype: str, shape: tuple[Dim, ...] = ()) -> TensorType:
        return _tensor_type(dtype, shape)

    def __reduce__(self) -> tuple[Callable[..., TensorType], tuple[str, tuple[Dim, ...]]]:
        return TensorType, (self.dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}{shape_text(self.shape)}"

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> Dim:
        """Bytes of all elements."""
        return product(self.shape) * self.itemsize

    @property
    def symbols(self) -> frozenset[str]:
        """The names in the shape."""
        return frozenset().union(*map(symbols_of, self.shape)) if self.symbolic else frozenset()

    def with_dtype(self, dtype: str) -> TensorType:
        """The same shape in another dtype."""
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """The same dtype in another shape."""
        return TensorType(self.dtype, shape)

    def bind(self, bindings: Mapping[str, int]) -> TensorType:
        """The type with the sizes of its symbols filled in; raises ShapeError when one is missing."""
        if not self.symbolic:
            return self
        return TensorType(self.dtype, tuple(evaluate(dim, bindings) for dim in self.shape))


@final
class TupleType(_Frozen):
    """The type of an op with several results."""

    __slots__ = ("items",)

    items: tuple[TensorType, ...]

    def __new__(cls, items: Iterable[TensorType]) -> TupleType:
        key = tuple(items)
        return _intern(_tuples, key, cls, items=key)

    def __reduce__(self) -> tuple[Callable[..., TupleType], tuple[tuple[TensorType, ...]]]:
        return TupleType, (self.items,)

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"

    def bind(self, bindings: Mapping[str, int]) -> TupleType:
        """The type with the sizes of its symbols filled in; raises ShapeError when one is missing."""
        return TupleType(item.bind(bindings) for item in self.items)


Type: TypeAlias = TensorType | TupleType

_tensors: WeakValueDictionary[tuple[str, tuple[Dim, ...]], TensorType] = WeakValueDictionary()
_tuples: WeakValueDictionary[tuple[TensorType, ...], TupleType] = WeakValueDictionary()
_lock = threading.RLock()  # reentrant: the collector may run finalizers that build types


@lru_cache(4096)  # recent types stay alive, so that a program which drops and rebuilds one does not pay again
def _tensor_type(dtype: str, shape: tuple[Dim, ...]) -> TensorType:
    """The interned type of these, checked and normalised: entries as int or DimExpr, the dtype by its name."""
    key = dtype, shape = dtype_name(dtype), tuple(map(as_dim, shape))
    symbolic = any(isinstance(dim, DimExpr) for dim in shape)
    return _intern(_tensors, key, TensorType, dtype=dtype, shape=shape, rank=len(shape), symbolic=symbolic)


def _intern(table: WeakValueDictionary[K, T], key: K, cls: type[T], **attributes: object) -> T:
    with _lock:
        found = table.get(key)
        if found is None:
            found = object.__new__(cls)
            for name, value in attributes.items():
                object.__setattr__(found, name, value)
            table[key] = found
    return found


# ---- shapes


def parse_shape(shape: object) -> tuple[Dim, ...]:
    """The shape that a user wrote: an iterable of dimensions, or a single one, each an integer, a string or a Dim.

    Raises:
        ShapeError: an entry is no dimension; names each that isn't, with its axis.
    """
    if isinstance(shape, str | DimExpr) or not isinstance(shape, Iterable):
        return (as_dim(shape),)
    dims: list[Dim] = []
    problems: list[ShapeError] = []
    entries = tuple(shape)
    for axis, entry in enumerate(entries):
        try:
            dims.append(as_dim(entry))
        except ShapeError as error:
            problems.append(ShapeError(f"axis {axis}: {error.message}", hint=error.hint))
    if problems:
        raise ShapeError(
            f"{entries!r} is not a shape",
            lines=[problem.message for problem in problems],
            hint=problems[0].hint,
        )
    return tuple(dims)


def broadcast_shapes(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape in which all `shapes` meet, by NumPy's rule; a size 1 yields.

    Symbolic dimensions that may or may not be equal are taken as equal under a guard (`graphc.dims.take_guards`).
    A symbol never counts as 1.

    Raises:
        ShapeError: two sizes on an axis are provably different.
    """
    result = shapes[0] if shapes else ()
    for shape in shapes[1:]:
        if shape is not result and shape != result:
            result = _broadcast_pair(result, shape, shapes)
    return result


def _broadcast_pair(a: tuple[Dim, ...], b: tuple[Dim, ...], shapes: tuple[tuple[Dim, ...], ...]) -> tuple[Dim, ...]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    dims = list(longer)
    for axis in range(-len(shorter), 0):
        left, right = longer[axis], shorter[axis]
        if left is right or left == right or right == 1:
            continue
        dims[axis] = right if left == 1 else _meet(left, right, axis, shapes)
    return tuple(dims)


def _meet(left: Dim, right: Dim, axis: int, shapes: tuple[tuple[Dim, ...], ...]) -> Dim:
    """The size that two different dimensions share on an axis, under a guard."""
    listed = " and ".join(map(shape_text, shapes))
    if compare(left, right) == "different":
        what = f"shapes {listed} do not broadcast: axis {axis} is {left} and {right}"
        raise ShapeError(what, hint=naming_hint([left], [right]))
    return require_equal(left, right, f"shapes {listed} are broadcast: axis {axis}")
