"""Sessions: variable values, random state and compiled plans; what `run` does, and when it commits.

All reads of a run see the values from before it; its updates are committed together after everything was computed,
so a run that fails or is interrupted leaves every variable as it was.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from graphc.dims import Guard
from graphc.errors import ArgumentError, FeedError, FetchError, GraphError, SessionError, did_you_mean
from graphc.ir import Graph, Node, Program, current_graph, next_serial, substitute, toposort
from graphc.op import Array
from graphc.operands import parameter
from graphc.ops.random import Draw
from graphc.ops.state import Placeholder, Updates, Variable, group
from graphc.passes.modes import resolve_mode
from graphc.passes.pipeline import PIPELINE, Pass, check_switches, run_pipeline, switches
from graphc.passes.plan import TECHNIQUES
from graphc.plan import Plan
from graphc.restore import LoadReport, compare, require_all
from graphc.runtime import checkpoint
from graphc.runtime.feeds import (
    check_guards,
    check_sizes,
    convert_feeds,
    feeds_given,
    missing_feeds,
    resolve_feeds,
    sizes_needed,
    with_misfits,
)
from graphc.runtime.plan import PlanTarget
from graphc.runtime.reference import DrawKey, Executable, ReferenceTarget, Target
from graphc.runtime.structure import flatten
from graphc.runtime.variables import materialise
from graphc.source import here, name_in_caller
from graphc.target import TargetInfo


class Device(NamedTuple):
    """What `device=` can name: how its target is made, and which passes run for it."""

    target: Callable[[int, frozenset[str]], Target]
    passes: tuple[Pass, ...]


REQUIRED = tuple(p for p in PIPELINE if not p.optional)  # the oracle depends on no optimisation

DEVICES: dict[str, Device] = {
    "cpu": Device(lambda *_: ReferenceTarget(), PIPELINE),  # until the native target exists: optimised, in NumPy
    "reference": Device(lambda *_: ReferenceTarget(), REQUIRED),
    "plan": Device(PlanTarget, PIPELINE),
}

MAX_PLANS = 128  # compiled programs that a session keeps; the least recently used goes first
MAX_REBUILDS = 8  # runs in a row that each compile something new before the user is told why


class CacheInfo(NamedTuple):
    """How often `run` found its plan, and how many plans there are."""

    hits: int
    misses: int
    size: int
    limit: int


@dataclass(frozen=True)
class Request:
    """What a run asks for, resolved: the key of the plan cache."""

    fetches: tuple[Node, ...]
    updates: tuple[tuple[Node, Node], ...]
    losses: tuple[Node, ...]
    fed: tuple[Node, ...]
    training: bool


@dataclass(frozen=True)
class Compiled:
    """A request, compiled: the executable and which values it takes."""

    executable: Executable
    defaults: Mapping[Node, Array]
    variables: tuple[Node, ...]
    draws: tuple[Draw, ...]
    updated: tuple[Node, ...]
    overridden: Mapping[Node, Node]
    guards: tuple[tuple[Guard, Node], ...]
    sizes: Mapping[str, Node]  # the symbolic dimensions that must be known, each with a node that needs it


class Session:
    """Runs graphs, and owns the values of their variables.

    Args:
        graph: the graph it runs; by default that of what is fetched first.
        device: "cpu", "reference" or "plan"; None takes the best that works here. See `Session.device`.
        seed: of everything random: initial values and draws.
        threads: how many threads a native target may use; NumPy's own settings rule the others.
        disable: names of passes and techniques to switch off, such as `("fuse",)`.

    A session may be used from many threads; its runs are serialised. Results belong to the caller: they never share
    memory with variables, feeds or each other.
    """

    def __init__(
        self,
        graph: Graph | None = None,
        *,
        device: str | None = None,
        seed: int = 0,
        threads: int | None = None,
        disable: Sequence[str] = (),
    ) -> None:
        name = "cpu" if device is None else device
        if name not in DEVICES:
            raise ArgumentError(
                f"device {device!r} is not one of {', '.join(map(repr, DEVICES))}{did_you_mean(str(device), DEVICES)}",
                lines=[here()],
            )
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ArgumentError(f"threads must be a positive int, got {threads!r}", lines=[here()])
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise ArgumentError(f"seed must be an int in [0, 2**64), got {seed!r}", lines=[here()])
        check_switches(disable, switches() | TECHNIQUES)
        self.graph = graph
        self.device = name
        self.seed = int(seed)
        self.threads = threads
        self.disable = frozenset(disable)
        self._passes = DEVICES[name].passes
        self._target = DEVICES[name].target(self.seed, self.disable)
        self._values: dict[Node, Array] = {}
        self._counters: dict[str, int] = {}
        self._plans: OrderedDict[Request, Compiled] = OrderedDict()
        self._hits = self._misses = 0
        self._rebuilds = _Rebuilds()
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Session:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session on {self.device!r}, seed {self.seed}{', closed' if self._closed else ''}>"

    def close(self) -> None:
        """Free plans and values; results that were returned stay valid. Closing twice is fine."""
        if self._owner != threading.get_ident():
            with self._lock:
                self._closed = True
                self._plans.clear()
                self._values = {}

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError("this session is closed", hint="make a new one: gc.Session()", lines=[here()])

    def cache_info(self) -> CacheInfo:
        """Hits, misses, number and limit of compiled plans."""
        return CacheInfo(self._hits, self._misses, len(self._plans), MAX_PLANS)

    # ------------------------------------------------------------------------------------------ running

    def run(self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, training: bool | None = None) -> Any:
        """Compute `fetches` and return their values in the same form.

        Args:
            fetches: tensors, their names, or updates (whose value is None), in any nest of lists, tuples, dicts and
                dataclasses.
            feeds: values by tensor or name: of placeholders, or of any other tensor, which is then not computed.
            training: the mode; by default a run that fetches a training update is a training run.

        Returns:
            NumPy arrays that belong to the caller.

        Raises:
            FetchError: something that can't be fetched. FeedError: all feeds that don't fit or are missing.
            GuardError: sizes that contradict what the graph had to assume. SessionError: a closed session.
        """
        with _Run(self):
            leaves, build = flatten(fetches, _is_fetch)
            resolved = [self._fetch(leaf) for leaf in leaves]
            feeds = feeds_given(feeds)
            given = resolve_feeds(feeds, self._graph_of([*resolved, *feeds]))
            request = _request(resolved, given, training)
            try:
                compiled = self._compiled(request)
            except FeedError as missing:
                raise with_misfits(missing, given) from None
            outputs = iter(self._execute(compiled, given))
            return build(iter([next(outputs) if isinstance(r, Node) else None for r in resolved]))

    def compile(self, fetches: Any, feeds: Any = (), *, training: bool | None = None) -> Callable[..., Any]:
        """The hot path: a function of the values of `feeds`, in order, that returns what `run` would.

        Args:
            feeds: the tensors (or names) that a call gives values for; one, or several in order.

        Returns:
            `step(*values, out=None)`; `out`, a list of arrays for the tensors fetched, receives the results.
        """
        with _Run(self):
            leaves, build = flatten(fetches, _is_fetch)
            resolved = [self._fetch(leaf) for leaf in leaves]
            keys = [feeds] if isinstance(feeds, Node | str) else list(feeds)
            given = resolve_feeds(dict.fromkeys(keys), self._graph_of([*resolved, *keys]))
            request = _request(resolved, given, training)
            self._compiled(request)
        tensors = tuple(given)

        def step(*values: Any, out: Sequence[Array] | None = None) -> Any:
            if len(values) != len(tensors):
                names = ", ".join(node.display_name for node in tensors)
                raise ArgumentError(
                    f"this step takes {len(tensors)} values ({names}), got {len(values)}", lines=[here()]
                )
            with _Run(self):
                found = self._execute(self._compiled(request), dict(zip(tensors, values, strict=True)))
            found = found if out is None else _copied_out(found, out)
            outputs = iter(found)
            return build(iter([next(outputs) if isinstance(r, Node) else None for r in resolved]))

        return step

    def plan(self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, training: bool | None = None) -> Plan:
        """The plan of this run, without running it: kernels, buffers, and every byte.

        Args:
            feeds: values, or arrays of the same shapes; they give the symbolic dimensions their sizes.
        """
        with _Run(self):
            leaves, _ = flatten(fetches, _is_fetch)
            resolved = [self._fetch(leaf) for leaf in leaves]
            feeds = feeds_given(feeds)
            given = resolve_feeds(feeds, self._graph_of([*resolved, *feeds]))
            request = _request(resolved, given, training)
            compiled = self._compiled(request)
            _, dims = convert_feeds({**compiled.defaults, **given})
            check_sizes(compiled.sizes, dims)
            check_guards(compiled.guards, dims)
            program, _ = self._program(request)
            target = PlanTarget(self.seed, self.disable)
            return target.compile(self._optimised(program, target.info, request.training, PIPELINE)).plan(dims)

    # ------------------------------------------------------------------------------------------ variables

    def __getitem__(self, key: Any) -> Array:
        """The value of a variable, given itself or its name; a copy."""
        with _Run(self):
            variable = self._variable(key)
            self._materialise([variable])
            return self._values[variable].copy()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Give a variable a value, of its shape; dtypes are converted as feeds are."""
        with _Run(self):
            variable = self._variable(key)
            arrays, _ = convert_feeds({variable: value})
            self._values[variable] = np.array(arrays[variable], order="C", copy=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all variables and the random state to a safetensors file, atomically.

        Raises:
            StateError: the file can't be written; a previous one is left as it was.
        """
        with _Run(self):
            variables = self._variables()
            self._materialise(variables.values())
            tensors = {name: self._values[variable] for name, variable in variables.items()}
            checkpoint.write(path, checkpoint.Checkpoint(tensors, self.seed, self._counters))

    def load(self, path: str | os.PathLike[str], *, strict: bool = True) -> LoadReport:
        """Take values of variables, and the random state, from a safetensors file.

        Args:
            strict: refuse a file that differs from the variables, changing nothing; otherwise take what fits.

        Raises:
            StateError: an unreadable file, or (strict) every missing, unexpected and mis-shaped tensor at once.
        """
        with _Run(self):
            variables = self._variables()
            found = checkpoint.read(path)
            report = compare({name: v.tensor_type for name, v in variables.items()}, found.tensors)
            if strict:
                require_all(report, os.fspath(path))
            self._values.update({variables[name]: found.tensors[name] for name in report.loaded})
            if found.counters is not None and found.seed is not None:
                self._counters = dict(found.counters)
                self.seed = found.seed
            return report

    def _variables(self) -> dict[str, Variable]:
        graph = self.graph or current_graph()
        return checkpoint.by_dotted_name(v for v in graph.variables() if isinstance(v, Variable))

    def _variable(self, key: Any) -> Variable:
        graph = self.graph or current_graph()
        node = graph[key] if isinstance(key, str) else key
        if not isinstance(node, Variable):
            raise ArgumentError(f"{key!r} is no variable", hint="sess.run(x) computes a tensor", lines=[here()])
        self._graph_of([node])
        return node

    def _materialise(self, variables: Any) -> None:
        if any(variable not in self._values for variable in variables):
            self._values.update(materialise(variables, self._values, self.seed))

    # ------------------------------------------------------------------------------------------ inside a run

    def _fetch(self, leaf: Any) -> Node | Updates:
        if isinstance(leaf, Node | Updates):
            return leaf
        if isinstance(leaf, str):
            return (self.graph or current_graph())[leaf]
        if isinstance(leaf, np.ndarray | np.generic | int | float | None) and not isinstance(leaf, bool):
            name, places = name_in_caller(leaf)
            raise FetchError(
                f"{repr(name) if name else 'what is fetched'} is a value ({type(leaf).__name__}), "
                "not a tensor of the graph",
                lines=[f"{name} is assigned at {place}" for place in places],
                hint="the name was probably rebound to the result of an earlier run; keep tensor and value apart",
            )
        raise FetchError(
            f"can't fetch {type(leaf).__name__} {leaf!r}"[:200],
            lines=[here()],
            hint="fetch tensors, their names or updates, in lists, tuples, dicts or dataclasses",
        )

    def _graph_of(self, involved: Sequence[Any]) -> Graph | None:
        """Bind the session to the graph of what is involved, and refuse any other."""
        for item in involved:
            for node in [item] if isinstance(item, Node) else item if isinstance(item, Updates) else []:
                if node.graph is not None and node.graph is not self.graph:
                    if self.graph is not None:
                        raise GraphError(
                            f"{node.display_name!r} belongs to graph {node.graph.name!r}, "
                            f"this session runs {self.graph.name!r}",
                            lines=[here(), node.made_at],
                            hint=f"gc.Session(graph) makes a session for the graph {node.graph.name!r}",
                        )
                    self.graph = node.graph
        return self.graph

    def _compiled(self, request: Request) -> Compiled:
        found = self._plans.get(request)
        if found is not None:
            self._hits += 1
            self._rebuilds.reset()
            self._plans.move_to_end(request)
            return found
        self._misses += 1
        program, overridden = self._program(request)
        self._rebuilds.note(program)
        optimised = self._optimised(program, self._target.info, request.training)
        nodes = optimised.nodes()
        given = set(request.fed) | set(overridden.values())
        placeholders = [n for n in nodes if isinstance(n, Placeholder) and n not in given]
        missing = [n for n in placeholders if n.default is None]
        if missing:
            fetched = [(n.display_name, n) for n in request.fetches]
            fetched += [(f"the update of {v.display_name}", n) for v, n in request.updates]
            fetched += [(f"the loss {n.display_name}", n) for n in request.losses]
            raise missing_feeds(missing, fetched)
        guards = collect_guards(program)
        found = Compiled(
            self._target.compile(optimised),
            {n: n.default for n in placeholders if n.default is not None},
            tuple([n for n in nodes if isinstance(n, Variable) and n not in given]),
            tuple([n for n in nodes if isinstance(n, Draw)]),
            tuple([variable for variable, _ in optimised.updates]),
            overridden,
            guards,
            sizes_needed(nodes, guards),
        )
        self._plans[request] = found
        if len(self._plans) > MAX_PLANS:
            self._plans.popitem(last=False)
        return found

    def _optimised(self, program: Program, info: TargetInfo, training: bool, passes: Sequence[Pass] = ()) -> Program:
        passes = passes or self._passes
        disable = self.disable & switches(passes)
        return run_pipeline(program, info, training=training, disable=disable, passes=passes)

    def _program(self, request: Request) -> tuple[Program, dict[Node, Node]]:
        """The program of a request in its mode, with every fed tensor that isn't a leaf replaced by a parameter."""
        inner = [node for node in request.fed if not isinstance(node, Placeholder | Variable)]
        overridden = {node: parameter(k, node.type) for k, node in enumerate(inner)}
        outputs = (*request.fetches, *request.losses)
        replaced = substitute([*outputs, *(new for _, new in request.updates)], overridden)
        updates = tuple(zip([v for v, _ in request.updates], replaced[len(outputs) :], strict=True))
        inputs = [overridden.get(node, node) for node in request.fed]
        inputs += [n for n in toposort(replaced) if isinstance(n, Placeholder) and n not in request.fed]
        # Statistics on the way to a loss are updated even if no gradient, and so no update, depends on them.
        whole = resolve_mode(Program(tuple(inputs), replaced[: len(outputs)], updates), training=request.training)
        return Program(whole.inputs, whole.outputs[: len(request.fetches)], whole.updates), overridden

    def _execute(self, compiled: Compiled, feeds: Mapping[Node, Any]) -> list[Array]:
        """Convert the feeds, compute, commit; returns the fetched values."""
        arrays, dims = convert_feeds({**compiled.defaults, **feeds})
        check_sizes(compiled.sizes, dims)
        check_guards(compiled.guards, dims)
        self._materialise(compiled.variables)
        values: dict[Node, Array] = {compiled.overridden.get(node, node): array for node, array in arrays.items()}
        values.update((variable, self._values[variable]) for variable in compiled.variables)
        draws: dict[Node, DrawKey] = {leaf: (self.seed, leaf.stream, self._claim(leaf)) for leaf in compiled.draws}
        outputs, news = compiled.executable.run(values, dims, draws)
        owned = _owned([*outputs, *news], [*values.values(), *(a for a in feeds.values() if isinstance(a, np.ndarray))])
        # The commit: one dictionary update, which no exception can interrupt.
        self._values.update(zip(compiled.updated, owned[len(outputs) :], strict=True))
        return owned[: len(outputs)]

    def _claim(self, leaf: Draw) -> int:
        counter = self._counters.get(leaf.name, 0)
        self._counters[leaf.name] = counter + 1
        return counter


class _Run:
    """One use of a session: open, serialised, and not from inside another on the same thread."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def __enter__(self) -> None:
        session = self.session
        if session._owner == threading.get_ident():
            raise SessionError("a session can't be used from inside one of its own runs", lines=[here()])
        session._lock.acquire()
        session._owner = threading.get_ident()
        try:
            session._check_open()
        except SessionError:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self.session._owner = None
        self.session._lock.release()


def _is_fetch(leaf: Any) -> bool:
    return isinstance(leaf, Node | Updates | str)


def _request(resolved: Sequence[Node | Updates], given: Mapping[Node, Any], training: bool | None) -> Request:
    updates = group(*[r for r in resolved if isinstance(r, Updates)])
    return Request(
        tuple([r for r in resolved if isinstance(r, Node)]),
        tuple(updates.items()),
        updates.losses,
        tuple(given),
        updates.training if training is None else bool(training),
    )


def _owned(results: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    """`results` as arrays of their own: what shares memory with anything else, or can't be written, is copied."""
    taken = {id(array) for array in others}
    owned = []
    for array in results:
        if array.base is not None or id(array) in taken or not array.flags.writeable or not array.flags.c_contiguous:
            array = np.array(array, order="C", copy=True)
        taken.add(id(array))
        owned.append(array)
    return owned


def _copied_out(found: Sequence[Array], out: Sequence[Array]) -> list[Array]:
    fits = len(found) == len(out) and all(
        o.shape == f.shape and o.dtype == f.dtype for o, f in zip(out, found, strict=True)
    )
    if not fits:
        wanted = ", ".join(f"{f.dtype}{list(f.shape)}" for f in found)
        raise ArgumentError(f"out= needs arrays of {wanted}", lines=[here()])
    for target, value in zip(out, found, strict=True):
        target[...] = value
    return list(out)


def collect_guards(program: Program) -> tuple[tuple[Guard, Node], ...]:
    """The assumptions of all nodes of a program, those inside composites included, each with a node that made it."""
    found: dict[Guard, Node] = {}
    for node in program.nodes():
        inner = () if node.body is None else [guard for guard, _ in collect_guards(node.body)]
        for guard in (*node.guards, *inner):
            found.setdefault(guard, node)
    return tuple(found.items())


class _Rebuilds:
    """Tells, once, when run after run compiles something new because the graph grows in the loop."""

    def __init__(self) -> None:
        self.last_run = next_serial()
        self.told = False
        self.lines: dict[str, int] = {}

    def reset(self) -> None:
        self.lines.clear()

    def note(self, program: Program) -> None:
        """A run compiled `program`: count the line that made the first node since the run before."""
        before, self.last_run = self.last_run, next_serial()
        if self.told:
            return
        fresh = next((n for n in program.nodes() if n.serial > before and n.inputs and n.occurrence.code), None)
        if fresh is None:
            return
        line = str(fresh.occurrence.site)
        self.lines[line] = self.lines.get(line, 0) + 1
        if self.lines[line] >= MAX_REBUILDS:
            self.told = True
            warnings.warn(
                f"{MAX_REBUILDS} runs in a row each compiled a new plan, because this line builds something new "
                f"each time:\n  {line}\n  hint: a Python number became part of the graph; feed it through a "
                "gc.placeholder, or keep it in a gc.Variable",
                stacklevel=6,
            )
