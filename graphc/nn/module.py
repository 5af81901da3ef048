"""Modules: functions of tensors that keep parameters, in a tree that gives the parameters their names.

A module is a recipe until its names are known: when the outermost module of its tree is first called, or a parameter
is first asked for. Then every parameter of the tree becomes a variable named by its path, `encoder/conv1/weight`
below the current scope; its seed depends on this name only. Where such a name is taken in the graph, the whole tree
gets a prefix: the name that the module was given or that of its class, numbered: `sequential_1/encoder/conv1/weight`.
A module that is called again, or is part of several modules, shares its parameters.

There is no `train()` and no `eval()`: the mode belongs to a run, not to the module (see `Session.run`).
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Self

from graphc.errors import WRONG_ARGUMENT, ArgumentError, GraphcError, GraphError, did_you_mean, explained
from graphc.ir import Graph, Node, current_graph
from graphc.nn.state import Buffer, Parameter, State, state_of
from graphc.occurrences import current_scope, scope
from graphc.operands import as_array
from graphc.ops.state import Variable
from graphc.restore import LoadReport, compare, require_all
from graphc.source import here

_MODE = (
    "the mode belongs to a run: fetching a training update, or training=True, makes it a training run; "
    "in eager execution gc.eager.set_training sets it"
)
_DEVICE = "the device belongs to the session: gc.Session(device=...)"

# Where to find what torch's modules have and these don't.
ELSEWHERE = {
    "train": _MODE,
    "eval": _MODE,
    "training": f"{_MODE}; gc.by_mode(train, evaluation) chooses by it",
    "to": _DEVICE,
    "cuda": _DEVICE,
    "cpu": _DEVICE,
    "zero_grad": "gradients are tensors of the graph and don't accumulate; gc.eager.optimizer has it",
}


IN_MODULE = "in module "


class _Thread(threading.local):
    """What a thread is in the middle of."""

    def __init__(self) -> None:
        self.constructing = 0  # constructors of modules
        self.calls: list[Module] = []


_thread = _Thread()


class _Constructed(type):
    """Counts the constructors that run: inside them, names aren't known yet."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        _thread.constructing += 1
        try:
            return super().__call__(*args, **kwargs)
        except WRONG_ARGUMENT as error:
            told = explained(error, cls, args, kwargs)
            if told is error:
                raise
            raise told from error
        finally:
            _thread.constructing -= 1


class Module(metaclass=_Constructed):
    """The base of all layers and models, used as torch's.

    Assign `Parameter`s, `Buffer`s and other modules to attributes in the constructor, and define `forward`. Reading a
    parameter gives its variable (inside constructors its recipe, so that weights can be tied).

    Args:
        name: prefix of all names when this is the outermost module; none by default.

    Example:
        >>> import graphc as gc
        >>> class Affine(gc.nn.Module):
        ...     def __init__(self, size):
        ...         super().__init__(name="affine")
        ...         self.scale = gc.nn.Parameter(gc.nn.init.ones(), shape=(size,))
        ...     def forward(self, x):
        ...         return x * self.scale
        >>> layer = Affine(3)
        >>> layer.scale
        <affine/scale: float32[3]>
    """

    _states: dict[str, State]
    _children: dict[str, Module]
    _parent: tuple[weakref.ref[Module], str] | None  # of the first module that took this one in, and as what
    _name: str | None
    _prefix: str | None  # of the names of the tree that this module is the root of, once it is known
    _base: str  # the scope that these names are in, and the prefix

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        module = super().__new__(cls)
        module.__dict__.update(_states={}, _children={}, _parent=None, _name=None, _prefix=None, _base="")
        return module

    def __init__(self, *, name: str | None = None) -> None:
        self._name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; define it in each subclass."""
        raise ArgumentError(f"{type(self).__name__} defines no forward()")

    # ------------------------------------------------------------------------------------------ calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward` of the arguments, in the module's scope.

        Raises:
            GraphError: a tensor belongs to another graph than the parameters.
        """
        names: list[str] = []
        root: Module = self
        while root not in _thread.calls and (link := root._link()) is not None:
            root, name = link
            names.append(name)
        if root not in _thread.calls:
            root._require_graph(self, (*args, *kwargs.values()))
            root._name_states()
            names.append(root._prefix or "")
        path = "/".join(filter(None, reversed(names)))
        _thread.calls.append(self)
        try:
            with _nested(path):
                return self.forward(*args, **kwargs)
        except GraphcError as error:
            path, line = _join(current_scope(), path), here()
            if path and not any(known.startswith(IN_MODULE) for known in error.lines):  # the innermost tells all
                place = f"{IN_MODULE}{path} ({type(self).__name__})"
                error.within(place if line in (error.line, *error.lines) else f"{place}, {line}")
            raise
        finally:
            _thread.calls.pop()

    def _require_graph(self, called: Module, args: tuple[Any, ...]) -> None:
        nodes = [arg for arg in args if isinstance(arg, Node)]
        graph = self._graph() if nodes else None
        for node in nodes:
            if graph is not None and node.graph is not None and node.graph is not graph:
                raise GraphError(
                    f"{type(called).__name__} is called with {node.display_name!r} of graph {node.graph.name!r}, "
                    f"but its parameters belong to graph {graph.name!r}",
                    lines=[here(), node.made_at],
                    hint="a module lives in one graph: call it inside `with graph:`, or make another one",
                )

    # ------------------------------------------------------------------------------------------ names

    def _link(self) -> tuple[Module, str] | None:
        """The module that this one is part of, and its name there."""
        if self._parent is None:
            return None
        parent, name = self._parent[0](), self._parent[1]
        return (parent, name) if parent is not None and parent._children.get(name) is self else None

    def _root(self) -> Module:
        root: Module = self
        while (link := root._link()) is not None:
            root = link[0]
        return root

    def _graph(self) -> Graph:
        """The graph of the parameters that have names already, or else the current one."""
        values = (state.value for _, _, state in self._walk())
        return next((value.graph for value in values if isinstance(value, Variable)), current_graph())

    def _name_states(self) -> None:
        """Make the variables below this root that don't exist yet; a module that is part of another tree is named by
        its own root first."""
        if all(state.value is not None for _, _, state in self._walk()):
            return
        roots = dict.fromkeys(module._root() for module in self.modules())
        for root in [*(root for root in roots if root is not self), self]:
            root._name_tree()

    def _name_tree(self) -> None:
        unnamed = [(path, name, state) for path, name, state in self._walk() if state.value is None]
        if not unnamed:
            return
        graph = self._graph()
        with graph.table.lock:
            if self._prefix is None:
                outer = current_scope() if graph is current_graph() else ""
                names = [_join(path, name) for path, name, _ in unnamed]
                self._prefix = next(p for p in self._prefixes() if _free(graph, _join(outer, p), names))
                self._base = _join(outer, self._prefix)
            for path, name, state in unnamed:
                if state.value is None:  # a tied one may have been made under its first name
                    with graph, _nested(_join(self._base, path)):
                        state.make(name)

    def _prefixes(self) -> Iterator[str]:
        yield self._name or ""
        stem = self._name or type(self).__name__.lower()
        yield from (f"{stem}_{k}" for k in itertools.count(1))

    # ------------------------------------------------------------------------------------------ attributes

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Variable):
            value = state_of(value)
        if isinstance(value, State | Module):
            self._register(name, value)
        elif value is None or not (name in self._states or name in self._children):
            self._forget(name)
            object.__setattr__(self, name, value)
        else:
            raise ArgumentError(
                f"{name!r} of {type(self).__name__} can't become {type(value).__name__} {value!r}"[:200],
                hint="assign a gc.nn.Parameter, a module or None; sess[module.weight] = array gives a new value",
            )

    def _register(self, name: str, value: State | Module) -> None:
        if not name or "." in name or "/" in name:
            raise ArgumentError(f"{name!r} is no name for a part of a module")
        if isinstance(value, State):
            self._forget(name, keep=self._states)
            self._states[name] = value
            return
        if any(module is self for _, module in value.named_modules()):
            raise ArgumentError(f"{type(self).__name__} can't contain itself, as {name!r}")
        self._forget(name, keep=self._children)
        self._children[name] = value
        value._adopted(self, name)

    def _adopted(self, parent: Module, name: str) -> None:
        if self._link() is None:
            self._parent = (weakref.ref(parent), name)

    def _forget(self, name: str, keep: Mapping[str, Any] | None = None) -> None:
        """Drop what was registered under `name`, except where it is about to be replaced, in its place in the order."""
        for known in (self._states, self._children, self.__dict__):
            if known is not keep:
                known.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        state = self._states.get(name)
        if state is not None:
            if state.value is None and not _thread.constructing:
                self._root()._name_states()
            return state if state.value is None else state.value
        if name in self._children:
            return self._children[name]
        remedy = f"; {ELSEWHERE[name]}" if name in ELSEWHERE else did_you_mean(name, [*self._states, *self._children])
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{remedy}")

    def __delattr__(self, name: str) -> None:
        if name in self._states or name in self._children:
            self._forget(name)
        else:
            object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._states, *self._children]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # a copy's parts belong to the copy
        for name, child in self._children.items():
            child._adopted(self, name)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Torch's way to write `module.name = parameter`."""
        setattr(self, name, parameter)

    def register_buffer(self, name: str, value: Any) -> None:
        """Keep a value that isn't trained: an array, a `Buffer`, or None."""
        setattr(self, name, value if value is None or isinstance(value, State) else Buffer(value))

    def add_module(self, name: str, module: Module | None) -> None:
        """Torch's way to write `self.name = module` for a name that isn't an identifier."""
        setattr(self, name, module)

    # ------------------------------------------------------------------------------------------ parts

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted paths, each before its parts; each once by default."""
        seen: set[Module] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if remove_duplicate and module in seen:
                continue
            seen.add(module)
            yield path, module
            stack += [(_join(path, name, "."), child) for name, child in reversed(module._children.items())]

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, with their names."""
        return iter(list(self._children.items()))

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        return iter(list(self._children.values()))

    def _walk(self, unique: bool = True) -> Iterator[tuple[str, str, State]]:
        """Path of the module (with "/"), name, and state; parameters before buffers."""
        for path, module in self.named_modules(remove_duplicate=unique):
            for kind in (Parameter, Buffer):
                for name, state in list(module._states.items()):
                    if isinstance(state, kind):
                        yield path.replace(".", "/"), name, state

    def named_states(
        self, kind: type[State] = State, *, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, State]]:
        """Parameters and buffers (or only those of a `kind`) with their dotted names."""
        seen: set[int] = set()
        for path, name, state in self._walk(remove_duplicate):
            if isinstance(state, kind) and (recurse or not path) and state.identity not in seen:
                if remove_duplicate:
                    seen.add(state.identity)
                yield _join(prefix, _join(path.replace("/", "."), name, "."), "."), state

    def _named_values(self, kind: type[State], **options: Any) -> Iterator[tuple[str, Any]]:
        self._root()._name_states()
        return ((name, state.value) for name, state in self.named_states(kind, **options))

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Variable]]:
        """Parameters with their dotted names, each once, those of this module alone without `recurse`."""
        return self._named_values(Parameter, prefix=prefix, recurse=recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Variable]:
        """Parameters, each once."""
        return (variable for _, variable in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Variable]]:
        """Buffers with their dotted names."""
        return self._named_values(Buffer, prefix=prefix, recurse=recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Variable]:
        """Buffers, each once."""
        return (variable for _, variable in self.named_buffers(recurse=recurse))

    # ------------------------------------------------------------------------------------------ values

    def state_dict(self) -> dict[str, Variable]:
        """The variables of parameters and buffers under torch's dotted names, relative to this module.

        Values live in a session: `sess.run(module.state_dict())` is a dict of arrays.
        """
        return dict(self._named_values(State, remove_duplicate=False))

    def load_state_dict(self, values: Mapping[str, Any], strict: bool = True, session: Any = None) -> LoadReport:
        """Take values by torch's dotted names, relative to this module.

        Args:
            values: arrays.
            strict: refuse values that differ from the module, changing nothing; otherwise take what fits.
            session: the session whose variables get the values. Without one, they become the first values in every
                session that hasn't made its own yet.

        Raises:
            StateError: (strict) every missing, unexpected and mis-shaped value at once, with near names.
        """
        states = dict(self.named_states(remove_duplicate=False))
        arrays = {name: as_array(value) for name, value in values.items()}
        report = compare({name: state.type for name, state in states.items()}, arrays)
        if strict:
            require_all(report, "state_dict")
        if session is not None:
            self._root()._name_states()
        for name in report.loaded:
            if session is None:
                states[name].initial = arrays[name]
            else:
                session[states[name].value] = arrays[name]
        return report

    def initialize(self, **recipes: Any) -> Self:
        """Choose what own parameters start from: `linear.initialize(weight=gc.nn.init.normal(std=0.02))`.

        It counts for sessions that haven't made the value yet.

        Raises:
            ArgumentError: no such parameter.
        """
        for name, recipe in recipes.items():
            if name not in self._states:
                raise ArgumentError(
                    f"{type(self).__name__} has no parameter {name!r}{did_you_mean(name, self._states)}",
                )
            self._states[name].initial = recipe
        return self

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` with every module of the tree, parts first; returns this one."""
        for module in reversed(list(self.modules())):
            fn(module)
        return self

    def freeze(self) -> Self:
        """Leave the parameters out of what `minimize` finds from now on; statistics are still kept."""
        return self._set_trainable(False)

    def unfreeze(self) -> Self:
        """Undo `freeze`."""
        return self._set_trainable(True)

    def _set_trainable(self, trainable: bool) -> Self:
        for _, state in self.named_states(Parameter):
            state.trainable = trainable
        return self

    # ------------------------------------------------------------------------------------------ printing

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return ""

    def __repr__(self) -> str:
        own = self.extra_repr()
        parts = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._children.items()]
        if not parts:
            return f"{type(self).__name__}({own})"
        lines = "\n  ".join([own, *parts] if own else parts)
        return f"{type(self).__name__}(\n  {lines}\n)"


def _join(first: str, second: str, separator: str = "/") -> str:
    return separator.join(filter(None, (first, second)))


def _nested(path: str) -> ExitStack:
    """The scope `path`, or no further one if it is empty."""
    stack = ExitStack()
    if path:
        stack.enter_context(scope(path))
    return stack


def _free(graph: Graph, base: str, names: list[str]) -> bool:
    return not any(_join(base, name) in graph.leaves for name in names)
