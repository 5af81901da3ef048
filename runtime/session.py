"""Sessions: variable values, random state and compiled plans; what `run` does, and when it commits.

All reads of a run see the values from before it; its updates are committed together after everything was computed,
so a run that fails or is interrupted leaves every variable as it was.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from graphc.collector import paused
from graphc.errors import ArgumentError, FeedError, FetchError, GraphError, SessionError
from graphc.ir import Graph, Node, Program, current_graph
from graphc.occurrences import context
from graphc.op import Array
from graphc.ops.random import Draw
from graphc.ops.state import Updates, Variable
from graphc.passes.pipeline import PIPELINE, Pass, run_pipeline, switches
from graphc.plan import Made, Plan
from graphc.restore import LoadReport, compare, require_all
from graphc.runtime import checkpoint
from graphc.runtime.cpu.direct import MISS, Direct, Served, Shortcuts, form_of, request_of
from graphc.runtime.cpu.target import CpuExecutable, CpuTarget
from graphc.runtime.devices import BEST, ConvPrecision, MatmulPrecision, Place, checked, chosen
from graphc.runtime.feeds import Intake, convert_feeds, feeds_given, missing_feeds, resolve_feeds, with_misfits
from graphc.runtime.making import making
from graphc.runtime.pages import copies
from graphc.runtime.plan import PlanTarget
from graphc.runtime.profile import Profile, Recorder, checked_path
from graphc.runtime.rebuilds import Rebuilds
from graphc.runtime.reference import Executable, Planned
from graphc.runtime.requests import Request, builder, in_mode, is_fetch, nodes_of, program_of, requested
from graphc.runtime.results import check_out, copied_out, is_own, owned
from graphc.runtime.streams import Streams
from graphc.runtime.structure import Build, flatten
from graphc.runtime.turns import Turns, exclusive
from graphc.runtime.variables import begins_as_zeros, materialise
from graphc.source import here, name_in_caller
from graphc.target import TargetInfo
from graphc.types import TensorType

MAX_PLANS = 128  # compiled programs that a session keeps; the least recently used goes first


class CacheInfo(NamedTuple):
    """How often `run` found its plan, and how many plans there are."""

    hits: int
    misses: int
    size: int
    limit: int


class State(NamedTuple):
    """What a session keeps between runs, and what a checkpoint holds.

    It is replaced as a whole, by one assignment, so that nothing that interrupts a run or a load leaves half of it.
    """

    values: Mapping[Node, Array]
    streams: Streams


@dataclass(frozen=True)
class Compiled:
    """A request, compiled: the executable and which values it takes."""

    executable: Executable
    outputs: tuple[TensorType, ...]
    intake: Intake
    variables: tuple[Node, ...]
    draws: tuple[Draw, ...]
    updated: tuple[Node, ...]
    overridden: Mapping[Node, Node]


class Session:
    """Runs graphs, and owns the values of their variables.

    Args:
        graph: the graph it runs; by default that of what is fetched first.
        device: "cpu", "cuda", "reference" or "plan"; None takes "cpu" if it works here.
        seed: of everything random: initial values and draws.
        threads: how many threads a native target may use; NumPy's own settings rule the others.
        disable: names of passes and techniques to switch off, such as `("fuse",)`; `gc.ledger` shows what each buys.
        conv_precision: "exact", as accurate as sums of products in float32 are, or "winograd4": faster, with errors
            that are several times as large. On the CPU.
        matmul_precision: to what products, convolutions and attention of float32 round their operands on a GPU: not at
            all, or to "tf32" or "bfloat16", which is several times as fast.
        results: where they are: NumPy arrays, or on "device", as arrays that speak DLPack.

    Attributes:
        device: what it runs on: "reference", after a warning, where "cpu" can't be used.

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
        disable: str | Sequence[str] = (),
        conv_precision: ConvPrecision = "winograd4",
        matmul_precision: MatmulPrecision = "float32",
        results: Place = "numpy",
    ) -> None:
        if graph is not None and not isinstance(graph, Graph):
            raise ArgumentError(f"the graph of a session must be a Graph, got {graph!r}", hint="gc.Session(device=...)")
        name = BEST if device is None else device
        precisions = {"conv_precision": conv_precision, "matmul_precision": matmul_precision}
        settings = checked(name, seed, threads, disable, **precisions, results=results)
        self.graph = graph
        self.threads = threads
        self.threads = threads
        self.disable = settings.disable
        self.conv_precision = conv_precision
        self.device, self._target, self._passes, self._instead = chosen(name, settings)
        self._accepts = getattr(self._target, "accepts", None)  # of targets that take what lies on a device
        self._state = State({}, Streams(int(seed)))
        self._plans: OrderedDict[Request, Compiled] = OrderedDict()
        self._hits = self._misses = 0
        self._rebuilds = Rebuilds()
        self._turns = Turns()
        self._shortcuts = Shortcuts(self._turns.busy)
        self._closed = False

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Session:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session on {self.device!r}, seed {self.seed}{', closed' if self._closed else ''}>"

    @exclusive
    def close(self) -> None:
        """Free plans and values, once no thread runs; results that were returned stay valid. Closing twice is fine."""
        self._closed = True
        self._shortcuts.forget()
        self._plans.clear()
        self._target.close()
        self._state = State({}, Streams(self.seed))

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError("this session is closed", hint="use it before that, or make a new one: gc.Session()")

    @property
    def seed(self) -> int:
        """The seed of initial values and draws; `load` takes over that of the file."""
        return self._state.streams.seed

    def cache_info(self) -> CacheInfo:
        """Hits, misses, number and limit of compiled plans."""
        return CacheInfo(self._hits, self._misses, len(self._plans), MAX_PLANS)

    # ------------------------------------------------------------------------------------------ running

    def run(
        self,
        fetches: Any,
        feeds: Mapping[Any, Any] | None = None,
        *,
        training: bool | None = None,
        profile: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Compute `fetches` and return their values in the same form.

        Args:
            fetches: tensors, their names, or updates (whose value is None), in any nest of lists, tuples, dicts and
                dataclasses.
            feeds: values by tensor or name: of placeholders, or of any other tensor, which is then not computed.
            training: the mode; by default a run that fetches a training update is a training run.
            profile: write there a trace of the run, which https://ui.perfetto.dev opens; see `profile`.

        Returns:
            NumPy arrays that belong to the caller.

        Raises:
            FetchError: something that can't be fetched. FeedError: all feeds that don't fit or are missing.
            GuardError: sizes that contradict what the graph had to assume. SessionError: a closed session.
        """
        if profile is not None:
            checked_path(profile)
            found, recorder = self._recorded(fetches, feeds, training)
            Profile(self.device, [recorder]).save(profile)
            return found
        key = request_of(fetches, feeds, training)
        try:
            entry = self._shortcuts.quick.get(key)
        except TypeError:  # a nest, or something that can't be fetched
            key = entry = None
        found = MISS if entry is None else entry(*feeds.values()) if feeds else entry()
        if found is MISS:
            return self._run(fetches, feeds, training, key)
        self._reused()
        return found

    @exclusive
    def _run(self, fetches: Any, feeds: Mapping[Any, Any] | None, training: bool | None, key: Hashable) -> Any:
        """See `run`; `key` is what the request is known by, if it may come again."""
        self._check_open()
        direct = self._shortcuts.known(key)
        if direct is not None and (found := direct.call(feeds.values() if feeds else ())) is not MISS:
            self._reused()
            return found
        compiled, given, build = self._ready(fetches, feeds, training)
        if direct is None and key is not None and (form := form_of(fetches, feeds or ())) is not None:
            direct = self._shortcuts.direct(form, len(given))
            self._shortcuts.remember(key, direct)
        return self._execute(compiled, given, build, direct=direct, key=key)

    def _ready(
        self, fetches: Any, feeds: Mapping[Any, Any] | None, training: bool | None
    ) -> tuple[Compiled, Mapping[Node, Any], Build]:
        """What a run computes, the feeds by node, and what puts the results into their form."""
        resolved, build = self._resolved(fetches)
        given = self._given(feeds, resolved)
        try:
            compiled = self._compiled(requested(resolved, given, training), resolved)
        except FeedError as missing:
            raise with_misfits(missing, given, self._accepts) from None
        return compiled, given, builder(resolved, build)

    def profile(
        self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, runs: int = 5, training: bool | None = None
    ) -> Profile:
        """Run several times, updates included, and say which kernels take how long and what they achieve.

        Args:
            fetches, feeds, training: as for `run`.
            runs: how many; times are medians of them.

        Returns:
            `print(profile)` shows the kernels, the slowest first; `profile.kernels` has the numbers, and
            `profile.save("trace.json")` writes all runs as a trace.

        Raises:
            ArgumentError: `runs` isn't a positive int. What `run` raises.
        """
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
            raise ArgumentError(f"runs must be a positive int, got {runs!r}")
        return Profile(self.device, [self._recorded(fetches, feeds, training)[1] for _ in range(runs)])

    @exclusive
    def _recorded(self, fetches: Any, feeds: Mapping[Any, Any] | None, training: bool | None) -> tuple[Any, Recorder]:
        """See `run`; and what happened when."""
        self._check_open()
        recorder = Recorder()
        compiled, given, build = self._ready(fetches, feeds, training)
        recorder.did("find or make the plan")
        return self._execute(compiled, given, build, recorder=recorder), recorder

    def compile(self, fetches: Any, feeds: Any = (), *, training: bool | None = None) -> Callable[..., Any]:
        """The hot path: a function of the values of `feeds`, in order, that returns what `run` would.

        What its first run would wait for is made now: slots of optimisers and, for known sizes, memory.

        Args:
            feeds: the tensors (or names) that a call gives values for; one, or several in order.

        Returns:
            `step(*values, out=None)`; `out`, a list of arrays for the tensors fetched, receives the results. A run that
            fails may have written to them.
        """
        if not isinstance(feeds, Node | str | Iterable):
            raise ArgumentError(f"feeds= takes tensors or their names, got {type(feeds).__name__}")
        keys = [feeds] if isinstance(feeds, Node | str) else list(feeds)
        request, tensors, build = self._prepared(fetches, keys, training)
        form = form_of(fetches, tensors)
        direct = None if form is None else self._shortcuts.direct(form, len(tensors))

        def step(*values: Any, out: Sequence[Array] | None = None) -> Any:
            if len(values) != len(tensors):
                names = ", ".join(node.display_name for node in tensors)
                raise ArgumentError(f"this step takes {len(tensors)} values ({names}), got {len(values)}")
            return self._step(request, dict(zip(tensors, values, strict=True)), build, out, direct)

        return step if direct is None else direct.quick(step) or step

    @exclusive
    def _prepared(
        self, fetches: Any, keys: Sequence[Any], training: bool | None
    ) -> tuple[Request, tuple[Node, ...], Build]:
        """A request that is compiled, the tensors that it is fed, and what puts its results into their form."""
        self._check_open()
        resolved, build = self._resolved(fetches)
        given = resolve_feeds([(key, None) for key in keys], self._names(resolved))
        request = requested(resolved, given, training)
        self._compiled(request, resolved)
        return request, tuple(given), builder(resolved, build)

    @exclusive
    def _step(
        self,
        request: Request,
        given: Mapping[Node, Any],
        build: Build,
        out: Sequence[Array] | None,
        direct: Direct | None,
    ) -> Any:
        self._check_open()
        if direct is not None and out is None and (found := direct.call(given.values())) is not MISS:
            return found
        return self._execute(self._compiled(request), given, build, out, direct)

    @exclusive
    def plan(self, fetches: Any, feeds: Mapping[Any, Any] | None = None, *, training: bool | None = None) -> Plan:
        """The plan of this run, without running it: kernels, buffers, and every byte.

        Args:
            feeds: values, or arrays of the same shapes; they give the symbolic dimensions their sizes.
        """
        self._check_open()
        resolved, _ = self._resolved(fetches)
        given = self._given(feeds, resolved)
        request = requested(resolved, given, training)
        compiled = self._compiled(request)
        _, dims = compiled.intake.take(given)
        program = in_mode(program_of(request)[0], request)
        if isinstance(compiled.executable, Planned):
            return replace(compiled.executable.plan(dims), written=program)
        target = PlanTarget(self.seed, self.disable)
        plan = target.compile(self._pipeline(target.info, request.training, PIPELINE)(program)).plan(dims)
        plan = replace(plan, written=program)
        return replace(plan, made=(Made(False, self._instead),) * len(plan.kernels)) if self._instead else plan

    # ------------------------------------------------------------------------------------------ variables

    @exclusive
    def __getitem__(self, key: Any) -> Array:
        """The value of a variable, given itself or its name; a copy."""
        self._check_open()
        variable = self._variable(key)
        return np.array(self._materialised([variable]).values[variable])

    @exclusive
    def __setitem__(self, key: Any, value: Any) -> None:
        """Give a variable a value, of its shape; dtypes are converted as feeds are."""
        self._check_open()
        variable = self._variable(key)
        arrays, _ = convert_feeds({variable: value}, self._accepts)
        self._commit({variable: arrays[variable].copy(order="C")})

    @exclusive
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all variables and the random state to a safetensors file, atomically.

        Raises:
            StateError: the file can't be written; a previous one is left as it was.
        """
        self._check_open()
        variables = self._variables()
        state = self._materialised(variables.values())
        tensors = {name: np.asarray(state.values[variable]) for name, variable in variables.items()}
        checkpoint.write(path, checkpoint.Checkpoint(tensors, state.streams.seed, state.streams.counters))

    @exclusive
    def load(self, path: str | os.PathLike[str], *, strict: bool = True) -> LoadReport:
        """Take values of variables, and the random state, from a safetensors file.

        Args:
            strict: refuse a file that differs from the variables, changing nothing; otherwise take what fits.

        Raises:
            StateError: an unreadable file, or (strict) every missing, unexpected and mis-shaped tensor at once.
        """
        self._check_open()
        variables = self._variables()
        found = checkpoint.read(path)
        report = compare({name: v.tensor_type for name, v in variables.items()}, found.tensors)
        if strict:
            require_all(report, os.fspath(path))
        values, streams = self._state
        values = {**values, **{variables[name]: found.tensors[name] for name in report.loaded}}
        if found.counters is not None and found.seed is not None:
            streams = Streams(found.seed, found.counters)
        self._shortcuts.moved()
        self._state = State(values, streams)
        return report

    def _variables(self) -> dict[str, Variable]:
        return checkpoint.by_dotted_name(v for v in self._names().variables() if isinstance(v, Variable))

    def _variable(self, key: Any) -> Variable:
        node = self._names()[key] if isinstance(key, str) else key
        if not isinstance(node, Variable):
            raise ArgumentError(f"{key!r} is no variable", hint="sess.run(x) computes a tensor")
        self.graph = self._graph_of([node])
        return node

    def _materialised(self, variables: Iterable[Node]) -> State:
        """The state, in which all of `variables` have values."""
        state = self._state
        if any(variable not in state.values for variable in variables):
            self._commit(materialise(variables, state.values, state.streams.seed))
        return self._state

    def _commit(self, new: Mapping[Node, Array]) -> None:
        """Give variables new values: all of them, or none where this is interrupted."""
        values, streams = self._state
        if any(values.get(variable) is not array for variable, array in new.items()):
            self._shortcuts.moved()
            self._state = State({**values, **new}, streams)

    # ------------------------------------------------------------------------------------------ inside a run

    def _names(self, resolved: Iterable[Node | Updates] = ()) -> Graph:
        """The graph in which names are looked up: the session's, or that of what is fetched."""
        return self.graph or self._graph_of(nodes_of(resolved)) or current_graph()

    def _resolved(self, fetches: Any) -> tuple[list[Node | Updates], Build]:
        """The leaves of what is fetched, as nodes and updates, and what builds its form of their values."""
        leaves, build = flatten(fetches, is_fetch)
        return [leaf if isinstance(leaf, Node) else self._fetch(leaf) for leaf in leaves], build

    def _given(self, feeds: Mapping[Any, Any] | None, resolved: Iterable[Node | Updates]) -> dict[Node, Any]:
        """The feeds by node."""
        return resolve_feeds(feeds_given(feeds).items(), self._names(resolved))

    def _fetch(self, leaf: Any) -> Node | Updates:
        if isinstance(leaf, Updates):
            return leaf
        if isinstance(leaf, str):
            return self._names()[leaf]
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
            hint="fetch tensors, their names or updates, in lists, tuples, dicts or dataclasses",
        )

    def _graph_of(self, nodes: Iterable[Node]) -> Graph | None:
        """The graph that `nodes` belong to, which must be the session's if it has one."""
        graph, first = self.graph, None
        for node in nodes:
            if node.graph is None or node.graph is graph:
                continue
            if graph is not None:
                other = "this session runs" if first is None else f"{first.display_name!r} to"
                raise GraphError(
                    f"{node.display_name!r} belongs to graph {node.graph.name!r}, {other} {graph.name!r}",
                    lines=[here(), node.made_at, *([] if first is None else [first.made_at])],
                    hint=f"gc.Session(graph) makes a session for the graph {node.graph.name!r}",
                )
            graph, first = node.graph, node
        return graph

    def _compiled(self, request: Request, leaves: Sequence[Node | Updates] = ()) -> Compiled:
        """The compiled program of a request, made if there is none yet.

        Args:
            leaves: of what is fetched, if it is about to be run.
        """
        found = self._plans.get(request)
        if found is not None:
            self._reused()
            self._plans.move_to_end(request)
            return found
        derived = context.derived
        try:
            with paused():
                found = self._newly_compiled(request, leaves)
        finally:
            context.derived = derived  # an interrupt can come before the block of a pass has put it back
        self._plans[request] = found
        if len(self._plans) > MAX_PLANS:
            self._plans.popitem(last=False)
        return found

    def _reused(self) -> None:
        self._hits += 1
        self._rebuilds.reused()

    def _newly_compiled(self, request: Request, leaves: Sequence[Node | Updates]) -> Compiled:
        self._misses += 1
        self._rebuilds.compiled(leaves)
        graph = self._graph_of([*request.fetches, *[n for pair in request.updates for n in pair], *request.fed])
        several = next((n for n in (*request.fetches, *request.fed) if not isinstance(n.type, TensorType)), None)
        if several is not None:
            raise FetchError(f"{several!r} has several results, which are fetched and fed one by one")
        if leaves:
            self._expect([v for v, _ in request.updates if v not in request.fed])
        program, overridden = program_of(request)
        optimise = self._pipeline(self._target.info, request.training)
        settings = [str(request.training), str(len(request.fetches)), *sorted(self.disable)]
        made = making(self._target, program, partial(in_mode, request=request), optimise, settings)
        given = set(request.fed) | set(overridden.values())
        placeholders = [n for n in made.needs.placeholders if n not in given]
        missing = [n for n in placeholders if n.default is None]
        if missing:
            fetched = [(n.display_name, n) for n in request.fetches]
            fetched += [(f"the update of {v.display_name}", n) for v, n in request.updates]
            fetched += [(f"the loss {n.display_name}", n) for n in request.losses]
            raise missing_feeds(missing, fetched)
        defaults: dict[Node, Array] = {n: n.default for n in placeholders if n.default is not None}
        executable = made.finish()
        if leaves and isinstance(executable, CpuExecutable) and not made.needs.sizes:
            executable.foresee({})
        found = Compiled(
            executable,
            tuple([node.tensor_type for node in request.fetches]),
            Intake(request.fed, defaults, made.needs.sizes, made.needs.guards, self._accepts),
            tuple([n for n in made.needs.variables if n not in given]),
            made.needs.draws,
            made.needs.updated,
            overridden,
        )
        self.graph = graph
        return found

    def _expect(self, updated: Sequence[Node]) -> None:
        """Make those of these variables that begin as zeros: what a training step keeps besides the weights."""
        new = [v for v in updated if v not in self._state.values and begins_as_zeros(v)]
        if new and isinstance(self._target, CpuTarget):
            values = self._materialised(new).values
            self._target.expect([values[v] for v in new])

    def _pipeline(self, info: TargetInfo, training: bool, passes: Sequence[Pass] = ()) -> Callable[[Program], Program]:
        """What runs the passes on a program; it doesn't refer to this session."""
        passes = passes or self._passes
        disable = self.disable & switches(passes)
        return partial(run_pipeline, target=info, training=training, disable=disable, passes=passes)

    def _execute(
        self,
        compiled: Compiled,
        feeds: Mapping[Node, Any],
        build: Build,
        out: Sequence[Array] | None = None,
        direct: Direct | None = None,
        key: Hashable = None,
        recorder: Recorder | None = None,
    ) -> Any:
        """Convert the feeds, compute, give the results their form; and, when nothing can fail any more, commit."""
        values, dims = compiled.intake.take(feeds)
        if recorder is not None:
            recorder.did("feeds")
        if compiled.overridden:
            values = {compiled.overridden.get(node, node): array for node, array in values.items()}
        if out is not None:
            check_out(out, [type.bind(dims) for type in compiled.outputs])
        self._materialised(compiled.variables)
        into = self._storage(compiled) if build.plain else {}
        state = self._state
        values.update([(variable, state.values[variable]) for variable in compiled.variables])
        draws = state.streams.claim(compiled.draws)
        outputs, news = compiled.executable.run(values, dims, draws, into, recorder, out or ())
        fresh = {v: new for v, new in zip(compiled.updated, news, strict=True) if new is not into.get(v)}
        found = owned([*outputs, *fresh.values()], values.values(), out or ())
        results = found[: len(outputs)]
        built = build.of(iter(results if out is None else copied_out(results, out)))
        if fresh:
            self._commit(dict(zip(fresh, found[len(outputs) :], strict=True)))
        if direct is not None and isinstance(compiled.executable, CpuExecutable):
            fed = [(value, compiled.overridden.get(node, node)) for node, value in feeds.items()]
            keys = state.streams.keys(compiled.draws)
            self._shortcuts.note(key, direct, Served(compiled.executable, fed, values, dims, into, keys))
        if recorder is not None:
            recorder.did("results")
        return built

    def _storage(self, compiled: Compiled) -> Mapping[Node, Array]:
        """The arrays of the variables that a run updates, to be written in place; none where that can't be done.

        It can't be if a variable has none yet, or if what the program takes for it is fed. An array that isn't the
        session's alone, such as a first value, is replaced by a copy.
        """
        values = self._state.values
        if not all(v in values and v not in compiled.intake.fed for v in compiled.updated):
            return {}
        shared = [v for v in compiled.updated if not is_own(values[v])]
        if shared:
            self._commit(dict(zip(shared, copies([values[v] for v in shared]), strict=True)))
            values = self._state.values
        return {v: values[v] for v in compiled.updated}
