"""From LLVM assembly to functions in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from graphc.errors import GraphcError
from graphc.runtime.cpu.host import Host, target_machine, this_host

_numbers = itertools.count()


def compiled(assembly: str, host: Host) -> bytes:
    """The object file of a module."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(assembly, llvm.create_context())
    module.verify()
    object_file: bytes = target_machine(host).emit_object(module)
    return object_file


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


class Code:
    """Object files in memory, and the addresses of their functions; unloaded when nothing refers to it."""

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

    def address(self, symbol: str) -> int:
        """Where a function is."""
        found: int = self._library[symbol]
        return found


def load(assemblies: Sequence[str], symbols: Sequence[Sequence[str]], imports: Mapping[str, int] = {}) -> list[Code]:
    """The code of each module."""
    host = this_host()
    return [Code([compiled(text, host)], names, imports) for text, names in zip(assemblies, symbols, strict=True)]
