"""From LLVM assembly to functions in memory: compiled in parallel, kept on disk, loaded once.

LLVM compiles modules of different contexts at the same time, but llvmlite lets one thread at a time into it. The two
calls that take long are made past its lock, on the functions that the lock wraps; where a version of llvmlite wraps
them in another way, they are made with the lock, and compiling is serial.

Modules may call functions of a *library*, which is made of modules of its own, one for each function. Their names have
a dot, as no name of the C library does.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

from graphc.errors import GraphcError, InternalError
from graphc.runtime.cpu.cache import object_cache
from graphc.runtime.cpu.host import Host, available_threads, target_machine, this_host

DEFINED = re.compile(r"^define (?!internal |private )[^@\n]*@([\w.]+)\(", re.MULTILINE)
OF_LIBRARY = re.compile(r"^declare [^@\n]*@((?!llvm\.)\w+\.[\w.]+)\(", re.MULTILINE)

Library = Callable[[str], str]  # the assembly of a function, by name

_numbers = itertools.count()


class Code:
    """Object files in memory, and the addresses of their functions; unloaded when nothing refers to it.

    Args:
        symbols: of the functions whose addresses are asked for.
        imports: addresses of functions that the objects call, apart from those of the process.
    """

    def __init__(self, objects: Iterable[bytes], symbols: Iterable[str], imports: Mapping[str, int] = {}) -> None:
        import llvmlite.binding as llvm

        builder = llvm.JITLibraryBuilder().add_current_process()
        for image in objects:
            builder = builder.add_object_img(image)
        for symbol in symbols:
            builder = builder.export_symbol(symbol)
        for symbol, address in imports.items():
            builder = builder.import_symbol(symbol, address)
        self._library = builder.link(_engine(), f"code{next(_numbers)}")
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
    return llvm.create_lljit_compiler(target_machine(this_host()), use_jit_link=False, suppress_errors=False)


_loaded: WeakValueDictionary[str, Code] = WeakValueDictionary()


def load(assemblies: Sequence[str], symbols: Sequence[Sequence[str]], library: Library | None = None) -> list[Code]:
    """The code of each module: that which is loaded already, is on disk, or is compiled now.

    Args:
        symbols: of the functions of each module whose addresses are asked for.
        library: gives the functions that the modules call.

    Raises:
        GraphcError: the system allows no generated code. InternalError: LLVM refuses a module.
    """
    keys = [_key(text) for text in assemblies]
    found = {key: code for key in keys if (code := _loaded.get(key)) is not None}
    missing = {key: k for k, key in enumerate(keys) if key not in found}
    if missing:
        texts = {key: assemblies[k] for key, k in missing.items()}
        wanted = {key: symbols[k] for key, k in missing.items()}
        new = _linked(texts, wanted, _imported(texts.values(), library))
        found.update(new)
        _loaded.update(new)
    return [found[key] for key in keys]


def _imported(assemblies: Iterable[str], library: Library | None) -> dict[str, Code]:
    """The functions of the library that modules call, each by name."""
    names = list(dict.fromkeys(name for text in assemblies for name in OF_LIBRARY.findall(text)))
    if library is None or not names:
        return {}
    codes = load([library(name) for name in names], [[name] for name in names], library)
    return dict(zip(names, codes, strict=True))


def _linked(
    assemblies: Mapping[str, str], symbols: Mapping[str, Sequence[str]], imported: Mapping[str, Code]
) -> dict[str, Code]:
    """The code of modules by key, in one library: linking them one by one takes more than twice as long."""
    exported = [_prefix(key) + name for key, names in symbols.items() for name in names]
    addresses = {name: code.address(name) for name, code in imported.items()}
    library = Code(_objects(assemblies).values(), exported, addresses)
    library._needed = tuple(imported.values())
    return {key: library.part(_prefix(key)) for key in assemblies}


def _key(assembly: str) -> str:
    """What the object file of a module depends on, as a name."""
    return hashlib.sha256(f"{_generator()}\n{assembly}".encode()).hexdigest()


@cache
def _generator() -> str:
    """Who compiles, and for which machine."""
    import llvmlite
    import llvmlite.binding as llvm

    host = this_host()
    return "\n".join([llvmlite.__version__, str(llvm.llvm_version_info), host.triple, host.cpu, host.features])


def _prefix(key: str) -> str:
    """What makes the symbols of a module its own."""
    return f"k{key[:24]}_"


def _objects(assemblies: Mapping[str, str]) -> dict[str, bytes]:
    """The object files of modules by key, from disk or compiled."""
    cache = object_cache()
    found = {key: image for key in assemblies if (image := cache.get(key)) is not None}
    renamed = {key: _renamed(text, _prefix(key)) for key, text in assemblies.items() if key not in found}
    if renamed:
        for key, image in compiled_all(renamed, this_host()):
            cache.put(key, image)
            found[key] = image
    return found


def _renamed(assembly: str, prefix: str) -> str:
    """A module whose functions that others may call begin with `prefix`."""
    names = DEFINED.findall(assembly)
    return re.sub(rf"@({'|'.join(map(re.escape, names))})(?![\w.])", rf"@{prefix}\1", assembly) if names else assembly


# ------------------------------------------------------------------------------------------- compiling


def compiled(assembly: str, host: Host) -> bytes:
    """The object file of a module.

    Raises:
        InternalError: LLVM refuses it.
    """
    return _emitted(assembly, target_machine(host))


def compiled_all(assemblies: Mapping[str, str], host: Host) -> list[tuple[str, bytes]]:
    """The object files of modules by key, compiled on all cores, the longest first."""
    order = sorted(assemblies, key=lambda key: -len(assemblies[key]))
    threads = min(len(order), available_threads())
    queue = _Queue(order)
    if threads <= 1:
        return _compiled_from(queue, assemblies, host)
    with ThreadPoolExecutor(threads, "graphc-compile") as pool:
        parts = [pool.submit(_compiled_from, queue, assemblies, host) for _ in range(threads)]
    return [pair for part in parts for pair in part.result()]


class _Queue:
    """Keys, which several threads take."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = iter(keys)  # whose next() is one step for the interpreter

    def __iter__(self) -> Iterator[str]:
        return self._keys


def _compiled_from(keys: Iterable[str], assemblies: Mapping[str, str], host: Host) -> list[tuple[str, bytes]]:
    machine = target_machine(host)
    return [(key, _emitted(assemblies[key], machine)) for key in keys]


def _emitted(assembly: str, machine: Any) -> bytes:
    import llvmlite.binding as llvm
    from llvmlite.binding import ffi

    context = llvm.create_context()
    with ffi.OutputString() as error:
        pointer = _unlocked(ffi.lib.LLVMPY_ParseAssembly)(context, ctypes.c_char_p(assembly.encode()), error)
        if error:
            raise InternalError(f"LLVM can't read generated code: {error}")
    with llvm.module.ModuleRef(pointer, context) as module:
        try:
            module.verify()
        except RuntimeError as wrong:
            raise InternalError(f"LLVM refuses generated code: {wrong}") from wrong
        with ffi.OutputString() as error:
            buffer = _unlocked(ffi.lib.LLVMPY_TargetMachineEmitToMemory)(machine, module, 1, error)
            if not buffer:
                raise InternalError(f"LLVM can't compile generated code: {error}")
        try:
            return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
        finally:
            ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _unlocked(function: Any) -> Any:
    """A function of LLVM without the lock of llvmlite, if that wraps it as we know it."""
    return getattr(function, "_cfn", function)
