"""Entries: functions of Python that are machine code, which run a plan on NumPy arrays without a line of Python.

An entry checks that it is called with arrays of exactly the types, dtypes and shapes for which the plan was bound, puts
their addresses into the table of the plan, makes arrays for the results, runs the commands and returns the results in
their form. Whatever isn't as it should be, it leaves to a function of Python, which is called with the same arguments.

One function serves all entries: what differs is in words of memory that belong to the entry. It reads the structures of
CPython and NumPy in memory; where they aren't as `objects` thinks, there are no entries.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from graphc.op import Array
from graphc.runtime.cpu.blocks import SHELVED, Shelf
from graphc.runtime.cpu.builder import Module
from graphc.runtime.cpu.driver import CommandList, Scratch, driver
from graphc.runtime.cpu.fields import I32, Fields, both, call, do, is_zero, unless
from graphc.runtime.cpu.objects import (
    DATA,
    DESCR,
    DIMS,
    FLAGS,
    IN_ORDER,
    NDIM,
    NEW_FROM_DESCR,
    REFERENCES,
    SET_BASE_OBJECT,
    TYPE,
    WRITEABLE,
    is_known,
    numpy_table,
)
from graphc.runtime.cpu.parts import Part
from graphc.runtime.cpu.values import I64, PTR, Value, constant

MAX_NDIM = 8  # of what an entry takes and gives

# The words of an entry, in bytes.
SLOW, FORM, LOCKED = 8, 16, 24  # the function of Python; what it returns; whether it keeps the interpreter's lock
FEEDS, RESULTS, ITEMS = 32, 40, 48  # how many
BUSY, VERSION, EXPECTED = 56, 64, 72  # addresses of two words, and what the second must be
PLAN, TABLE, SCRATCH, POOL = 80, 88, 96, 104
API = 112  # address of the table of `INTERFACE`
DRAWN = 120  # address of the number of streams that the plan draws from, which the addresses of their counters follow
RECORDS = 128
# After them a record for each feed and for each result, and then the number of a result, or -1, for each item.
RECORD_DESCR, RECORD_NDIM, RECORD_SLOT, RECORD_OBJECT, RECORD_GIVEN, RECORD_SHELF, RECORD_DIMS = range(0, 56, 8)
RECORD_BYTES = RECORD_DIMS + 8 * MAX_NDIM

Form = Literal["one", "list", "tuple"]
FORMS = get_args(Form)

# Functions and objects that the code uses, in a table of addresses.
INTERFACE = (
    "array_type", "none", "run", "new_from_descr", "set_base_object", "Py_IncRef", "Py_DecRef", "PyErr_Clear",
    "PyList_New", "PyList_SetItem", "PyTuple_New", "PyTuple_SetItem", "PyObject_Vectorcall", "PyEval_SaveThread",
    "PyEval_RestoreThread",
)  # fmt: skip


class Argument(NamedTuple):
    """An array that an entry takes or makes, of at most `MAX_NDIM` dimensions.

    Attributes:
        slot: the place of its address in the table.
        shelf: blocks of which it gets one, if nobody has it, rather than fresh memory.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    slot: int
    shelf: Shelf | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


class Bound(NamedTuple):
    """What an entry runs.

    Attributes:
        items: what it returns: the number of a result, or None. All results are there, once.
        table: addresses, int64; the entry writes those of feeds and results. One run at a time uses it.
        busy: a word that must be 0 when the entry is called: another run has the same memory.
        version: a word that must stay as it is now: something moved, otherwise.
        pool: a word: the address of the state of threads that help, 0 while there are none.
        counters: words that a run counts up once it is done, at the end of the keys that it has drawn from.
        kept: what must live as long as this.

    An entry of a plan that isn't short runs it without the interpreter's lock: its caller must see to it that no other
    run has the same memory meanwhile.
    """

    feeds: Sequence[Argument]
    results: Sequence[Argument]
    form: Form
    items: Sequence[int | None]
    commands: CommandList
    table: Array
    scratch: Scratch
    busy: Array
    version: Array
    pool: Array
    counters: Sequence[Array]
    kept: Any


class _Words(np.ndarray[Any, Any]):
    """The memory of an entry, and what must live as long."""

    kept: tuple[Any, ...]


NOBODY = np.zeros(1, np.int64)  # the pool of a plan that no thread helps with
_NEVER = np.ones(1, np.int64)  # the busy word of an entry that isn't bound


def make_entry(slow: Callable[..., Any], feeds: int, results: int, items: int) -> Callable[..., Any] | None:
    """An entry, not bound yet; None where the interpreter isn't one that entries know.

    Args:
        slow: what is called in its place where the arguments don't fit, or the entry isn't bound.
        feeds, results, items: how many there will be.
    """
    if not is_known():
        return None
    size = RECORDS + (feeds + results) * RECORD_BYTES + 8 * items
    words = np.zeros(size // 8, np.int64).view(_Words)
    words[SLOW // 8] = id(slow)
    words[FEEDS // 8], words[RESULTS // 8], words[ITEMS // 8] = feeds, results, items
    words[API // 8] = _interface().ctypes.data
    code = MODULE.code
    name = getattr(slow, "__name__", "entry").encode()
    method = _MethodDef(name, code.address("entry"), METH_FASTCALL | METH_KEYWORDS, None)
    words.kept = (slow, method, code)
    unbind(words)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.py_object]
    entry: Callable[..., Any] = make(ctypes.byref(method), words, None)
    return entry


def unbind(words: _Words) -> None:
    """Let an entry always take the slow way."""
    words[BUSY // 8] = words[VERSION // 8] = _NEVER.ctypes.data


def servable(arguments: Sequence[Argument]) -> bool:
    """Whether an entry can take or make all these arrays."""
    return all(len(a.shape) <= MAX_NDIM and not a.dtype.hasobject for a in arguments)


def bind(entry: Callable[..., Any], bound: Bound) -> None:
    """Let an entry run a plan; it may have run another one before."""
    words: _Words = entry.__self__  # type: ignore[attr-defined]
    unbind(words)
    words[POOL // 8] = bound.pool.ctypes.data
    drawn = np.array([len(bound.counters), *[counter.ctypes.data for counter in bound.counters]], np.int64)
    words[DRAWN // 8] = drawn.ctypes.data
    words.kept = (*words.kept[:3], bound, bound.scratch.memory, drawn)
    words[FORM // 8] = FORMS.index(bound.form)
    words[LOCKED // 8] = bound.commands.short
    words[EXPECTED // 8] = bound.version[0]
    words[PLAN // 8], words[TABLE // 8] = bound.commands.address, bound.table.ctypes.data
    words[SCRATCH // 8] = bound.scratch.address
    records = [*bound.feeds, *bound.results]
    end = (RECORDS + len(records) * RECORD_BYTES) // 8
    for row, argument in zip(words[RECORDS // 8 : end].reshape(-1, RECORD_BYTES // 8), records, strict=True):
        row[RECORD_DESCR // 8] = id(argument.dtype)
        row[RECORD_NDIM // 8] = len(argument.shape)
        row[RECORD_SLOT // 8] = bound.table.ctypes.data + 8 * argument.slot
        row[RECORD_GIVEN // 8] = 0
        row[RECORD_SHELF // 8] = 0 if argument.shelf is None else argument.shelf.words.ctypes.data
        row[RECORD_DIMS // 8 : RECORD_DIMS // 8 + len(argument.shape)] = argument.shape
    words[end:] = [-1 if item is None else item for item in bound.items]
    words[VERSION // 8] = bound.version.ctypes.data
    words[BUSY // 8] = bound.busy.ctypes.data


def give(entry: Callable[..., Any], number: int, array: Array) -> None:
    """Let the next call return an array as a result, one that fits and that lives until then."""
    words: _Words = entry.__self__  # type: ignore[attr-defined]
    record = RECORDS + (int(words[FEEDS // 8]) + number) * RECORD_BYTES
    words[(record + RECORD_GIVEN) // 8] = id(array)


# ------------------------------------------------------------------------------------------- the code


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


METH_KEYWORDS, METH_FASTCALL = 0x0002, 0x0080


@cache
def _interface() -> Array:
    """What the code uses of the interpreter, of NumPy and of the driver: addresses, in the order of `INTERFACE`."""
    own = {
        "array_type": id(np.ndarray),
        "none": id(None),
        "run": driver().code.address("run"),
        "new_from_descr": numpy_table()[NEW_FROM_DESCR],
        "set_base_object": numpy_table()[SET_BASE_OBJECT],
    }
    names = INTERFACE[len(own) :]
    of_python = {name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in names}
    addresses = {**own, **of_python}
    return np.array([addresses[name] for name in INTERFACE], np.uint64)


def assembly() -> str:
    """`ptr entry(ptr self, ptr args, i64 count, ptr names)`, as CPython calls a function with METH_FASTCALL."""
    module = Module()
    _fits(module)
    _make(module)
    _drop(module)
    _item(module)
    _container(module)
    _fill(module)
    _count(module)
    _run_plan(module)
    _attempt(module)
    _entry(module)
    return module.text()


ENTRY = ((PTR, "self"), (PTR, "args"), (I64, "count"), (PTR, "names"))
NULL = Value("null", PTR)
FITS, MAKE, DROP, ITEM, CONTAINER, FILL, COUNT_DRAWS, RUN_PLAN, ATTEMPT = (
    Value(f"@{name}", PTR)
    for name in ("fits", "make", "drop", "item", "container", "fill", "count_draws", "run_plan", "attempt")
)


class _Frame:
    """A function whose parameters begin with the words of an entry."""

    def __init__(self, module: Module, name: str, more: Sequence[tuple[str, str]], result: str) -> None:
        self.f = module.function(name, [(PTR, "words"), *more], result, internal=True)
        self.words = Fields(self.f, self.f.parameter(0))
        self.api = Fields(self.f, self.f.in_entry(lambda: self.words.load(PTR, API)))

    def interface(self, name: str) -> Value:
        """The address of something that the code uses."""
        return self.api.load(PTR, 8 * INTERFACE.index(name))

    def record(self, number: Value) -> Value:
        """The address of a record; those of feeds come first."""
        f = self.f
        return f.address(self.words.at(RECORDS), f.mul(number, RECORD_BYTES), "i8")

    def field(self, type: str, base: Value, offset: int) -> Value:
        """A field of a structure, wherever that is."""
        return self.f.load(type, self.f.address(base, offset, "i8"), 8)

    def same(self, a: Value, b: Value) -> Value:
        """Whether two values are equal."""
        return self.f.compare("icmp eq", a, b)


def _fits(module: Module) -> None:
    """`i64 fits(ptr words, ptr args)`: put the addresses of feeds into the table, if all are as they should be."""
    frame = _Frame(module, "fits", [(PTR, "args")], I64)
    f = frame.f
    count = frame.words.load(I64, FEEDS)

    def dims(array: Value, record: Value, ndim: Value) -> Value:
        given, wanted = frame.field(PTR, array, DIMS), f.address(record, RECORD_DIMS, "i8")

        def compare(values: list[Value]) -> list[Value]:
            k, _ = values
            pair = [f.load(I64, f.address(base, k, I64), 8) for base in (given, wanted)]
            return [f.i64(f.add(k, 1)), frame.same(*pair)]

        first = [constant(I64, 0), constant("i1", True)]
        return f.loop_while(lambda v: both(f, f.is_less(v[0], ndim), v[1]), compare, first)[1]

    def array(given: Value, record: Value) -> list[Value]:
        ndim = frame.field(I64, record, RECORD_NDIM)
        flags = f.binary("and", frame.field(I32, given, FLAGS), constant(I32, IN_ORDER))
        alike = both(
            f,
            both(f, frame.same(frame.field(PTR, given, DESCR), frame.field(PTR, record, RECORD_DESCR)),
                 frame.same(flags, constant(I32, IN_ORDER))),
            frame.same(f.convert("zext", frame.field(I32, given, NDIM), I64), ndim),
        )  # fmt: skip
        return f.if_(alike, lambda: [take(given, record, ndim)], lambda: [constant("i1", False)])

    def take(given: Value, record: Value, ndim: Value) -> Value:
        f.store(frame.field(PTR, given, DATA), frame.field(PTR, record, RECORD_SLOT), 8)
        return dims(given, record, ndim)

    def feed(values: list[Value]) -> list[Value]:
        k, _ = values
        given = f.load(PTR, f.address(f.parameter(1), k, PTR), 8)
        is_array = frame.same(frame.field(PTR, given, TYPE), frame.interface("array_type"))
        (good,) = f.if_(is_array, lambda: array(given, frame.record(k)), lambda: [constant("i1", False)])
        return [f.i64(f.add(k, 1)), good]

    _, good = f.loop_while(
        lambda values: both(f, f.is_less(values[0], count), values[1]),
        feed,
        [constant(I64, 0), constant("i1", True)],
    )
    f.ret(f.convert("zext", good, I64))


def _new_result(frame: _Frame, record: Value) -> list[Value]:
    """An array for a result, in a block that nobody has or in memory of its own; null if memory is short."""
    f = frame.f

    def new(data: Value = NULL) -> list[Value]:
        descr = frame.field(PTR, record, RECORD_DESCR)
        do(f, frame.interface("Py_IncRef"), descr)  # which the array takes
        ndim = f.convert("trunc", frame.field(I64, record, RECORD_NDIM), I32)
        sizes, flags = f.address(record, RECORD_DIMS, "i8"), constant(I32, 0 if data is NULL else WRITEABLE)
        arguments = [frame.interface("array_type"), descr, ndim, sizes, NULL, data, flags, NULL]
        return [call(f, frame.interface("new_from_descr"), *arguments, result=PTR)]

    def lent(block: Value) -> list[Value]:
        """An array in the memory of a block, which it refers to."""
        (array,) = new(f.load(PTR, f.address(block, 8, "i8"), 8))

        def refer() -> None:
            base = f.load(PTR, block, 8)
            do(f, frame.interface("Py_IncRef"), base)  # which the array takes
            call(f, frame.interface("set_base_object"), array, base, result=I32)

        unless(f, frame.same(array, NULL), refer)
        return [array]

    def shelved(shelf: Value) -> list[Value]:
        """An array in the first block that nobody has, or one of its own."""
        blocks = [f.address(shelf, 16 * k, "i8") for k in range(SHELVED)]
        counts = [frame.field(I32, f.load(PTR, block, 8), REFERENCES) for block in blocks]
        found = NULL
        for block, count in reversed([*zip(blocks, counts, strict=True)]):
            found = f.select(frame.same(count, constant(I32, 1)), block, found)
        return f.if_(frame.same(found, NULL), new, lambda: lent(found))

    shelf = frame.field(PTR, record, RECORD_SHELF)
    return f.if_(frame.same(shelf, NULL), new, lambda: shelved(shelf))


def _make(module: Module) -> None:
    """`i64 make(ptr words)`: arrays for the results, those that are given and new ones.

    It returns how many there are now: fewer than wanted if memory is short.
    """
    frame = _Frame(module, "make", [], I64)
    f = frame.f
    feeds, count = frame.words.load(I64, FEEDS), frame.words.load(I64, RESULTS)

    def given(record: Value, array: Value) -> list[Value]:
        f.store(NULL, f.address(record, RECORD_GIVEN, "i8"), 8)
        do(f, frame.interface("Py_IncRef"), array)
        return [array]

    def make(values: list[Value]) -> list[Value]:
        k, _ = values
        record = frame.record(f.i64(f.add(feeds, k)))
        there = frame.field(PTR, record, RECORD_GIVEN)
        (array,) = f.if_(frame.same(there, NULL), lambda: _new_result(frame, record), lambda: given(record, there))
        f.store(array, f.address(record, RECORD_OBJECT, "i8"), 8)
        made = f.compare("icmp ne", array, NULL)

        def put() -> None:
            f.store(frame.field(PTR, array, DATA), frame.field(PTR, record, RECORD_SLOT), 8)

        f.if_(made, put)
        return [f.i64(f.add(k, f.convert("zext", made, I64))), made]

    done, _ = f.loop_while(
        lambda values: both(f, f.is_less(values[0], count), values[1]), make, [constant(I64, 0), constant("i1", True)]
    )
    f.ret(done)


def _drop(module: Module) -> None:
    """`void drop(ptr words, i64 count)`: give up the first results."""
    frame = _Frame(module, "drop", [(I64, "count")], "void")
    f = frame.f
    feeds = frame.words.load(I64, FEEDS)

    def one(k: Value, _: list[Value]) -> None:
        do(f, frame.interface("Py_DecRef"), frame.field(PTR, frame.record(f.i64(f.add(feeds, k))), RECORD_OBJECT))

    f.loop(0, f.parameter(1), 1, one)
    f.ret()


def _item(module: Module) -> None:
    """`ptr item(ptr words, i64 number)`: what is to be returned there, with a reference."""
    frame = _Frame(module, "item", [(I64, "number")], PTR)
    f = frame.f
    feeds, results = frame.words.load(I64, FEEDS), frame.words.load(I64, RESULTS)
    items = frame.record(f.i64(f.add(feeds, results)))
    result = f.load(I64, f.address(items, f.parameter(1), I64), 8)

    def none() -> list[Value]:
        it = frame.interface("none")
        do(f, frame.interface("Py_IncRef"), it)
        return [it]

    def array() -> list[Value]:
        return [frame.field(PTR, frame.record(f.i64(f.add(feeds, result))), RECORD_OBJECT)]

    (it,) = f.if_(f.is_less(result, 0), none, array)
    f.ret(it)


def _container(module: Module) -> None:
    """`ptr container(ptr words)`: what the results shall be in: None for one that is alone; null if memory is short."""
    frame = _Frame(module, "container", [], PTR)
    f = frame.f
    new = f.select(_is_list(frame), frame.interface("PyList_New"), frame.interface("PyTuple_New"))

    def none() -> list[Value]:
        it = frame.interface("none")
        do(f, frame.interface("Py_IncRef"), it)
        return [it]

    alone = is_zero(f, frame.words.load(I64, FORM))
    (found,) = f.if_(alone, none, lambda: [call(f, new, frame.words.load(I64, ITEMS), result=PTR)])
    f.ret(found)


def _fill(module: Module) -> None:
    """`void fill(ptr words, ptr container)`: put the results into a list or tuple, which take over the references."""
    frame = _Frame(module, "fill", [(PTR, "container")], "void")
    f = frame.f
    put = f.select(_is_list(frame), frame.interface("PyList_SetItem"), frame.interface("PyTuple_SetItem"))

    def one(k: Value, _: list[Value]) -> None:
        call(f, put, f.parameter(1), k, call(f, ITEM, f.parameter(0), k, result=PTR), result=I32)

    f.loop(0, frame.words.load(I64, ITEMS), 1, one)
    f.ret()


def _is_list(frame: _Frame) -> Value:
    return frame.same(frame.words.load(I64, FORM), constant(I64, FORMS.index("list")))


def _count(module: Module) -> None:
    """`void count_draws(ptr words)`: let later runs draw something else."""
    frame = _Frame(module, "count_draws", [], "void")
    f = frame.f
    drawn = frame.words.load(PTR, DRAWN)

    def one(k: Value, _: list[Value]) -> None:
        counter = f.load(PTR, f.address(drawn, f.add(k, 1), PTR), 8)
        f.store(f.i64(f.add(f.load(I64, counter, 8), 1)), counter, 8)

    f.loop(0, f.load(I64, drawn, 8), 1, one)
    f.ret()


def _run_plan(module: Module) -> None:
    """`i64 run_plan(ptr words)`: run the plan, with or without the interpreter's lock; 0 unless it fails."""
    frame = _Frame(module, "run_plan", [], I64)
    f, words = frame.f, frame.words

    def run() -> list[Value]:
        parameters = [words.load(PTR, offset) for offset in (PLAN, TABLE, SCRATCH)]
        pool = f.load(PTR, words.load(PTR, POOL), 8)
        return [call(f, frame.interface("run"), *parameters, pool)]

    def run_unlocked() -> list[Value]:
        state = call(f, frame.interface("PyEval_SaveThread"), result=PTR)
        status = run()
        do(f, frame.interface("PyEval_RestoreThread"), state)
        return status

    (status,) = f.if_(is_zero(f, words.load(I64, LOCKED)), run_unlocked, run)
    f.if_(is_zero(f, status), lambda: do(f, COUNT_DRAWS, words.base))
    f.ret(status)


def _attempt(module: Module) -> None:
    """`ptr attempt(ptr words, ptr args)`: the results in their form, or null where Python must do it.

    The container is made first: that may set the garbage collector to work, which may run anything, this entry too.
    From then on nothing runs but what is here, and when the plan has run, nothing can fail.
    """
    frame = _Frame(module, "attempt", [(PTR, "args")], PTR)
    f, words, own = frame.f, frame.words, frame.f.parameter(0)
    results = words.load(I64, RESULTS)
    container = call(f, CONTAINER, own, result=PTR)

    def unable() -> list[Value]:
        do(f, frame.interface("PyErr_Clear"))  # of memory that was short: Python tries again, and tells
        return [NULL]

    def misfit() -> list[Value]:
        do(f, frame.interface("Py_DecRef"), container)
        return unable()

    def given_up(made: Value) -> list[Value]:
        do(f, DROP, own, made)
        return misfit()

    def alone() -> list[Value]:
        do(f, frame.interface("Py_DecRef"), container)
        return [call(f, ITEM, own, constant(I64, 0), result=PTR)]

    def filled() -> list[Value]:
        do(f, FILL, own, container)
        return [container]

    def returned() -> list[Value]:
        return f.if_(is_zero(f, words.load(I64, FORM)), alone, filled)

    def ran() -> list[Value]:
        return f.if_(is_zero(f, call(f, RUN_PLAN, own)), returned, lambda: given_up(results))

    def made_and_run() -> list[Value]:
        made = call(f, MAKE, own)
        return f.if_(frame.same(made, results), ran, lambda: given_up(made))

    def free() -> list[Value]:
        idle = is_zero(f, f.load(I64, words.load(PTR, BUSY), 8))
        current = frame.same(f.load(I64, words.load(PTR, VERSION), 8), words.load(I64, EXPECTED))
        return f.if_(both(f, idle, current), fitting, misfit)

    def fitting() -> list[Value]:
        return f.if_(is_zero(f, call(f, FITS, own, f.parameter(1))), misfit, made_and_run)

    (found,) = f.if_(frame.same(container, NULL), unable, free)
    f.ret(found)


def _entry(module: Module) -> None:
    """Attempt it, if it is called as it should be; or leave it to Python."""
    f = module.function("entry", ENTRY, PTR)
    _, args, count, names = (f.parameter(k) for k in range(4))
    words = Fields(f, f.in_entry(lambda: f.load(PTR, f.address(f.parameter(0), DATA, "i8"), 8)))
    called = both(f, f.compare("icmp eq", names, NULL), f.compare("icmp eq", count, words.load(I64, FEEDS)))
    (found,) = f.if_(called, lambda: [call(f, ATTEMPT, words.base, args, result=PTR)], lambda: [NULL])

    def slow() -> list[Value]:
        api = words.load(PTR, API)
        vectorcall = f.load(PTR, f.address(api, 8 * INTERFACE.index("PyObject_Vectorcall"), "i8"), 8)
        return [call(f, vectorcall, words.load(PTR, SLOW), args, count, names, result=PTR)]

    (found,) = f.if_(f.compare("icmp eq", found, NULL), slow, lambda: [found])
    f.ret(found)


MODULE = Part("entry", ("entry",), assembly)
