"""From LLVM assembly to functions in memory: compiled in parallel, kept on disk, loaded once.

Modules may call functions of a *library*, which is made of modules of its own, one for each function. Their names have
a dot, as no name of the C library does.

Small modules are compiled several at a time, as each takes LLVM a millisecond besides what its lines take. They are in
one object file then, which is kept once. An object may thus have more than is asked for: of functions that several
objects have, each the same, one is taken, since all are weak. What functions call that nobody asks for may be missing.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from copy import copy
from functools import cache, partial
from threading import Lock, RLock, Thread, local
from typing import Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

from graphc.errors import GraphcError, InternalError
from graphc.runtime.cache import object_cache
from graphc.runtime.cpu import hot_loops
from graphc.runtime.cpu.emitting import emitted
from graphc.runtime.cpu.host import OPTIONS, Host, available_threads, target_machine, this_host
from graphc.runtime.cpu.turns import SHORT_TURNS

DEFINED = re.compile(r"^define (?!internal |private )[^@\n]*@([\w.]+)\(", re.MULTILINE)
LOCAL = re.compile(r"^(?:define (?:internal|private) [^@\n]*)?@([\w.]+)(?=\(| =)", re.MULTILINE)
SHARED = "declare ", "attributes ", "!"  # what lines begin with that modules have in common
CALLED = re.compile(r"^declare (?=[^@\n]*@(?!llvm\.)\w+\.)", re.MULTILINE)  # of a library
HIDDEN = "internal ", "private "  # what functions begin with that no other module sees
OF_LIBRARY = re.compile(r"^declare [^@\n]*@((?!llvm\.)\w+\.[\w.]+)\(", re.MULTILINE)

TOGETHER = 112 << 10  # characters of assembly that are compiled as one module, about

Library = Callable[[str], str]  # the assembly of a function, by name

_numbers = itertools.count()


class Code:
    """Object files in memory, and the addresses of their functions; unloaded when nothing refers to it.

    Args:
        symbols: of the functions whose addresses are asked for.
        imports: addresses of functions that the objects call, apart from those of the process.
        later: whether they are linked while the interpreter does other things; who asks for an address then waits.
    """

    def __init__(
        self,
        objects: Iterable[bytes],
        symbols: Iterable[str],
        imports: Mapping[str, int] = {},
        *,
        later: bool = False,
    ) -> None:
        import llvmlite.binding as llvm

        builder = llvm.JITLibraryBuilder().add_current_process()
        for image in objects:
            builder = builder.add_object_img(image)
        for symbol in symbols:
            builder = builder.export_symbol(symbol)
        for symbol, address in imports.items():
            builder = builder.import_symbol(symbol, address)
        link = partial(builder.link, _engine(), f"code{next(_numbers)}")
        self._library: Mapping[str, int] | _Linking = _Linking(link) if later else link()
        self._prefix = ""
        self._needed: Sequence[Code] = ()

    def part(self, prefix: str) -> Code:
        """The functions whose symbols begin with `prefix`, by the rest of the symbol."""
        part = copy(self)
        part._prefix = self._prefix + prefix
        return part

    def address(self, symbol: str) -> int:
        """Where a function is."""
        found: int = self._library[self._prefix + symbol]
        return found


class _Linking:
    """A library that is being linked by a thread of its own, which needs the interpreter only when it is done."""

    def __init__(self, link: Callable[[], Mapping[str, int]]) -> None:
        self._link = link
        self._linked: Future[Mapping[str, int]] = Future()
        with _beginning:
            try:
                Thread(target=self._work, name="graphc-link").start()
            except RuntimeError:  # the system grants no more threads
                self._work()
            _linking.add(self)

    def _work(self) -> None:
        try:
            self._linked.set_result(self._link())
        except BaseException as error:
            self._linked.set_exception(error)

    def __getitem__(self, symbol: str) -> int:
        return self._linked.result()[symbol]

    def wait(self) -> None:
        """Return when nothing is linked any more."""
        self._linked.exception()


_linking: WeakSet[_Linking] = WeakSet()
_beginning = RLock()  # who begins to link has it, and who forks; a signal may have one and the same thread do both


def _wait_for_linking() -> None:
    """A child has only the thread that forks: what others have begun would never be done there; nor begin they now."""
    _beginning.acquire()
    for library in list(_linking):
        library.wait()


if hasattr(os, "register_at_fork"):  # the last to be registered comes first: what is linked needs LLVM; see `forks`
    os.register_at_fork(before=_wait_for_linking, after_in_parent=_beginning.release, after_in_child=_beginning.release)


@cache
def _engine() -> Any:
    """The one JIT of the process, which owns all code."""
    import llvmlite.binding as llvm

    try:
        llvm.check_jit_execution()
    except OSError as error:
        raise GraphcError(
            f"this system refuses memory for generated code: {error}", hint='Session(device="reference")'
        ) from error
    # JITLink takes one block for all sections of an object. The older linker maps them one by one, and aborts the
    # process where they come to lie more than 2 GiB apart, as they do in a process of many mappings.
    return llvm.create_lljit_compiler(target_machine(this_host()), use_jit_link=True, suppress_errors=False)


_loaded: WeakValueDictionary[str, Code] = WeakValueDictionary()


class Unit(NamedTuple):
    """What is to be known of a module besides its code.

    Attributes:
        key: names its object file.
        symbols: of the functions whose addresses are asked for.
        calls: names of functions of the library.
    """

    key: str
    symbols: tuple[str, ...]
    calls: tuple[str, ...]


class Objects(NamedTuple):
    """Object files of modules by key, and the units of functions of the library, by name."""

    images: Mapping[str, bytes]
    library: Mapping[str, Unit]


NO_OBJECTS = Objects({}, {})


def unit_of(assembly: str, symbols: Iterable[str]) -> Unit:
    """The unit of a module."""
    called = OF_LIBRARY.findall(_lines(assembly, "declare "))
    return Unit(_key(assembly), tuple(symbols), (*dict.fromkeys(called), *hot_loops.names(assembly)))


class Loading:
    """Modules on their way into memory: those that are new are compiled while others are still being written.

    Args:
        library: gives the functions that the modules call.
        recalled: what needs neither be written nor compiled.
    """

    def __init__(
        self, library: Library | None = None, recalled: Objects = NO_OBJECTS, compiler: Compiler | None = None
    ) -> None:
        self._library = library
        self._recalled = recalled
        self._compiler = compiler or new_compiler()
        self._keys: list[str] = []  # of all modules, in order
        self._found: dict[str, Code] = {}  # what is loaded already
        self._units: dict[str, Unit] = {}  # the other modules
        self._images: dict[str, bytes] = {}  # of those, what need not be compiled
        self._called: dict[str, Unit] = {}  # the functions that these call, by name
        self._functions: Loading | None = None
        self._complete = True  # whether all functions that are called are known here

    def add(self, assembly: str, symbols: Iterable[str]) -> None:
        """Take a module; see `take`."""
        self.take(unit_of(assembly, symbols), lambda: assembly)

    def take(self, unit: Unit, assembly: Callable[[], str]) -> None:
        """Take a module, unless it is there already.

        Args:
            assembly: gives it, if it has to be compiled.
        """
        key = unit.key
        self._keys.append(key)
        if key in self._found or key in self._units:
            return
        loaded = _loaded.get(key)
        if loaded is not None:
            self._found[key] = loaded
            self._complete = self._complete and not unit.calls
            return
        self._units[key] = unit
        parts = cache(lambda: hot_loops.parts(assembly()))
        image = self._recalled.images.get(key) or _image_of(key, object_cache().get(key))
        if image is None:
            self._compiler.begin(key, _renamed(parts()[0], _prefix(key)), self)
        else:
            self._images[key] = image
        loops = [name for name in unit.calls if name.startswith(hot_loops.PREFIX)]
        self._call(loops, lambda name: parts()[1][name])
        self._call([name for name in unit.calls if name not in loops], self._library)

    def _call(self, names: Iterable[str], library: Library | None) -> None:
        """Take functions of a library."""
        if library is None:
            return
        for name in [name for name in names if name not in self._called]:
            if self._functions is None:
                self._functions = Loading(self._library, self._recalled, self._compiler)
            unit, assembly = self._recalled.library.get(name), partial(library, name)
            if unit is None:
                assembly = partial(str, library(name))  # written once
                unit = unit_of(assembly(), [name])
            self._functions.take(unit, assembly)
            self._called[name] = unit

    def objects(self) -> Objects | None:
        """All object files, once there is code, and the functions that are called; None if something is missing."""
        inner = NO_OBJECTS if self._functions is None else self._functions.objects()
        images = {key: self._images.get(key) or _image_of(key, object_cache().find(key)) for key in self._keys}
        one: dict[bytes, bytes] = {}  # of equal ones
        found = {key: one.setdefault(image, image) for key, image in images.items() if image is not None}
        if inner is None or len(found) < len(images) or not self._complete:
            return None
        return Objects({**found, **inner.images}, {**self._called, **inner.library})

    def codes(self, *, later: bool = False) -> list[Code]:
        """The code of each module that was added; see `Code` for `later`.

        Raises:
            GraphcError: the system allows no generated code. InternalError: LLVM refuses a module.
        """
        try:
            self._compiler.settle()
            new = self._linked(later)
        except BaseException:
            self._compiler.stop(self._units)
            raise
        self._found.update(new)
        _loaded.update(new)
        return [self._found[key] for key in self._keys]

    def _linked(self, later: bool) -> dict[str, Code]:
        """The new modules by key, in one library: linking them one by one takes more than twice as long."""
        if not self._units:
            return {}
        functions = [] if self._functions is None else self._functions.codes(later=later)
        self._images.update({key: self._compiler.take(key) for key in self._units if key not in self._images})
        addresses = {name: code.address(name) for name, code in zip(self._called, functions, strict=True)}
        exported = [_prefix(key) + name for key, unit in self._units.items() for name in unit.symbols]
        library = Code(dict.fromkeys(self._images.values()), exported, addresses, later=later)
        library._needed = tuple(functions)
        return {key: library.part(_prefix(key)) for key in self._units}


def expect(names: Iterable[str], library: Library, compiler: Compiler) -> None:
    """Have functions of a library compiled that are most likely needed, unless they are there already."""
    company = object()
    for name in names:
        assembly = library(name)
        unit = unit_of(assembly, [name])
        if unit.key not in _loaded and object_cache().find(unit.key) is None:
            own = _renamed(hot_loops.parts(assembly)[0], _prefix(unit.key))
            compiler.begin(unit.key, own, company, is_likely=True)


def load(assemblies: Sequence[str], symbols: Sequence[Sequence[str]], library: Library | None = None) -> list[Code]:
    """The code of each module, with the symbols that are asked for; see `Loading`."""
    loading = Loading(library)
    for assembly, names in zip(assemblies, symbols, strict=True):
        loading.add(assembly, names)
    return loading.codes()


def keep(image: bytes, keys: Sequence[str]) -> None:
    """Keep an object file on disk, once for all modules that it has."""
    object_cache().put(keys[0], image, *keys[1:])


def _image_of(key: str, kept: bytes | None) -> bytes | None:
    """The object file of a module, given what is kept under its key; None if that isn't it."""
    return kept if kept is not None and _prefix(key).encode() in kept else None


def _key(assembly: str) -> str:
    """What the object file of a module depends on, as a name."""
    return hashlib.sha256(f"{generator()}\n{assembly}".encode()).hexdigest()


@cache
def generator() -> str:
    """Who compiles, how, and for which machine."""
    import llvmlite
    import llvmlite.binding as llvm

    host = this_host()
    version = llvmlite.__version__, str(llvm.llvm_version_info), *OPTIONS
    return "\n".join([*version, host.triple, host.cpu, host.features])


def symbol_of(unit: Unit, name: str) -> str:
    """What a function of a module is called in its object file."""
    return _prefix(unit.key) + name


def _prefix(key: str) -> str:
    """What makes the symbols of a module its own."""
    return f"k{key[:24]}_"


def _lines(assembly: str, word: str) -> str:
    """The lines of a module that begin so: patterns find what they look for there many times faster than in all."""
    return "\n".join([word + rest.partition("\n")[0] for rest in f"\n{assembly}".split(f"\n{word}")[1:]])


def _renamed(assembly: str, prefix: str) -> str:
    """A module whose functions that others may call begin with `prefix`."""
    names = DEFINED.findall(_lines(assembly, "define "))
    return hot_loops.renamed(assembly, {name: f"{prefix}{name}" for name in names})


def _joined(assemblies: Sequence[str]) -> str:
    """Modules, whose functions that others may call have names of their own, as one."""
    if len(assemblies) == 1:
        return assemblies[0]
    shared: dict[str, None] = {}
    texts = []
    for number, assembly in enumerate(assemblies):
        around, *functions = f"\n{assembly}\n".split("\ndefine ")
        pieces = [each.partition("\n}\n") for each in functions]
        around = "\n".join([around, *[rest for _, _, rest in pieces]])
        lines = CALLED.sub("declare extern_weak ", around).split("\n")
        shared.update(dict.fromkeys([line for line in lines if line.startswith(SHARED)]))
        own = [line for line in lines if line and not line.startswith(SHARED)]
        own += [("define " if body.startswith(HIDDEN) else "define weak ") + body + end for body, end, _ in pieces]
        names = LOCAL.findall("\n".join([line.partition("\n")[0] for line in own]))
        texts.append(hot_loops.renamed("\n".join(own), {name: f"m{number}.{name}" for name in names}))
    return "\n".join([*shared, *texts])


# ------------------------------------------------------------------------------------------- compiling


def compiled(assembly: str, host: Host) -> bytes:
    """The object file of a module.

    Raises:
        InternalError: LLVM refuses it.
    """
    return _Machines(host).compiled(assembly)


class _Machines:
    """One thread's LLVM: for modules that are compiled well, and for those that are compiled as they stand."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._made: dict[bool, Any] = {}

    def compiled(self, assembly: str) -> bytes:
        """The object file of a module."""
        plain = hot_loops.is_glue(assembly)
        if plain not in self._made:
            self._made[plain] = target_machine(self._host, plain=plain)
        return emitted(assembly, self._made[plain])


class _Waiting(NamedTuple):
    """A module that is to be compiled; see `Compiler.begin`."""

    assembly: str
    company: object
    is_likely: bool


def new_compiler() -> Compiler:
    """For the modules of a plan, which are kept on disk."""
    return Compiler(this_host(), TOGETHER, keep)


class Compiler:
    """Compiles modules on all cores, what is needed before what is likely, the longest of those that wait first.

    Its threads end when no module waits; one that asks for a module which isn't ready helps.

    Args:
        together: characters of assembly of several modules that are compiled as one, about.
        keep: gets each object file that is made, and the keys of the modules that it has.
    """

    def __init__(
        self, host: Host, together: int = 0, keep: Callable[[bytes, Sequence[str]], None] = lambda image, keys: None
    ) -> None:
        self._host = host
        self._together = together
        self._keep = keep
        self._threads = available_threads()  # asked once: the system's answer takes a quarter of a millisecond
        self._lock = Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._made: dict[str, Future[bytes]] = {}
        self._taking = local()  # to make LLVM's machines takes as long as to compile a small module: one for a thread
        self._running = 0

    def begin(self, key: str, assembly: str, company: object = None, *, is_likely: bool = False) -> None:
        """Compile a module in the background.

        Args:
            company: modules that have the same may be in one object file, those that are glue apart from the others;
                with None, one is alone in its own.
            is_likely: whether nobody needs it yet; see `settle`.
        """
        with self._lock:
            if key in self._made:
                if key in self._waiting and not is_likely:
                    self._waiting[key] = self._waiting[key]._replace(is_likely=False)
                return
            company = company and (company, hot_loops.is_glue(assembly))
            self._made[key], self._waiting[key] = Future(), _Waiting(assembly, company, is_likely)
            if self._running >= self._threads - 1:
                return
            self._running += 1
        try:
            Thread(target=self._work, name="graphc-compile").start()
        except RuntimeError:  # the system grants no more threads: who asks for the modules compiles them
            with self._lock:
                self._running -= 1

    def take(self, key: str) -> bytes:
        """The object file of a module that was begun, when it is ready.

        Raises:
            InternalError: LLVM refuses it.
        """
        made, machines = self._made[key], self._taking.__dict__.setdefault("machines", _Machines(self._host))
        while not made.done() and (following := self._next()):
            self._make(following, machines)
        return made.result()

    def settle(self) -> None:
        """Don't compile any more what is merely likely, unless that has been begun: all that is needed is known."""
        with self._lock:  # all the time: others may begin what they need, and it is no longer merely likely
            self._drop([key for key, waiting in self._waiting.items() if waiting.is_likely])

    def stop(self, keys: Iterable[str]) -> None:
        """Don't compile these modules any more, unless that has been begun; nobody may ask for them."""
        with self._lock:
            self._drop(keys)

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._waiting.pop(key, None) is not None:
                del self._made[key]

    def _next(self, leaving: int = 0) -> dict[str, str]:
        """Modules that wait, to be compiled together; none if there is none: then so many threads end."""
        with self._lock:
            if not self._waiting:
                self._running -= leaving
                return {}
            longest = sorted(self._waiting, key=self._rank, reverse=True)
            company = self._waiting[longest[0]].company
            alike = [key for key in longest[1:] if self._waiting[key].company == company is not None]
            share = sum([len(self._waiting[key].assembly) for key in longest]) // self._threads
            left = min(self._together, share)
            taken: dict[str, str] = {}
            for key in [longest[0], *alike]:
                left -= len(self._waiting[key].assembly)
                if taken and left < 0:
                    break
                taken[key] = self._waiting.pop(key).assembly
            return taken

    def _rank(self, key: str) -> tuple[bool, int]:
        """What is greatest comes next."""
        waiting = self._waiting[key]
        return not waiting.is_likely, len(waiting.assembly)

    def _make(self, modules: Mapping[str, str], machines: _Machines) -> None:
        """Compile modules together; where LLVM refuses that, one by one, to know which it is."""
        try:
            image = machines.compiled(_joined([*modules.values()]))
            self._keep(image, [*modules])
        except BaseException as error:
            if len(modules) > 1 and isinstance(error, InternalError):
                for key, assembly in modules.items():
                    self._make({key: assembly}, machines)
                return
            for key in modules:
                self._made[key].set_exception(error)
            if not isinstance(error, Exception):  # an interrupt
                raise
            return
        for key in modules:
            self._made[key].set_result(image)

    def _work(self) -> None:
        machines = _Machines(self._host)
        with SHORT_TURNS:
            while following := self._next(leaving=1):
                self._make(following, machines)
