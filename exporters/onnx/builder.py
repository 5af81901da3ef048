"""Builds an ONNX graph as plain data: typed values, steps, constants, and sizes that are worked out at run time.

Every value is typed when it is made. Equal steps are one step. A dtype that an operator doesn't take at the opset is
replaced around it by a wider one in which the result is the same, so whoever asks for a step needn't know which.
Nothing here knows graphc's ops, and nothing becomes a protocol buffer before `model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from typing import Any

import numpy as np

from graphc.dims import Dim, DimExpr, lower_bound, shape_text, symbol, symbols_of
from graphc.dims.expression import FloorDiv
from graphc.exporters.onnx.schema import Inexpressible, Schema, missing_attribute, onnx_dtype, opset_for, schema
from graphc.ir import Node
from graphc.op import Array
from graphc.types import TensorType, dtype_name, np_dtype

Source = tuple[DimExpr, "Value", int]  # a symbolic axis of an input
Out = TensorType | tuple[Dim, ...] | None  # what is known of a result beforehand: all, its shape, or nothing

# What holds every value of a dtype, so that work done in it and rounded back gives what graphc means: floats of 16
# bits are computed in float32 and rounded once, and integer arithmetic commutes with wrapping around.
WIDER: dict[str, tuple[str, ...]] = {
    "float16": ("float32",),
    "bfloat16": ("float32",),
    "uint8": ("int32", "int64"),
    "int8": ("int32", "int64"),
    "int16": ("int32", "int64"),
    "int32": ("int64",),
    "bool": ("uint8", "int32"),
}

SMALL = 1024  # bytes up to which constants are compared directly
END = np.iinfo(np.int64).max  # "to the end" in a Slice
FEW = 64  # elements up to which a counter is stored instead of counted

# Operators whose result isn't a function of their operands: two of them are never one.
DRAWS = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


class Value:
    """One value of the ONNX graph; compared by identity, named when the graph is complete.

    Attributes:
        array: the contents, of a value that is stored in the file.
    """

    __slots__ = ("array", "name", "type")

    def __init__(self, type: TensorType, array: Array | None = None, name: str = "") -> None:
        self.type = type
        self.array = array
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name or 'value'}: {self.type}>"

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The dimensions."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """The dtype's name."""
        return self.type.dtype


class Step:
    """One node of the ONNX graph, and the node of ours that it was made for."""

    __slots__ = ("attrs", "inputs", "kind", "name", "origin", "outputs")

    def __init__(
        self,
        kind: str,
        inputs: tuple[Value | None, ...],
        outputs: tuple[Value, ...],
        attrs: dict[str, Any],
        origin: Node | None,
    ) -> None:
        self.kind, self.inputs, self.outputs, self.attrs, self.origin = kind, inputs, outputs, attrs, origin
        self.name = ""


@dataclass(frozen=True, eq=False)
class Body:
    """A graph that is an attribute: what a loop repeats."""

    builder: Builder
    outputs: tuple[Value, ...]


class Builder:
    """Collects the steps of one graph for one opset.

    Attributes:
        inputs: what every run is given; the symbols in their shapes are what sizes are worked out from.
        steps: in an order in which they can run.
        stored: the values that are stored in the file.
        origin: the node that new steps are made for.
    """

    def __init__(self, opset: int, inputs: Sequence[Value]) -> None:
        self.opset = opset
        self.inputs = tuple(inputs)
        self.steps: list[Step] = []
        self.stored: list[Value] = []
        self.origin: Node | None = None
        self._made: dict[Any, tuple[Value, ...]] = {}
        self._constants: dict[Any, Value] = {}
        self._sources = _sources(self.inputs)

    def nested(self, types: Sequence[TensorType]) -> Builder:
        """A builder for the body of a loop over parameters of `types`."""
        body = Builder(self.opset, [Value(type) for type in types])
        body.origin = self.origin
        return body

    def closed(self, outputs: Sequence[Value]) -> Body:
        """This builder's graph as a body with these results."""
        return Body(self, tuple([self.copy(y) if y in self.inputs or y.array is not None else y for y in outputs]))

    # ------------------------------------------------------------------------------------------ values

    def parameter(self, array: Array, name: str) -> Value:
        """A stored value with a name of its own, such as a layer's weight."""
        value = Value(TensorType(dtype_name(array.dtype), array.shape), array, name)
        self.stored.append(value)
        return value

    def constant(self, value: Any, dtype: str = "int64") -> Value:
        """A stored value without a name; equal ones are stored once. Numbers and lists become arrays of `dtype`."""
        array = value if isinstance(value, np.ndarray) else np.array(value, np_dtype(dtype))
        type = TensorType(dtype_name(array.dtype), array.shape)
        data = array.tobytes()
        key = (type, data if len(data) <= SMALL else blake2b(data).digest())
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = Value(type, array)
            self.stored.append(found)
        return found

    def like(self, x: Value, number: float) -> Value:
        """`number` as a scalar of the dtype of `x`."""
        return self.constant(number, x.dtype)

    # ------------------------------------------------------------------------------------------ steps

    def op(self, kind: str, *operands: Value | None, out: Out = None, **named: Any) -> Value:
        """The result of one operator.

        Args:
            out: the type or the shape of the result; by default the operands' shapes, broadcast. A dtype that isn't
                given is that of the operands with the same type variable.
            named: attributes, or operands by their names: ONNX has changed its mind about which are which. Numbers
                and sizes become constants, or are worked out from the inputs' shapes where they are symbolic.

        Raises:
            Inexpressible: there is no such operator, or none for these dtypes, at this opset.
        """
        return self.ops(kind, *operands, outs=(out,), **named)[0]

    def ops(self, kind: str, *operands: Value | None, outs: Sequence[Out], **named: Any) -> tuple[Value, ...]:
        """The results of an operator that has several; see `op`."""
        declared = schema(kind, self.opset)
        given, attrs = self._bound(declared, operands, named)
        wide = _widened(declared, given, self.opset)
        inputs = tuple(
            x if x is None else self.cast(x, wide.get(declared.input(k).type, x.dtype)) for k, x in enumerate(given)
        )
        types = [_result(declared, k, out, inputs, wide) for k, out in enumerate(outs)]
        results = self._step(kind, inputs, types, attrs)
        narrow = {variable: x.dtype for variable, x in _by_variable(declared, given)}
        return tuple(
            self.cast(y, narrow.get(declared.output(k).type, y.dtype)) if declared.output(k).type in wide else y
            for k, y in enumerate(results)
        )

    def cast(self, x: Value, dtype: str) -> Value:
        """`x` in `dtype`; `x` itself if it has it."""
        if x.dtype == dtype:
            return x
        return self._step("Cast", (x,), [x.type.with_dtype(dtype)], {"to": onnx_dtype(dtype)})[0]

    def wide(self, x: Value) -> Value:
        """16-bit floats as float32, for what takes several steps and is rounded once; anything else as it is."""
        return self.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x

    def copy(self, x: Value) -> Value:
        """Another value that is equal to `x`."""
        copied = Value(x.type)
        self.steps.append(Step("Identity", (x,), (copied,), {}, self.origin))
        return copied

    def _step(
        self, kind: str, inputs: tuple[Value | None, ...], types: Sequence[TensorType], attrs: dict[str, Any]
    ) -> tuple[Value, ...]:
        key = (kind, inputs, tuple(types), tuple(sorted(attrs.items())))
        found = None if kind in DRAWS else self._made.get(key)
        if found is None:
            found = self._made[key] = tuple(map(Value, types))
            self.steps.append(Step(kind, inputs, found, attrs, self.origin))
        return found

    def _bound(
        self, declared: Schema, operands: Sequence[Value | None], named: Mapping[str, Any]
    ) -> tuple[tuple[Value | None, ...], dict[str, Any]]:
        """Operands by position, and attributes."""
        inputs: list[Value | None] = list(operands)
        attrs: dict[str, Any] = {}
        for name, value in named.items():
            if value is None:
                continue
            if name in declared.attributes:
                attrs[name] = _known(declared.kind, name, value)
                continue
            names = [formal.name for formal in declared.inputs]
            if name not in names:
                raise missing_attribute(declared.kind, name, self.opset)
            at = names.index(name)
            inputs += [None] * (at + 1 - len(inputs))
            inputs[at] = value if isinstance(value, Value) else self.vector(value)
        while inputs and inputs[-1] is None:
            inputs.pop()
        return tuple(inputs), attrs

    # ------------------------------------------------------------------------------------------ shapes

    def expand(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """`x` broadcast to `shape`; `x` itself if nothing is repeated."""
        known = (1,) * (len(shape) - len(x.shape)) + x.shape
        wanted = [1 if dim != 1 else size for dim, size in zip(known, shape, strict=True)]
        if len(x.shape) == len(shape) and all(size == 1 for size in wanted):
            return x
        return self.op("Expand", x, self.vector(wanted), out=shape)

    def reshape(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """`x` with its elements in another shape; `x` itself if it has it.

        Sizes that stay where they are, and one that isn't known, cost nothing (ONNX's 0 and -1); more than that is
        worked out from the inputs' shapes.
        """
        if x.shape == shape:
            return x
        stays = [k < len(x.shape) and dim is x.shape[k] for k, dim in enumerate(shape)]
        known = [dim if isinstance(dim, int) else 0 if same else -1 for dim, same in zip(shape, stays, strict=True)]
        if known.count(-1) > 1 or 0 in shape:
            return self.op("Reshape", x, self.vector(shape), out=shape, allowzero=1)
        return self.op("Reshape", x, self.constant(known), out=shape)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """`x` with its axes in another order; what is stored is stored so, which costs no step."""
        order = tuple(order)
        if order == tuple(range(len(order))):
            return x
        shape = tuple([x.shape[axis] for axis in order])
        if x.array is None:
            return self.op("Transpose", x, out=shape, perm=order)
        key = ("Transpose", x, order)
        if key not in self._made:
            turned = np.ascontiguousarray(x.array.transpose(order))
            self._made[key] = (self.parameter(turned, f"{x.name}.T") if x.name else self.constant(turned),)
        return self._made[key][0]

    def pad(
        self, x: Value, before: Sequence[Dim], after: Sequence[Dim], shape: tuple[Dim, ...], fill: Value | None = None
    ) -> Value:
        """`x` with so many elements of `fill`, or zeros, added at the ends of its axes; negative ones are cut off."""
        pads = (*before, *after)
        if not all(isinstance(width, int) for width in pads):
            return self.op("Pad", x, self.vector(pads), fill, out=shape)  # it may cut as well
        if any(width > 0 for width in pads):
            added = tuple([max(width, 0) for width in pads])
            wide = tuple(
                size - min(first, 0) - min(last, 0) for size, first, last in zip(shape, before, after, strict=True)
            )
            x = self.op("Pad", x, self.vector(added), fill, out=wide)
        if any(width < 0 for width in pads):
            axes = tuple(k for k in range(len(shape)) if before[k] < 0 or after[k] < 0)
            starts = tuple(-min(before[k], 0) for k in axes)
            ends = tuple(after[k] if after[k] < 0 else END for k in axes)
            x = self.op("Slice", x, out=shape, starts=starts, ends=ends, axes=axes)
        return x

    def scalar(self, dim: Dim) -> Value:
        """One size as an int64 scalar."""
        if isinstance(dim, int):
            return self.constant(dim)
        return self.op("Squeeze", self.size(dim), out=(), axes=(0,))

    def counter(self, length: Dim) -> Value:
        """0, 1, ..., length - 1 in int64."""
        if isinstance(length, int) and length <= FEW:
            return self.constant(np.arange(length))
        return self.op("Range", self.constant(0), self.scalar(length), self.constant(1), out=(length,))

    def vector(self, dims: Sequence[Dim]) -> Value:
        """Sizes as int64[len(dims)], worked out from the shapes of the inputs where they are symbolic."""
        parts: list[Value] = []
        known: list[int] = []
        for dim in (*dims, None):
            if isinstance(dim, int):
                known.append(dim)
                continue
            parts += [self.constant(known)] if known else []
            parts += [self.size(dim)] if dim is not None else []
            known = []
        if len(parts) == 1:
            return parts[0]
        return self.op("Concat", *parts, out=(len(dims),), axis=0) if parts else self.constant([])

    def size(self, dim: Dim) -> Value:
        """One size as int64[1]."""
        if isinstance(dim, int):
            return self.constant([dim])
        return self._joined("Add", [self._term(monomial, factor) for monomial, factor in dim.terms])

    def _term(self, monomial: Sequence[str | FloorDiv], factor: int) -> Value:
        atoms = [self._symbol(atom) if isinstance(atom, str) else self._quotient(*atom) for atom in monomial]
        return self._joined("Mul", atoms if factor == 1 and atoms else [*atoms, self.constant([factor])])

    def _joined(self, kind: str, values: Sequence[Value]) -> Value:
        return reduce(lambda a, b: self.op(kind, a, b), values)

    def _quotient(self, numerator: Dim, denominator: Dim) -> Value:
        """The floor of a quotient; ONNX's integer division truncates, which differs below 0."""
        a, b = self.size(numerator), self.size(denominator)
        least = lower_bound(numerator)
        if least is None or least < 0:
            a = self.op("Sub", a, self.op("Mod", a, b))
        return self.op("Div", a, b)

    def _symbol(self, name: str) -> Value:
        """The size that a symbol has."""
        if name not in self._sources:
            raise Inexpressible(f"the size {name!r} is in the shape of no input", hint="add an input that has it")
        dim, x, axis = self._sources[name]
        size = self.op("Shape", x, out=(1,), start=axis, end=axis + 1)
        factor = dict(dim.terms)[(name,)]
        rest = dim - factor * symbol(name)
        if rest != 0:
            size = self.op("Sub", size, self.size(rest))
        return size if factor == 1 else self.op("Div", size, self.constant([factor]))


def _sources(inputs: Sequence[Value]) -> dict[str, Source]:
    """For each symbol the axis that it is worked out from: one that it names, or else one that is linear in it."""
    axes = [(dim, x, k) for x in inputs for k, dim in enumerate(x.shape) if isinstance(dim, DimExpr)]
    found: dict[str, Source] = {}
    for source in axes:
        if source[0].text in source[0].symbols:
            found.setdefault(source[0].text, source)
    waiting, known = axes, -1
    while len(found) > known:  # each round may make further axes linear in one unknown
        known = len(found)
        for source in waiting:
            unknown = set(source[0].symbols - found.keys())
            monomials = [m for m, _ in source[0].terms if not unknown.isdisjoint(_symbols_in(m))]
            if len(unknown) == 1 and monomials == [tuple(unknown)]:
                found[unknown.pop()] = source
    return found


def _symbols_in(monomial: Sequence[str | FloorDiv]) -> frozenset[str]:
    parts = [{atom} if isinstance(atom, str) else {*symbols_of(atom[0]), *symbols_of(atom[1])} for atom in monomial]
    return frozenset().union(*parts)


# --------------------------------------------------------------------------------------------- types


def broadcast(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The shape that operands broadcast to, of which ours have been checked already."""
    rank = max(map(len, shapes), default=0)
    aligned = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple([next((dim for dim in dims if dim != 1), 1) for dims in zip(*aligned, strict=True)])


def _known(kind: str, name: str, value: Any) -> Any:
    """An attribute, which can't depend on a size that isn't known."""
    if isinstance(value, tuple) and any(isinstance(dim, DimExpr) for dim in value):
        raise Inexpressible(f"ONNX's {kind} needs a known {name}, not {shape_text(value)}")
    return value


def _by_variable(declared: Schema, operands: Sequence[Value | None]) -> Iterator[tuple[str, Value]]:
    """The operands with the type variable of each."""
    return ((declared.input(k).type, x) for k, x in enumerate(operands) if x is not None)


def _widened(declared: Schema, operands: Sequence[Value | None], opset: int) -> dict[str, str]:
    """The type variables whose dtype the operator doesn't take, and the wider one to use."""
    wide: dict[str, str] = {}
    given: dict[str, str] = {}
    for variable, x in _by_variable(declared, operands):
        allowed = declared.dtypes[variable]
        if given.setdefault(variable, x.dtype) != x.dtype:
            mixed = f"{given[variable]} and {x.dtype}"
            raise Inexpressible(f"ONNX's {declared.kind} takes operands of one dtype, not {mixed}")
        if x.dtype not in allowed:
            found = next((dtype for dtype in WIDER.get(x.dtype, ()) if dtype in allowed), None)
            if found is None:
                later = opset_for(declared.kind, variable, x.dtype)
                raise Inexpressible(f"ONNX's {declared.kind} doesn't take {x.dtype} at opset {opset}", opset=later)
            wide[variable] = found
    return wide


def _result(
    declared: Schema, index: int, out: Out, operands: Sequence[Value | None], wide: Mapping[str, str]
) -> TensorType:
    """The type of a result, from what is known of it and from the operands with the same type variable."""
    variable = declared.output(index).type
    if isinstance(out, TensorType):
        return out.with_dtype(wide.get(variable, out.dtype))
    bound = next((x.dtype for other, x in _by_variable(declared, operands) if other == variable), None)
    if bound is None:
        (bound,) = declared.dtypes[variable]
    return TensorType(bound, broadcast([x.shape for x in operands if x is not None]) if out is None else out)
