"""What the ONNX standard says of an operator at an opset: its inputs, its attributes, and the dtypes that it takes.

Everything is read from the schemas of the `onnx` package, so no table here can disagree with the checker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from graphc.errors import ExportError, InternalError
from graphc.types import DTYPES

DEFAULT_OPSET = 20
OPSETS = range(17, 29)  # those that can be asked for
MIN_IR = 10  # the first whose nodes carry metadata

# ONNX's names of the dtypes, where they differ from ours.
ONNX_NAMES = {"float64": "double", "float32": "float"}


class Inexpressible(ExportError):  # noqa: N818 - it is named by what it says
    """Something that ONNX has no words for, at least not at this opset.

    Attributes:
        opset: the lowest one that would do, or None.
    """

    def __init__(self, message: str, *, opset: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.opset = opset


class Formal(NamedTuple):
    """A declared input or output: its name, and the type variable or concrete type that it has."""

    name: str
    type: str


@dataclass(frozen=True)
class Schema:
    """One version of an operator.

    Attributes:
        inputs, outputs: as declared; the last of each may repeat.
        attributes: their names.
        dtypes: what each type variable may be; a concrete type stands for itself.
    """

    kind: str
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    attributes: frozenset[str]
    dtypes: dict[str, frozenset[str]]

    def input(self, index: int) -> Formal:
        """The declaration of operand number `index`."""
        return self.inputs[min(index, len(self.inputs) - 1)]

    def output(self, index: int) -> Formal:
        """The declaration of result number `index`."""
        return self.outputs[min(index, len(self.outputs) - 1)]


@cache
def schema(kind: str, opset: int) -> Schema:
    """The operator `kind` of the default domain as `opset` has it.

    Raises:
        Inexpressible: it is younger than that.
    """
    from onnx import defs

    if opset < versions(kind)[0]:
        first = versions(kind)[0]
        raise Inexpressible(f"ONNX's {kind} needs opset {first}, not {opset}", opset=first)
    found = defs.get_schema(kind, opset)
    allowed = {c.type_param_str: _dtypes(c.allowed_type_strs) for c in found.type_constraints}
    formals = [Formal(f.name, f.type_str) for f in (*found.inputs, *found.outputs)]
    concrete = {f.type: _dtypes([f.type]) for f in formals if f.type not in allowed}
    inputs = len(found.inputs)
    return Schema(
        kind,
        tuple(formals[:inputs]),
        tuple(formals[inputs:]),
        frozenset(found.attributes),
        {**allowed, **concrete},
    )


def _dtypes(types: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in DTYPES if f"tensor({ONNX_NAMES.get(name, name)})" in types)


@cache
def versions(kind: str) -> tuple[int, ...]:
    """The opsets in which `kind` appeared or changed, in order."""
    return tuple(_history()[kind])


@cache
def _history() -> dict[str, list[int]]:
    from onnx import defs

    found: dict[str, list[int]] = {}
    for each in defs.get_all_schemas_with_history():
        if each.domain == "" and not each.deprecated:
            found.setdefault(each.name, []).append(each.since_version)
    return {kind: sorted(opsets) for kind, opsets in found.items()}


def opset_for(kind: str, variable: str, dtype: str) -> int | None:
    """The lowest opset at which `kind` takes `dtype` for a type variable, or None."""
    later = [opset for opset in versions(kind) if opset in OPSETS]
    return next((o for o in later if dtype in schema(kind, o).dtypes.get(variable, ())), None)


def missing_attribute(kind: str, name: str, opset: int) -> Inexpressible:
    """The error for an attribute that `kind` doesn't have yet."""
    later = [o for o in versions(kind) if o > opset and name in schema(kind, o).attributes]
    if not later:
        raise InternalError(f"ONNX's {kind} has no attribute {name!r}")
    return Inexpressible(f"ONNX's {kind} has no {name} at opset {opset}", opset=later[0])


def ir_version(opset: int) -> int:
    """The version of the file format that goes with an opset."""
    from onnx import helper

    return max(MIN_IR, int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)])))


@cache
def onnx_dtype(dtype: str) -> int:
    """ONNX's number of a dtype."""
    from onnx import TensorProto

    number: Any = getattr(TensorProto, ONNX_NAMES.get(dtype, dtype).upper())
    return int(number)
