"""From what a user passes to what an op takes: constants, and explicit casts and broadcasts.

Because operators insert `cast` and `broadcast_to` nodes, every pointwise op sees operands of one dtype and one shape:
its gradient is one line, fusion sees an index map, and the ONNX exporter peels the nodes off again.
The ops that the operators insert, and those that their gradients need, are defined here.
"""

from __future__ import annotations

import hashlib
import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.attrs import Attrs
from graphc.cached import cached_property
from graphc.dims import Dim, require_equal, take_guards
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError, did_you_mean
from graphc.ir import Node, make
from graphc.op import Array, Cotangents, NoGradient, Op, Sample, Samples
from graphc.operators import method
from graphc.types import (
    DTYPES,
    TensorType,
    broadcast_shapes,
    dtype_name,
    float_result,
    is_float,
    np_dtype,
    promote,
    promote_scalar,
)

# Which dtypes an operand may have, by class.
ACCEPTS: dict[str, frozenset[str]] = {
    "any": frozenset(DTYPES),
    "number": frozenset(d for d in DTYPES if d != "bool"),
    "float": frozenset(d for d in DTYPES if "float" in d),
    "integer": frozenset(d for d in DTYPES if "int" in d),
    "bool": frozenset({"bool"}),
}

SMALL = 1024  # bytes up to which a constant's payload is compared directly


# --------------------------------------------------------------------------------------------- constants


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant's payload: equal bytes are equal, so 0.0 and -0.0 differ and nan equals itself.

    Payloads above 1 KB compare by a digest that is taken when two of them first meet.
    """

    array: Array

    @cached_property
    def _head(self) -> tuple[Any, ...]:
        return (dtype_name(self.array.dtype), self.array.shape, self.array.reshape(-1)[: SMALL // 8].tobytes())

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.blake2b(self.array.tobytes(), digest_size=16).digest()

    @cached_property
    def number(self) -> float | None:
        """The Python number that this is, or None for several elements."""
        return None if self.array.size != 1 else self.array.item()

    def __hash__(self) -> int:
        return hash(self._head)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Literal) or self._head != other._head:
            return False
        return self.array.size <= SMALL // 8 or self._digest == other._digest

    def __str__(self) -> str:
        return np.array2string(self.array, threshold=6, separator=", ").replace("\n", "")


def as_array(value: Any, dtype: Any = None) -> Array:
    """`value` as an array of a dtype that graphc knows; see `constant`."""
    wanted = None if dtype is None else np_dtype(dtype_name(dtype))
    strong = isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__")
    try:
        array = np.asarray(value)
    except GraphcError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and isinstance(value, list | tuple):
            raise ShapeError("a ragged list is no tensor: its rows differ in length") from error
        raise DTypeError(f"{type(value).__name__} {_short(value)} is no tensor of numbers: {error}") from error
    if array.dtype.kind in "OUSMmc":
        raise DTypeError(f"{type(value).__name__} {_short(value)} is no tensor of numbers")
    if wanted is None and not strong and array.dtype == np.float64:
        wanted = np_dtype("float32")
    dtype_name(array.dtype if wanted is None else wanted)
    if wanted is not None and wanted.kind in "iu" and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DTypeError(f"{_short(value)} has no value in {wanted}")
    return array if wanted is None else array.astype(wanted, copy=False)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def constant(value: Any, dtype: Any = None) -> Node:
    """A constant tensor. Python floats, and lists of them, become float32; arrays keep their dtype.

    Args:
        value: a number, a nested list of numbers, or an array.
        dtype: the dtype of the result, as a name or NumPy dtype.

    Raises:
        ShapeError: a ragged list.
        DTypeError: something that holds no numbers.
    """
    owned = np.array(as_array(value, dtype), order="C", copy=True)
    owned.setflags(write=False)
    return make(constant_op, (), Attrs({"value": Literal(owned)}))


def as_node(value: Any) -> Any:
    """`value` itself if it stands for a tensor (a node, an eager tensor, a pattern), else a constant of it."""
    return value if isinstance(value, Node) or hasattr(value, "__graphc_op__") else constant(value)


def as_nodes(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    """The default `Op.coerce`: every operand a node, nothing promoted."""
    return tuple([arg if isinstance(arg, Node) else constant(arg) for arg in args])


_splats: dict[tuple[Any, ...], weakref.ref[Node]] = {}  # Python numbers are the commonest constants


def splat(value: float, type: TensorType) -> Node:
    """The Python number `value` as a tensor of `type`: a scalar constant, broadcast."""
    key = (value.__class__, value or str(value), type)
    ref = _splats.get(key)
    node = None if ref is None else ref()
    if node is None:
        node = constant(value, type.dtype)
        if type.shape:
            node = make(broadcast_op, (node,), Attrs({"shape": type.shape}))
        _splats[key] = weakref.ref(node, lambda _: _splats.pop(key, None))
    return node


def splat_value(node: Node) -> Any:
    """The one value that all elements of a constant have, as a NumPy scalar, or None."""
    while node.op is broadcast_op:
        node = node.inputs[0]
    if node.op is constant_op and node.attrs["value"].array.size == 1:
        return node.attrs["value"].array.reshape(())[()]
    return None


# --------------------------------------------------------------------------------------------- coercion

COMPARE = "compare first, such as gc.not_equal(x, 0)"
WEAK = (bool, int, float)  # the classes of Python numbers, whose dtype yields to that of a tensor


def pointwise_operands(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    """The operands promoted to one dtype and broadcast to one shape, by explicit nodes."""
    return _plain_operands(op, args) or _promoted(op, args)


def _plain_operands(op: Op, args: Sequence[Any]) -> tuple[Node, ...] | None:
    """The common cases, without the general rules: one tensor, two of one type, or a float tensor and a number."""
    if len(op.accepts) > 1 or not args or len(args) > 2:
        return None
    first, last = args[0], args[-1]
    tensor, other = (first, last) if isinstance(first, Node) else (last, first)
    if not isinstance(tensor, Node):
        return None
    type = tensor.type
    if type.__class__ is not TensorType or type.dtype not in ACCEPTS[op.accepts[0]]:
        return None
    if isinstance(other, Node):  # also where it is the same, the only operand
        return tuple(args) if other.type is type else None
    if other.__class__ in (float, int) and type.dtype in ACCEPTS["float"]:
        number = splat(other, type)
        return (tensor, number) if tensor is first else (number, tensor)
    return None


def _promoted(op: Op, args: Sequence[Any]) -> tuple[Node, ...]:
    if len(args) < len(op.accepts):
        raise ArgumentError(f"takes {len(op.accepts)} or more operands, got {len(args)}")
    values = [arg if isinstance(arg, Node) or arg.__class__ in WEAK else constant(arg) for arg in args]
    classes = [op.accepts[min(k, len(op.accepts) - 1)] for k in range(len(values))]
    if any(c == "bool" and value.__class__ is bool for value, c in zip(values, classes, strict=True)):
        raise ArgumentError(
            "a condition is True or False in Python: == and != ask whether two tensors are one object",
            hint="gc.equal and gc.not_equal compare elements; gc.constant(True) if that is meant",
        )
    flags = "bool" in classes and len(set(classes)) > 1  # a mask beside data keeps its own dtype
    data = [v for v, c in zip(values, classes, strict=True) if not (flags and c == "bool")]
    if not any(isinstance(value, Node) for value in data):  # numbers alone have the dtypes of constants
        data = [constant(value) for value in data]
    common = common_dtype(op.name, data, next((c for c in classes if not (flags and c == "bool")), "any"))
    shape = broadcast_shapes(*[value.tensor_type.shape for value in values if isinstance(value, Node)])
    take_guards()  # broadcast_to records them again, on the node that needs them
    dtypes = ["bool" if flags and c == "bool" else common for c in classes]
    return tuple([_fitted(value, dtype, shape) for value, dtype in zip(values, dtypes, strict=True)])


def _fitted(value: Any, dtype: str, shape: tuple[Dim, ...]) -> Any:
    if not isinstance(value, Node):
        return splat(value, TensorType(dtype, shape))
    if dtype == "bool" and value.dtype != "bool":
        raise DTypeError(f"expected bool[{_dims(shape)}], got {value.type}", hint=COMPARE)
    return expand(astype(value, dtype), shape)


def _dims(shape: tuple[Dim, ...]) -> str:
    return ", ".join(map(str, shape))


def common_dtype(name: str, values: Sequence[Any], accepted: str = "any") -> str:
    """The dtype that tensors and weak Python numbers are promoted to, for an op that accepts a class of dtypes.

    Raises:
        DTypeError: no promotion leads into the class.
    """
    dtype = promote(*[value.dtype for value in values if isinstance(value, Node)])
    for value in values:
        if not isinstance(value, Node):
            dtype = promote_scalar(dtype, value)
    if accepted == "float":
        dtype = float_result(dtype)
    if dtype not in ACCEPTS[accepted]:
        got = ", ".join(str(v.type) if isinstance(v, Node) else repr(v) for v in values)
        hint = COMPARE if accepted == "bool" else "cast first: gc.cast(x, 'float32')"
        raise DTypeError(f"{name}: expected {accepted} operands, got {got}", hint=hint)
    return dtype


def astype(x: Any, dtype: str) -> Any:
    """`x`, which stands for a tensor, cast to `dtype`; `x` itself if it has it."""
    if x.dtype == dtype:
        return x
    return make(cast_op, (x,), Attrs({"dtype": dtype})) if isinstance(x, Node) else cast_op(x, dtype=dtype)


def expand(x: Any, shape: tuple[Dim, ...]) -> Any:
    """`x`, which stands for a tensor, broadcast to `shape`; `x` itself if it has it."""
    if x.shape == shape:
        return x
    return make(broadcast_op, (x,), Attrs({"shape": shape})) if isinstance(x, Node) else broadcast_op(x, shape=shape)


def zeros_like(x: Any) -> Node:
    """Zeros of the type of `x`, which stands for a tensor."""
    return splat(0, x.type)


# --------------------------------------------------------------------------------------------- declaring ops


def pointwise(
    name: str,
    ref: Callable[..., Any],
    vjp: Callable[..., Cotangents] | NoGradient | None,
    *,
    accepts: tuple[str, ...] | str = "float",
    result: str | None = None,
    commutative: bool = False,
    samples: Samples | None = None,
    doc: str = "",
) -> Op:
    """Declare an op that acts element by element on operands of one shape.

    Args:
        accepts: the dtype class of the operands, or one for each; integers are promoted where it is "float".
        result: the dtype of the result, where it isn't that of the (last) operand.
    """

    arity = ref.nin if isinstance(ref, np.ufunc) else len(inspect.signature(ref).parameters)

    def infer(*types: TensorType) -> TensorType:
        if len(types) != arity:
            raise ArgumentError(f"takes {arity} operands, got {len(types)}")
        last = types[-1]
        for type in types:
            if type.shape != last.shape:
                raise ShapeError(f"operands must have one shape, got {type} and {last}")
        return last if result is None else TensorType(result, last.shape)

    classes = (accepts,) if isinstance(accepts, str) else accepts
    return Op(
        name,
        infer,
        pointwise_operands,
        ref,
        vjp,
        "pointwise",
        classes,
        commutative=commutative,
        samples=samples,
        doc=doc,
    )


def primitive(
    name: str, infer: Callable[..., Any], ref: Callable[..., Any] | None, vjp: Any, kind: str, **fields: Any
) -> Op:
    """Declare any other op; operands become nodes and are not promoted."""
    return Op(name, infer, fields.pop("coerce", as_nodes), ref, vjp, kind, **fields)


def one_type(*types: TensorType) -> TensorType:
    """The type rule of ops that return what they are given first."""
    return types[0]


# --------------------------------------------------------------------------------------------- the ops operators insert

constant_op = primitive(
    "constant",
    lambda *, value: TensorType(dtype_name(value.array.dtype), value.array.shape),
    lambda *, value: value.array,
    NoGradient("a constant depends on nothing"),
    "constant",
    required=("value",),
)


parameter_op = primitive(
    "parameter",
    lambda *, index, type, depth: type,
    None,
    NoGradient("a parameter depends on nothing"),
    "parameter",
    required=("index", "type", "depth"),
)


def parameter(index: int, type: Any, depth: int = 0) -> Node:
    """The formal parameter number `index` of bodies; equal for all bodies, so that equal bodies intern.

    Args:
        depth: in how many other definitions the body is being traced; it tells its parameters from theirs.
    """
    return make(parameter_op, (), Attrs({"index": index, "type": type, "depth": depth}))


# --- cast


def _cast_vjp(g: Node, y: Node, x: Node, *, dtype: str) -> Cotangents:
    return (astype(g, x.dtype) if is_float(x.dtype) and is_float(dtype) else None,)


def _casts(rng: np.random.Generator) -> list[Sample]:
    values = np.array([-2.7, -0.5, 0.0, 0.5, 1.5, 3.2, 100.0])
    return [Sample((values,), {"dtype": dtype}) for dtype in DTYPES if dtype != "uint8"]


cast_op: Op = primitive(
    "cast",
    lambda x, *, dtype: x.with_dtype(dtype),
    lambda x, *, dtype: x.astype(np_dtype(dtype)),
    _cast_vjp,
    "pointwise",
    required=("dtype",),
    samples=_casts,
)


@method("astype")
def cast(x: Any, dtype: Any) -> Any:
    """`x` converted to `dtype`, by NumPy's rules; floats become integers by truncation.

    The gradient passes between float dtypes and is cut by any other cast.
    """
    return cast_op(x, dtype=dtype_name(dtype))


# --- views that change how many dimensions there are


def normalise_axes(axes: Any, shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """Axes of `shape` as a sorted tuple of ints in `[0, rank)`; None means all of them.

    Args:
        axes: an int (negative counts from the end), the name of a symbolic dimension, or a sequence of those.

    Raises:
        ShapeError: an axis that doesn't exist, that is given twice, or a name that several axes have.
    """
    if axes is None:
        return tuple(range(len(shape)))
    given = axes if isinstance(axes, tuple | list) else (axes,)
    found = sorted(normalise_axis(axis, shape) for axis in given)
    if len(set(found)) < len(found):
        raise ShapeError(f"axis {axes!r} names one axis twice")
    return tuple(found)


def normalise_axis(axis: Any, shape: tuple[Dim, ...]) -> int:
    """One axis of `shape` as an int in `[0, rank)`; see `normalise_axes`."""
    rank = len(shape)
    if isinstance(axis, str):
        named = [k for k, dim in enumerate(shape) if str(dim) == axis]
        if len(named) == 1:
            return named[0]
        if named:
            raise ShapeError(f"more than one axis is named {axis!r} in [{_dims(shape)}]", hint="give its position")
        names = [str(dim) for dim in shape if not isinstance(dim, int)]
        raise ShapeError(f"no axis is named {axis!r} in [{_dims(shape)}]{did_you_mean(axis, names)}")
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not -rank <= axis < rank:
        raise ShapeError(f"axis {axis!r} doesn't exist in [{_dims(shape)}]")
    return int(axis) % rank


def require_axes(x: TensorType, *axes: int) -> None:
    """Make sure that `axes` are axes of `x`, for type rules; public functions normalise theirs.

    Raises:
        ShapeError: some aren't.
    """
    if not all(0 <= axis < x.rank for axis in axes):
        raise ShapeError(f"axes {axes} of {x} don't all exist")


def _infer_expand_dims(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    dims = list(x.shape)
    for axis in axes:
        if not 0 <= axis <= len(dims):
            raise ShapeError(f"{x} can't get axes at {axes}")
        dims.insert(axis, 1)
    return x.with_shape(tuple(dims))


def _infer_squeeze(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    require_axes(x, *axes)
    for axis in axes:
        if x.shape[axis] != 1:
            require_equal(x.shape[axis], 1, f"axis {axis} is squeezed away")
    return x.with_shape(tuple([d for k, d in enumerate(x.shape) if k not in axes]))


def _grown(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.standard_normal((3, 4)),), {"axes": (0, 2)}),
        Sample((rng.standard_normal(()),), {"axes": (0,)}),
        Sample((rng.standard_normal((0, 2)),), {"axes": (2,)}),
    ]


def _shrunk(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((rng.standard_normal((1, 3, 1)),), {"axes": (0, 2)}),
        Sample((rng.standard_normal((0, 1)),), {"axes": (1,)}),
        Sample((rng.standard_normal((1,)),), {"axes": (0,)}),
    ]


expand_dims_op: Op = primitive(
    "expand_dims",
    _infer_expand_dims,
    lambda x, *, axes: np.expand_dims(x, axes),
    lambda g, y, x, *, axes: (squeeze_op(g, axes=axes),),
    "view",
    injective=True,
    required=("axes",),
    samples=_grown,
)

squeeze_op: Op = primitive(
    "squeeze",
    _infer_squeeze,
    lambda x, *, axes: np.squeeze(x, axes),
    lambda g, y, x, *, axes: (expand_dims_op(g, axes=axes),),
    "view",
    injective=True,
    required=("axes",),
    samples=_shrunk,
)


# --- broadcasting and its adjoint, the sum


def _infer_broadcast(x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
    lead = len(shape) - len(x.shape)
    if lead < 0:
        raise ShapeError(f"{x} has more dimensions than [{_dims(shape)}]")
    for given, wanted in zip(x.shape, shape[lead:], strict=True):
        if given is not wanted and given != 1:
            require_equal(given, wanted, f"{x} is broadcast to [{_dims(shape)}]")
    return x.with_shape(shape)


def broadcast_axes(x: Node, shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """The axes of `shape` along which `x` is repeated."""
    lead = len(shape) - x.ndim
    stretched = [lead + k for k, d in enumerate(x.shape) if d == 1 and shape[lead + k] != 1]
    return (*range(lead), *stretched)


def unbroadcast(g: Node, x: Node, reduction: Op) -> Node:
    """`g`, of a shape that `x` was broadcast to, reduced to the shape of `x`."""
    axes = broadcast_axes(x, g.shape)
    lead = g.ndim - x.ndim
    total = reduction(g, axes=axes) if axes else g
    total = squeeze_op(total, axes=tuple(range(lead))) if lead else total
    return expand(total, x.shape)  # type: ignore[no-any-return]


def _broadcasts(rng: np.random.Generator) -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 1), (2, 3, 5)),
        ((), (2, 3)),
        ((1, 4), (1, 4)),
        ((1, 3), (0, 3)),
        ((2, 0), (3, 2, 0)),
    ]
    return [Sample((rng.standard_normal(a),), {"shape": b}) for a, b in shapes]


broadcast_op: Op = primitive(
    "broadcast_to",
    _infer_broadcast,
    lambda x, *, shape: np.broadcast_to(x, shape),
    lambda g, y, x, *, shape: (unbroadcast(g, x, reduce_sum),),
    "view",
    required=("shape",),
    samples=_broadcasts,
)


def kept(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    """The type rule of reductions: the reduced axes stay, with size 1."""
    require_axes(x, *axes)
    return x.with_shape(tuple([1 if k in axes else d for k, d in enumerate(x.shape)]))


def reductions(rng: np.random.Generator) -> list[Sample]:
    """Samples for reductions: odd, empty, 0-d and reduced over none, one and all axes."""
    cases: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 5, 2), (1,)),
        ((3, 5), (0, 1)),
        ((7,), (0,)),
        ((0, 3), (1,)),
        ((4, 1), (1,)),
        ((), ()),
    ]
    return [Sample((rng.standard_normal(shape),), {"axes": axes}) for shape, axes in cases]


reduce_sum: Op = primitive(
    "reduce_sum",
    kept,
    lambda x, *, axes: np.sum(x, axis=axes, keepdims=True, dtype=x.dtype),
    lambda g, y, x, *, axes: (expand(g, x.shape),),
    "reduce",
    injective=True,
    required=("axes",),
    samples=lambda rng: [*reductions(rng), Sample((rng.standard_normal((0, 3)),), {"axes": (0,)})],
)
