"""Level 1: interned, immutable nodes, the graphs that own them, and programs over them.

Structurally equal nodes are the same object (hash-consing, after Filliâtre and Conchon, ML Workshop 2006), so common
subexpressions never exist twice, dead code is what nothing refers to, and "did this pass change anything" is `is`.
Names, scopes and source lines are *occurrences*: they stand beside a node, outside its identity.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from _weakref import _remove_dead_weakref  # type: ignore[attr-defined]  # what WeakValueDictionary uses
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from graphc.attrs import NO_ATTRS, Attrs
from graphc.cached import cached_property
from graphc.dims import Guard, take_guards
from graphc.errors import ArgumentError, GraphcError, GraphError, ShapeError, did_you_mean
from graphc.occurrences import Occurrence, context, current_occurrence, derived_by, place
from graphc.operators import Operators
from graphc.source import passes_user_code, user_site
from graphc.types import TensorType, TupleType, Type

if TYPE_CHECKING:
    from graphc.op import Op

_serials = itertools.count()
serial_of = attrgetter("serial")


def next_serial() -> int:
    """A serial number greater than that of every node that exists."""
    return next(_serials)


# --------------------------------------------------------------------------------------------- graphs


class _Ref(weakref.ref["Node"]):
    """A weak reference that knows its key, so that a dead node's entry can be dropped."""

    __slots__ = ("key",)
    key: tuple[Any, ...]


class _Table:
    """A weak interning table that many threads may use."""

    def __init__(self) -> None:
        self.refs: dict[tuple[Any, ...], _Ref] = {}
        self.lock = threading.RLock()
        refs = self.refs

        def drop(ref: weakref.ref[Node], remove: Callable[..., None] = _remove_dead_weakref) -> None:
            # In one step, unlike `if refs.get(key) is ref: del refs[key]`: a thread may build the node in between.
            # A default, because nodes may outlive the names of this module when Python exits.
            remove(refs, ref.key)  # type: ignore[attr-defined]

        self.drop: Callable[[weakref.ref[Node]], None] = drop

    def add(self, key: tuple[Any, ...], node: Node) -> Node:
        """The node that stands for `key`: `node`, or the one that another thread was faster to add."""
        ref = _Ref(node, self.drop)
        ref.key = key
        present = self.refs.setdefault(key, ref)  # one step, so that the common case needs no lock
        if present is ref:
            return node
        with self.lock:
            current = self.refs.get(key)
            other = None if current is None else current()
            if other is None:  # a dead node's entry that is about to be dropped
                self.refs[key] = ref
                return node
            return other


class Graph:
    """Owns leaves (placeholders, variables, random streams) and, weakly, every node built from them.

    `with gc.Graph() as graph:` makes it the graph of the leaves declared inside. `len(graph)` counts live nodes.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"graph{next(_graph_numbers)}"
        self.table = _Table()
        self.leaves: weakref.WeakValueDictionary[str, Leaf] = weakref.WeakValueDictionary()

    def __enter__(self) -> Graph:
        context.enter(self, "")
        return self

    def __exit__(self, *exc: object) -> None:
        context.leave()

    def __len__(self) -> int:
        return len(self.table.refs) + len(self.leaves)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self)} nodes>"

    def nodes(self) -> list[Node]:
        """All live nodes, in the order of their creation."""
        with self.table.lock:
            live = [node for ref in list(self.table.refs.values()) if (node := ref()) is not None]
        return sorted([*live, *self.leaves.values()], key=lambda node: node.serial)

    def variables(self) -> list[Leaf]:
        """The live variables, in the order of their creation."""
        return [node for node in self.nodes() if isinstance(node, Leaf) and node.op.kind == "variable"]

    def names(self) -> dict[str, Node]:
        """Every live node under its unique display name: `scope/op`, numbered where it repeats."""
        taken: dict[str, Node] = dict(self.leaves.items())
        counts: dict[str, int] = {}
        for node in self.nodes():
            if isinstance(node, Leaf):
                continue
            base = node.basename
            name = base if base not in counts and base not in taken else ""
            while not name or name in taken:
                counts[base] = counts.get(base, 0) + 1
                name = f"{base}_{counts[base]}"
            counts.setdefault(base, 0)
            taken[name] = node
        return taken

    def __getitem__(self, name: str) -> Node:
        """The node of this name.

        Raises:
            GraphError: no live node has it; near names are offered.
        """
        if not isinstance(name, str):
            raise GraphError(f"a graph is indexed by names, got {name!r}")
        leaf = self.leaves.get(name)
        if leaf is not None:
            return leaf
        names = self.names()
        if name not in names:
            raise GraphError(f"graph {self.name!r} has no node named {name!r}{did_you_mean(name, names)}")
        return names[name]

    def claim(self, name: str, leaf: Leaf) -> str:
        """Give `leaf` a unique name: `name` itself or, if a live leaf has it, `name_1`, `name_2`, ..."""
        with self.table.lock:
            unique = _free_name(name, self.leaves)
            self.leaves[unique] = leaf
        return unique

    def to_networkx(self) -> Any:
        """All live nodes as a `networkx.MultiDiGraph`; see `to_networkx`."""
        return to_networkx(self.nodes())


def _free_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name_k` with a free k after a taken one, found by doubling and bisection."""
    if name not in taken:
        return name
    free = 1
    while f"{name}_{free}" in taken:
        free *= 2
    last = free // 2  # taken, as the bare name is
    while free - last > 1:
        middle = (last + free) // 2
        last, free = (middle, free) if f"{name}_{middle}" in taken else (last, middle)
    return f"{name}_{free}"


_graph_numbers = itertools.count()
_default_graph = Graph("default")
_free = _Table()  # constants, and what is built from constants alone, belong to no graph


def current_graph() -> Graph:
    """The innermost `with Graph()` of this thread, or the process-wide default graph."""
    return context.graph or _default_graph


# --------------------------------------------------------------------------------------------- nodes


_NO_MORE: dict[Occurrence, None] = {}  # of nearly all nodes, which have one occurrence; never written to


class Node(Operators):
    """One typed value: an op applied to inputs. Immutable; built by calling ops, never directly.

    Attributes:
        op: the operation.
        inputs: the nodes it is applied to.
        attrs: its attributes, by name.
        type: dtype and shape, from `op.infer`.
        graph: the graph of its leaves; None for what is built from constants alone.
        serial: position in the order of creation; an input's is always smaller than its user's.
        guards: sizes that had to be assumed and are checked against every run's feeds.
        body: the definition of a composite, over parameters; None for every other op.
    """

    __slots__ = ("__weakref__", "attrs", "body", "graph", "guards", "inputs", "more", "op", "serial", "type", "where")
    op: Op
    inputs: tuple[Node, ...]
    attrs: Attrs
    type: Type
    graph: Graph | None
    serial: int
    guards: tuple[Guard, ...]
    body: Program | None
    where: tuple[Any, ...]  # the first occurrence, as the bare tuple behind `Occurrence`
    more: dict[Occurrence, None]  # further occurrences, in order

    def __repr__(self) -> str:
        return f"<{self.display_name}: {self.type}>"

    def __reduce__(self) -> Any:
        raise ArgumentError(
            "a graph node can't be pickled or copied",
            hint="save the variables (sess.save), or export the graph to ONNX",
        )

    # A node's identity is its structure, so `==` and `hash` are those of the object: nodes are dictionary keys.
    __hash__ = object.__hash__

    @property
    def shape(self) -> tuple[Any, ...]:
        """The dimensions: ints, or symbolic expressions."""
        type = self.type
        return type.shape if type.__class__ is TensorType else self.tensor_type.shape

    @property
    def dtype(self) -> str:
        """The dtype's name, such as `"float32"`."""
        type = self.type
        return type.dtype if type.__class__ is TensorType else self.tensor_type.dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        type = self.type
        return type.rank if type.__class__ is TensorType else self.tensor_type.rank

    @property
    def size(self) -> Any:
        """The number of elements, an int or a symbolic expression."""
        return self.tensor_type.size

    @property
    def tensor_type(self) -> TensorType:
        """The type, of a node that is one tensor.

        Raises:
            ArgumentError: the node has several results; index it first.
        """
        if isinstance(self.type, TensorType):
            return self.type
        raise ArgumentError(f"{self.display_name} has several results: {self.type}", hint="take one by its index")

    @property
    def occurrence(self) -> Occurrence:
        """The first place where this node was written."""
        return Occurrence(*self.where)

    @property
    def occurrences(self) -> tuple[Occurrence, ...]:
        """Every place where this node was written, one per scope and line."""
        return (self.occurrence, *self.more)

    @property
    def scope(self) -> str:
        """The scope of the first occurrence."""
        return str(self.where[0])

    @property
    def basename(self) -> str:
        """Scope and op, not yet numbered to be unique (`Graph.names` does that)."""
        return f"{self.scope}/{self.op.name}" if self.scope else self.op.name

    @property
    def display_name(self) -> str:
        """What messages call this node."""
        return self.basename

    @property
    def made_at(self) -> str:
        """`matmul was made at model.py:12`, or the empty string for a node without a line of its own.

        A parameter has none, and neither has a number: it is written in the line that uses it, and its node may be one
        that an equal number elsewhere was given.
        """
        nowhere = self.op.kind == "parameter" or (self.op.kind == "constant" and not self.shape)
        site = None if nowhere else self.occurrence.site
        return f"{self.display_name} was made at {site.short}" if site else ""

    def __bool__(self) -> bool:
        raise ArgumentError(
            f"the value of {self!r} isn't known while the graph is built, so it has no truth value",
            hint="use gc.where(condition, a, b) to choose values, or `is None` to test for absence",
        )

    def __len__(self) -> int:
        count = len(self.type.items) if isinstance(self.type, TupleType) else self._first_dim()
        return count

    def _first_dim(self) -> int:
        shape = self.tensor_type.shape
        if not shape or not isinstance(shape[0], int):
            what = f"a symbolic first dimension, {shape[0]}" if shape else "no dimensions"
            raise ShapeError(f"{self!r} has {what}, so it has no len()", hint="use x.shape[0]")
        return shape[0]

    def __iter__(self) -> Iterator[Node]:
        return (self[i] for i in range(len(self)))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise ArgumentError(
            f"{self!r} is symbolic: it has no values until a session runs it",
            hint="use graphc's function of the same name (gc.tanh, gc.where, ...), or sess.run(x)",
        )

    def __array_function__(self, function: Callable[..., Any], *args: Any) -> Any:
        raise ArgumentError(
            f"np.{function.__name__} needs values, and {self!r} is symbolic: it has none until a session runs it",
            hint=f"gc.{function.__name__} if there is one, or sess.run(x)",
        )

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ArgumentError(
            f"{self!r} is the result of a computation and can't be changed in place",
            hint="gc.where(mask, value, x) makes a changed one; variables change by sess.run(w.assign(value))",
        )

    def _no_number(self) -> Any:
        raise ArgumentError(f"{self!r} is symbolic: it has no value to convert", hint="run it: sess.run(x)")

    __float__ = __int__ = __index__ = __complex__ = _no_number


class Leaf(Node):
    """A node without inputs that is itself and nothing else: placeholders, variables, random streams.

    Leaves are never interned; each has a unique name in its graph.
    """

    __slots__ = ("name",)
    name: str

    def __init__(self, op: Op, type: Type, name: str, attrs: Attrs = NO_ATTRS, *, scoped: bool = True) -> None:
        self.op, self.inputs, self.attrs, self.type = op, (), attrs, type
        self.graph: Graph = current_graph()
        self.guards, self.more, self.body = (), _NO_MORE, None
        self.where = current_occurrence(2)
        self.serial = next(_serials)
        self.name = self.graph.claim(f"{context.scope}/{name}" if scoped and context.scope else name, self)

    @property
    def display_name(self) -> str:
        """The name, which no other node of the graph has."""
        return self.name


def make(
    op: Op,
    inputs: tuple[Node, ...],
    attrs: Attrs = NO_ATTRS,
    body: Program | None = None,
    derived: tuple[Any, ...] | None = None,
) -> Node:
    """The node of `op` on `inputs`: the one that exists, or a new one.

    Args:
        body: the definition of a composite, whose outputs give the type.
        derived: what `derived_by` gives, if it isn't the thread's.

    Raises:
        GraphError: the inputs belong to two graphs.
        GraphcError: what `op.infer` finds wrong with the operands, with the user's lines added.
    """
    graph = None
    for node in inputs:
        owner = node.graph
        if owner is not graph and owner is not None:
            if graph is not None:
                raise _mixed_graphs(op, inputs)
            graph = owner
    table = _free if graph is None else graph.table
    key = (op, inputs, attrs.key, body)
    where = derived = derived or context.derived
    if where is None:
        code, offset = user_site(2)  # from the caller on
        where = place(context.scope, code, offset, context.device)
    ref = table.refs.get(key)
    if ref is not None:
        node = ref()  # type: ignore[assignment]
        if node is not None:
            if derived is None and node.where != where:
                _note(node, where)
            return node
    types = tuple([i.type for i in inputs])
    alike = (types, attrs.key) if attrs else types
    is_remembered = inputs and body is None  # of leaves, attributes may be large
    known = op.results.get(alike) if is_remembered else None
    type = known or _inferred(op, inputs, types, attrs, body, where)
    guards = take_guards()
    if is_remembered and known is None and not guards:
        op.remember(alike, type)
    node = Node()
    node.op, node.inputs, node.attrs, node.type, node.graph, node.body = op, inputs, attrs, type, graph, body
    node.guards, node.more, node.where = guards, _NO_MORE, where
    node.serial = next(_serials)
    return table.add(key, node)


def _inferred(
    op: Op,
    inputs: tuple[Node, ...],
    types: tuple[Type, ...],
    attrs: Attrs,
    body: Program | None,
    where: tuple[Any, ...],
) -> Type:
    """The type of a new node; what is wrong with the operands is told with the user's lines."""
    try:
        return op.infer(*types, **attrs) if body is None else body.type
    except BaseException as error:
        take_guards()
        if isinstance(error, GraphcError):
            raise explain(error, op, inputs, where)  # noqa: B904 - the same error, with lines
        if not isinstance(error, TypeError) or passes_user_code(error.__traceback__):
            raise
        wrong = ArgumentError(f"takes other operands than {', '.join(map(str, types)) or 'none'}")
        raise explain(wrong, op, inputs, where) from error


def _note(node: Node, where: tuple[Any, ...]) -> None:
    occurrence = Occurrence(*where)
    if node.more is _NO_MORE:
        node.more = {occurrence: None}
    else:
        node.more.setdefault(occurrence)


def explain(error: GraphcError, op: Op, inputs: Sequence[Node], where: tuple[Any, ...]) -> GraphcError:
    """`error`, with the op's name, the user's line and where the operands were made."""
    if not error.message.startswith(f"{op.name}:"):
        error.message = f"{op.name}: {error.message}"
    site = Occurrence(*where).site
    made = [
        node.made_at if str(node.type) in error.message else f"{node.made_at} as {node.type}"
        for node in inputs
        if node.made_at
    ]
    return error.at(str(site) if site else "", *dict.fromkeys(made))


def _mixed_graphs(op: Op, inputs: Sequence[Node]) -> GraphError:
    owners = {node.graph.name: node for node in inputs if node.graph is not None}
    names = " and ".join(map(repr, owners))
    return GraphError(
        f"{op.name}: the operands belong to different graphs, {names}",
        hint="build both inside one `with graph:` block",
        lines=[f"in {name!r}: {node.made_at}" for name, node in owners.items()],
    )


# --------------------------------------------------------------------------------------------- programs


@dataclass(frozen=True)
class Program:
    """A function over nodes: what a session compiles, a composite expands to, an exporter writes.

    Attributes:
        inputs: leaves that are given from outside, in order.
        outputs: the values it returns.
        updates: new values of variables, committed together after the outputs are known.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    updates: tuple[tuple[Node, Node], ...] = field(default=())

    @property
    def roots(self) -> tuple[Node, ...]:
        """Everything that must be computed: outputs, then new values."""
        return (*self.outputs, *(value for _, value in self.updates))

    @property
    def type(self) -> Type:
        """The type of the output, or the tuple type of several."""
        return self.outputs[0].type if len(self.outputs) == 1 else TupleType([n.tensor_type for n in self.outputs])

    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the roots need, inputs before users; found once, as every pass asks for them."""
        return self._nodes

    @cached_property
    def _nodes(self) -> tuple[Node, ...]:
        return tuple(toposort(self.roots))

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of its ops; "composite" among them says that some node has a body."""
        return frozenset([node.op.kind for node in self._nodes])

    def with_inputs(self, inputs: tuple[Node, ...]) -> Program:
        """The same program with these inputs; a walk for all nodes serves both."""
        made = Program(inputs, self.outputs, self.updates)
        made.__dict__["_nodes"] = self._nodes
        return made

    def with_roots(self, roots: Sequence[Node]) -> Program:
        """The same program computing `roots`, given in the order of `self.roots`; itself if they are the same."""
        if tuple(roots) == self.roots:
            return self
        count = len(self.outputs)
        updates = tuple((variable, new) for (variable, _), new in zip(self.updates, roots[count:], strict=True))
        return Program(self.inputs, tuple(roots[:count]), updates)


def reachable(roots: Iterable[Node], stop: Callable[[Node], bool] | None = None) -> set[Node]:
    """`roots` and everything they are computed from; inputs of nodes for which `stop` holds are not followed."""
    stack = list(roots)
    seen = set(stack)
    while stack:
        node = stack.pop()
        if stop is not None and stop(node):
            continue
        for i in node.inputs:
            if i not in seen:
                seen.add(i)
                stack.append(i)
    return seen


def toposort(roots: Iterable[Node]) -> list[Node]:
    """All nodes that `roots` need, each after its inputs, in the order of creation (which is such an order)."""
    seen = set(roots)
    found = list(seen)
    for node in found:  # which grows meanwhile
        for i in node.inputs:
            if i not in seen:
                seen.add(i)
                found.append(i)
    found.sort(key=serial_of)
    return found


def rebuild(node: Node, inputs: tuple[Node, ...]) -> Node:
    """`node` with other inputs, recorded as derived from it; `node` itself when they are the same."""
    if inputs == node.inputs:
        return node
    return make(node.op, inputs, node.attrs, node.body, derived_by(node, "rebuild"))


def substitute(
    roots: Sequence[Node], replacements: Mapping[Node, Node], origin: tuple[Node, str] | None = None
) -> tuple[Node, ...]:
    """`roots` with every node in `replacements` replaced, all at once.

    Args:
        origin: the node and rule that new nodes are derived from; by default each from the node it replaces.
    """
    new: dict[Node, Node] = dict(replacements)
    for node in sorted(reachable(roots, replacements.__contains__), key=serial_of):
        if node in new:
            continue
        inputs = tuple([new[i] for i in node.inputs])
        if inputs == node.inputs:
            new[node] = node
        else:
            new[node] = make(node.op, inputs, node.attrs, node.body, derived_by(*(origin or (node, "substitute"))))
    return tuple(new[root] for root in roots)


def to_networkx(roots: Iterable[Node]) -> Any:
    """The nodes that `roots` need as a `networkx.MultiDiGraph`.

    Node keys are the `Node`s themselves, with data `name`, `op`, `type`; edges run from input to user with `index`,
    the operand's position.
    """
    import networkx

    graph = networkx.MultiDiGraph()
    for node in toposort(roots):
        graph.add_node(node, name=node.display_name, op=node.op.name, type=str(node.type))
        graph.add_edges_from((i, node, {"index": k}) for k, i in enumerate(node.inputs))
    return graph
