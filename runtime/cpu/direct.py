"""Fast ways through a session: entries for requests that come again, as long as nothing has moved.

What a session has done for a request twice, on arrays of the same shapes while nothing moved, is bound to an entry: the
plan with the memory of the arena and of the variables. From then on the request needs no Python, if what is fed fits as
it is and the plan is short: its entry is called at any time, keeps the interpreter's lock and sees whether another run
goes on. The entry of a longer plan gives the lock back; it is called when it is the caller's turn, as is that of a plan
that is fed what has to be converted.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from graphc.ir import Node
from graphc.op import Array
from graphc.ops.state import Updates
from graphc.runtime.cpu.blocks import Blocks, is_recycled
from graphc.runtime.cpu.driver import Threads, is_helped
from graphc.runtime.cpu.entry import NOBODY, Argument, Bound, Form, bind, give, make_entry, servable
from graphc.runtime.cpu.target import CpuExecutable, Run
from graphc.runtime.streams import COUNTER
from graphc.types import np_dtype
from graphc.values import converted

MAX_REQUESTS = 256  # that a session remembers; when there are more, it begins anew
_IDLE = np.zeros(1, np.int64)
MISS = object()  # what an entry returns where Python has to do it


def missed(*_: Any) -> object:
    """What an entry calls then, unless it is told otherwise."""
    return MISS


class Served(NamedTuple):
    """A run that Python has done.

    Attributes:
        fed: what was fed, in the order of the call, and the leaf of the program that took each.
        values, dims, into: see `Executable.run`.
        keys: of the next draws of random leaves; see `Streams.key`.
    """

    executable: CpuExecutable
    fed: Sequence[tuple[Any, Node]]
    values: Mapping[Node, Array]
    dims: Mapping[str, int]
    into: Mapping[Node, Array]
    keys: Mapping[Node, Array]


class _Held(NamedTuple):
    """An entry that is called in one's turn: what it takes, what helps; of results whose memory is recycled the numbers
    and what they are, and where that memory is from."""

    entry: Callable[..., Any]
    dtypes: Sequence[str]
    pool: Threads | None
    recycled: Mapping[int, Argument]
    blocks: Blocks

    def large(self) -> dict[int, Array] | None:
        """Arrays for those results; None where memory is short."""
        try:
            return {number: self.blocks.array(made.shape, made.dtype) for number, made in self.recycled.items()}
        except MemoryError:
            return None


class Direct:
    """One request in one form, with its feeds in one order.

    Args:
        feeds: how many there are.
        items: what is returned: the number of an output, or None.
        busy, version: see `entry.Bound`.
    """

    def __init__(self, feeds: int, form: Form, items: Sequence[int | None], busy: Array, version: Array) -> None:
        results = sum([item is not None for item in items])
        self._make = partial(make_entry, feeds=feeds, results=results, items=len(items))
        self._form: Form = form
        self._items = items
        self._busy = busy
        self._version = version
        self._seen: object = None
        self._held: _Held | None = None
        self._quick: Callable[[], Callable[..., Any] | None] = lambda: None

    def quick(self, slow: Callable[..., Any] = missed) -> Callable[..., Any] | None:
        """The entry of a short plan; None where there can be none. It is kept alive by the caller alone.

        Args:
            slow: what it calls where it can't do it, if it is made now.
        """
        entry = self._quick()
        if entry is None:
            entry = self._make(slow)
            if entry is not None:
                self._quick = weakref.ref(entry)
        return entry

    def call(self, values: Iterable[Any]) -> Any:
        """Run any plan in one's turn, on values that may need converting; `MISS` if that can't be done for them, and
        then nothing has been drawn."""
        held = self._held
        if held is None:
            return MISS
        taken = [converted(value, dtype) for value, dtype in zip(values, held.dtypes, strict=False)]
        large = held.large()
        if large is None or any(problem for _, problem in taken):
            return MISS
        for number, array in large.items():
            give(held.entry, number, array)
        crew = None if held.pool is None else held.pool.ready()  # which lives until the entry returns
        found = held.entry(*[array if _is_in_order(array) else np.array(array, order="C") for array, _ in taken])
        del crew
        return found

    def note(self, served: Served) -> Callable[..., Any] | None:
        """Remember what Python had to do, and bind an entry if it comes again; the quick one, if that is it."""
        now = [*(served.values[leaf].shape for _, leaf in served.fed), int(self._version[0])]
        before, self._seen = self._seen, now
        bound = self._bound(served) if now == before else None
        if bound is None:
            return None
        large = {k: result for k, result in enumerate(bound.results) if is_recycled(result.nbytes)}
        as_they_are = all(value is served.values[leaf] and _is_in_order(value) for value, leaf in served.fed)
        if as_they_are and bound.commands.short and not large and (quick := self.quick()) is not None:
            if bound.pool is not NOBODY:
                served.executable.target.pool.ready()
            bind(quick, bound)
            return quick
        entry = self._make(missed)
        if entry is not None:
            bind(entry, bound._replace(busy=_IDLE))  # it is the caller who is busy
            target, dtypes = served.executable.target, [leaf.tensor_type.dtype for _, leaf in served.fed]
            pool = target.pool if is_helped(bound.commands, target.pool) else None
            self._held = _Held(entry, dtypes, pool, large, target.blocks)
        return None

    def _bound(self, served: Served) -> Bound | None:
        """What an entry needs to do the same again; None where Python has to."""
        executable, values = served.executable, served.values
        target, found = executable.target, executable.bound(served.dims)
        symbolic, buffers = found.plan.symbolic, found.plan.buffers
        commands = [segment.commands for segment in found.segments]
        if len(commands) != 1 or commands[0] is None or "entry" in target.disable:
            return None
        fed = {leaf for _, leaf in served.fed}
        overwritten = [taken for update in symbolic.updates if (taken := buffers[update].takes) is not None]
        if any(buffers[k].node in fed for k in overwritten):
            return None
        if any(variable not in served.into for variable, _ in symbolic.program.updates):
            return None  # new values that aren't written into the variables' memory are committed by Python
        run = Run(executable, found, values, dict.fromkeys(found.draws, (0, 0, 0)), served.into)
        for leaf, slot in found.draws.items():
            run.table[slot] = served.keys[leaf].ctypes.data
        given = [(k, buffer.node) for k, buffer in enumerate(buffers) if buffer.role == "given"]
        if any(run.arrays[k] is not values[node] for k, node in given if node not in fed):
            return None
        unused = found.slots  # where the addresses of feeds go that nobody reads
        slots = {leaf: 1 + symbolic.given[leaf] if leaf in symbolic.given else unused for leaf in fed}
        feeds = [Argument(np_dtype(leaf.tensor_type.dtype), values[leaf].shape, slots[leaf]) for _, leaf in served.fed]
        outputs, shelf = [(k, run.arrays[k]) for k in symbolic.outputs], target.blocks.shelf
        results = [Argument(np_dtype(buffers[k].type.dtype), y.shape, 1 + k, shelf(y.nbytes)) for k, y in outputs]
        if not servable([*feeds, *results]):
            return None
        kept = [array for k, array in run.arrays.items() if buffers[k].role != "result" and buffers[k].node not in fed]
        return Bound(
            feeds,
            results,
            self._form,
            self._items,
            commands[0],
            np.append(run.table, 0),
            target.scratch,
            self._busy,
            self._version,
            target.pool.place if is_helped(commands[0], target.pool) else NOBODY,
            [key[COUNTER:] for key in served.keys.values()],
            (executable, target.memory.bytes, kept),
        )


class Shortcuts:
    """The requests of a session that may come again, and the quick entries for them.

    Args:
        busy: a word that isn't 0 while someone has the session.

    Attributes:
        quick: entries of short plans, by request.
    """

    def __init__(self, busy: Array) -> None:
        self._busy = busy
        self._version = np.zeros(1, np.int64)
        self._base = 0  # where the session's arena is
        self._requests: dict[Hashable, Direct] = {}
        self.quick: dict[Hashable, Callable[..., Any]] = {}

    def moved(self) -> None:
        """Something that entries are bound to has another place from now on."""
        self._version += 1

    def forget(self) -> None:
        """Let go of everything."""
        self.moved()
        self._requests.clear()
        self.quick.clear()

    def known(self, request: Hashable) -> Direct | None:
        """A request that has come before."""
        return None if request is None else self._requests.get(request)

    def direct(self, form: tuple[Form, list[int | None]], feeds: int) -> Direct:
        """A new request, in the form that `form_of` gives."""
        return Direct(feeds, *form, self._busy, self._version)

    def remember(self, request: Hashable, direct: Direct) -> None:
        """Know a request when it comes again."""
        if len(self._requests) >= MAX_REQUESTS:
            self.forget()
        self._requests[request] = direct

    def note(self, request: Hashable, direct: Direct, served: Served) -> None:
        """Remember what Python had to do for a request (None if it isn't remembered)."""
        base = served.executable.target.memory.base
        if self._base not in (0, base):
            self.forget()  # entries keep the arena that they are bound to
        self._base = base
        entry = direct.note(served)
        if entry is not None and request is not None:
            self.quick[request] = entry


def request_of(fetches: Any, feeds: Any, training: bool | None) -> Hashable:
    """A request as a key, if it is one that entries may serve; it may not be hashable. None for all others."""
    if training is not None or not (feeds is None or feeds.__class__ is dict):
        return None
    fetched = (list, *fetches) if fetches.__class__ is list else (fetches.__class__, fetches)
    return (fetched, *feeds) if feeds else (fetched,)


def form_of(fetches: Any, feeds: Iterable[Any]) -> tuple[Form, list[int | None]] | None:
    """The form of what is fetched, and its items, if it is one that entries know and all is given as nodes."""
    form: Form = "one" if not isinstance(fetches, list | tuple) else "list" if isinstance(fetches, list) else "tuple"
    leaves = [fetches] if form == "one" else list(fetches)
    plain = form == "one" or type(fetches) in (list, tuple)
    if not plain or not all(isinstance(leaf, Node | Updates) for leaf in leaves):
        return None
    if not all(isinstance(feed, Node) for feed in feeds):
        return None
    numbers = itertools.count()
    return form, [next(numbers) if isinstance(leaf, Node) else None for leaf in leaves]


def _is_in_order(array: Array) -> bool:
    """Whether machine code can read an array where it is."""
    return array.flags.c_contiguous and array.flags.aligned
