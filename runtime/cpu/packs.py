"""The code of a plan in one file on disk: a program that starts again reads it, and needs no kernel to be written.

What a kernel's code depends on is its structure, the machine, and the versions of what writes and compiles it; all of
it is in the key under which a plan's code is found. A kernel with a user's own op is known by its op's identity alone,
so plans that have one aren't kept, nor small ones, which are written as fast as they are found.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from graphc import dims, kernel, ops
from graphc.dims import DimExpr
from graphc.ir import Node
from graphc.kernel import Kernel, Region
from graphc.operands import Literal
from graphc.passes import lower
from graphc.plan import Variant
from graphc.runtime import strided
from graphc.runtime.cache import object_cache
from graphc.runtime.cpu import host
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.jit import NO_OBJECTS, Objects, Unit, generator, symbol_of
from graphc.runtime.cpu.merging import merged
from graphc.runtime.cpu.phases import NativeKernel
from graphc.types import TensorType, TupleType

IMPORTED = time.time_ns()
MIN_KERNELS = 16  # in a plan that is kept
ROOMS = [
    Path(module.__file__ or "").parent for module in (ops, dims, host, kernel, lower, strided)
]  # what code depends on


class Pack(NamedTuple):
    """The code of a plan.

    Attributes:
        natives: of each kernel, without its assembly; None where NumPy runs it.
        units: of each kernel that has code.
        objects: all that is to be loaded.
        whole: whether that is one object file, which has the functions that its modules call.
    """

    natives: tuple[NativeKernel | None, ...]
    units: tuple[Unit | None, ...]
    objects: Objects
    whole: bool = False

    def loaded(self, unit: Unit) -> Unit:
        """A unit as it is to be loaded."""
        return unit._replace(calls=()) if self.whole and unit.key in self.objects.images else unit


EMPTY = Pack((), (), NO_OBJECTS)


def key_of(variants: Sequence[Variant], machine: Host, cores: str) -> str | None:
    """Under which the code of a plan is kept; None if it isn't.

    Args:
        variants: the plan's kernels, in order.
        cores: names the table of the cores that are served.
    """
    if len(variants) < MIN_KERNELS or not versions():
        return None
    kinds = Kinds()
    try:
        regions = {region: _described(region, kinds) for k, _ in variants for region in k.regions}
        number = {region: at for at, region in enumerate(regions)}
        kernels = [([number[region] for region in k.regions], _core(k), sorted(steady)) for k, steady in variants]
    except ForeignError:
        return None
    lines = [versions(), repr(machine), cores, repr((kinds.described, list(regions.values()), kernels))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def recalled(key: str | None) -> Pack:
    """What is kept under a key; `EMPTY` if that is nothing, or nothing sound."""
    data = None if key is None else object_cache().find(f"{key}-plan")
    if data is None:
        return EMPTY
    try:
        found: Pack = pickle.loads(data)  # as trustworthy as the machine code beside it: see `runtime.cache`
    except Exception:
        return EMPTY
    object_cache().hits += len(found.objects.images)
    return found


def keep(key: str, pack: Pack) -> None:
    """Keep a plan's code, if that is possible: as one object file, if that can be made of it."""
    images, library = pack.objects
    one = merged(dict.fromkeys(images.values()), {name: symbol_of(unit, name) for name, unit in library.items()})
    if one is not None:
        pack = pack._replace(objects=Objects(dict.fromkeys(images, one), {}), whole=True)
    object_cache().put(f"{key}-plan", pickle.dumps(pack, pickle.HIGHEST_PROTOCOL))


# --------------------------------------------------------------------------------------------- structure


class ForeignError(Exception):
    """Something is known by its identity alone."""


def _core(found: Kernel) -> Any:
    core = found.core
    own = () if core is None else (*described_node(core), [str(operand.type) for operand in core.inputs])
    return len(found.operands), *own


class Kinds:
    """Numbers for nodes that differ in their operands alone, which few do that a plan has many of.

    Attributes:
        described: what each number stands for.
    """

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self.described: list[tuple[Any, ...]] = []

    def number(self, node: Node) -> int:
        """The number of a node's kind; raises ForeignError as `described_node` does."""
        key = node.op, node.type, node.attrs.key
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.described)
            self.described.append(described_node(node))
        return found


def _described(region: Region, kinds: Kinds) -> Any:
    """A region as nested tuples and lists of texts and numbers."""
    number = {node: k for k, node in enumerate(region.values)}
    nodes = [(kinds.number(node), *[number[i] for i in node.inputs]) for node in region.values]
    inputs = [(kinds.number(node), number.get(node)) for node in region.body.inputs]
    outputs = [number[node] for node in region.body.outputs]
    moves = [(at, access.offset, access.strides) for at, access in (*region.loads, *region.stores)]
    return [*map(tuple, region.loops)], len(region.loads), moves, nodes, inputs, outputs


def described_node(node: Node) -> tuple[Any, ...]:
    """A node without its operands as nested tuples and lists that `repr` tells apart.

    Raises:
        ForeignError: it has something that is known by its identity alone.
    """
    op = node.op
    if ops.REGISTRY.get(op.name) is not op:
        raise ForeignError
    return op.name, str(node.type), [(name, *_plain(value)) for name, value in sorted(node.attrs.items())]


def _plain(value: Any) -> Iterator[Any]:
    """An attribute as what `repr` tells apart."""
    match value:
        case None | bool() | int() | str() | float():
            yield value
        case tuple():
            yield tuple([tuple(_plain(item)) for item in value])
        case DimExpr() | TensorType() | TupleType():
            yield type(value).__name__, str(value)
        case Literal():
            yield str(value.array.dtype), value.array.shape, hashlib.sha256(value.array.tobytes()).digest()
        case _:
            raise ForeignError


def versions() -> str:
    """What makes plans and code of them; nothing, if that can't be said."""
    sources = _sources()
    return sources and f"{generator()}\n{sources}"


@cache
def _sources() -> str:
    """What makes plans and writes code: the files of its rooms, by their sizes and when they were changed.

    Nothing, if that is after they were imported: they don't say then what this process runs.
    """
    found = []
    for room in ROOMS:
        with os.scandir(room) as entries:
            found += [(file.path, file.stat()) for file in entries if file.name.endswith(".py")]
    if any(status.st_mtime_ns > IMPORTED for _, status in found):
        return ""
    return "\n".join(sorted([f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in found]))
