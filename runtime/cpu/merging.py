"""Object files as one: those of 64 bits in ELF, the format of Linux.

Linking takes the JIT some 50 us for each object file, whatever is in it: memory of its own, whose protection changes,
of which all cores are told. A plan has a hundred of them, of 2 KB each. As one file they also lie closer together.

Sections are taken over as they are. What joins them is the table of symbols: those that others see are known by their
names, and what one file calls, another may define. The format is that of the System V ABI, "Object Files".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

FILE = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])

MAGIC = b"\x7fELF\x02\x01\x01"  # of 64 bits, little-endian
RELOCATABLE, VERSION = 1, 1
PROGRAM, SYMBOLS, STRINGS, RELOCATIONS = 1, 2, 3, 4  # types of sections
PASSED_OVER = {0, PROGRAM, SYMBOLS, STRINGS, RELOCATIONS, 0x6FFF4C03}  # unless in memory; the last is a list of LLVM's
ALLOCATED = 2  # a flag of sections that are in memory
KNOWN = 1 | ALLOCATED | 4 | 0x10 | 0x20  # and: written, executed, merged, strings
LOCAL, OF_FILE = 0, 4  # the binding of a symbol, and its type
UNDEFINED, SPECIAL = 0, 0xFF00  # numbers of sections; from the latter on they mean something else
ALIGN = 8  # of tables


class Section(NamedTuple):
    """The header of a section."""

    name: int = 0
    type: int = 0
    flags: int = 0
    address: int = 0
    offset: int = 0
    size: int = 0
    link: int = 0
    info: int = 0
    align: int = 0
    entry: int = 0


class Symbol(NamedTuple):
    """A symbol; `info` has its binding and type."""

    name: int = 0
    info: int = 0
    other: int = 0
    section: int = 0
    value: int = 0
    size: int = 0


class UnknownError(Exception):
    """An object file has something that isn't known here."""


class Object(NamedTuple):
    """An object file.

    Attributes:
        machine: the number of its architecture.
        sections: the headers of all.
        titles: the names of the sections.
        symbols: all, the first of which means none.
        names: of the symbols.
    """

    image: bytes
    machine: int
    sections: Sequence[Section]
    titles: Sequence[bytes]
    symbols: Sequence[Symbol]
    names: Sequence[bytes]

    def content(self, section: Section) -> bytes:
        """What a section holds."""
        return _content(self.image, section)

    def relocations(self) -> list[Section]:
        """The sections that say what refers to symbols."""
        return [section for section in self.sections if section.type == RELOCATIONS]


def merged(images: Iterable[bytes], aliases: Mapping[str, str]) -> bytes | None:
    """One object file that has all symbols of these; None where one has what isn't known here.

    Args:
        aliases: the symbols that define what is called by other names. Of several definitions of a symbol the first
            one counts.
    """
    try:
        return _written([_read(image) for image in images], {a.encode(): b.encode() for a, b in aliases.items()})
    except (UnknownError, struct.error, ValueError, IndexError, KeyError):
        return None


def _content(image: bytes, section: Section) -> bytes:
    return image[section.offset : section.offset + section.size]


def _read(image: bytes) -> Object:
    ident, kind, machine, *_, start, _, _, _, _, size, count, titles = FILE.unpack_from(image)
    if ident[: len(MAGIC)] != MAGIC or kind != RELOCATABLE or size != SECTION.size:
        raise UnknownError
    sections = [Section._make(header) for header in SECTION.iter_unpack(image[start : start + count * size])]
    (table,) = [section for section in sections if section.type == SYMBOLS]
    symbols = [Symbol._make(symbol) for symbol in SYMBOL.iter_unpack(_content(image, table))]
    texts, words = _content(image, sections[titles]), _content(image, sections[table.link])
    names = [_text(words, symbol.name) for symbol in symbols]
    return Object(image, machine, sections, [_text(texts, section.name) for section in sections], symbols, names)


def _text(strings: bytes, at: int) -> bytes:
    return strings[at : strings.index(b"\0", at)]


class _Strings:
    """A table of strings."""

    def __init__(self) -> None:
        self.content = bytearray(b"\0")
        self._known: dict[bytes, int] = {b"": 0}

    def at(self, text: bytes) -> int:
        """Where a string is."""
        if text not in self._known:
            self._known[text] = len(self.content)
            self.content += text + b"\0"
        return self._known[text]


class _Output:
    """The file that is being written: its content and the headers of its sections."""

    def __init__(self) -> None:
        self.content = bytearray(FILE.size)
        self.headers = [Section()]
        self.titles = _Strings()

    def add(self, title: bytes, header: Section, content: bytes) -> int:
        """Add a section; its number."""
        self.content += bytes(-len(self.content) % max(ALIGN, header.align))
        header = header._replace(name=self.titles.at(title), offset=len(self.content), size=len(content))
        self.content += content
        self.headers.append(header)
        if len(self.headers) >= SPECIAL:
            raise UnknownError
        return len(self.headers) - 1

    def finished(self, machine: int) -> bytes:
        """The file, after its last section, whose content are the titles."""
        self.add(b".shstrtab", Section(type=STRINGS, align=1), b"")
        self.headers[-1] = self.headers[-1]._replace(size=len(self.titles.content))
        self.content += self.titles.content
        start, count = len(self.content), len(self.headers)
        self.content += b"".join([SECTION.pack(*header) for header in self.headers])
        ident, sizes = MAGIC.ljust(16, b"\0"), (FILE.size, 0, 0, SECTION.size, count, count - 1)
        FILE.pack_into(self.content, 0, ident, RELOCATABLE, machine, VERSION, 0, 0, start, 0, *sizes)
        return bytes(self.content)


def _written(objects: Sequence[Object], aliases: Mapping[bytes, bytes]) -> bytes:
    (machine,) = {found.machine for found in objects}
    output, strings = _Output(), _Strings()
    places = [_taken(found, output) for found in objects]
    symbols, local, numbers = _joined(objects, places, aliases, strings)
    table = len(output.headers) + sum([len(found.relocations()) for found in objects])
    for found, place, number in zip(objects, places, numbers, strict=True):
        new = np.array(number, np.uint32)
        for header in found.relocations():
            relocations = np.frombuffer(found.content(header), RELOCATION).copy()
            relocations["symbol"] = new[relocations["symbol"]]
            output.add(b".rela", header._replace(link=table, info=place[header.info]), relocations.tobytes())
    packed = b"".join([SYMBOL.pack(*symbol) for symbol in symbols])
    output.add(b".symtab", Section(type=SYMBOLS, link=table + 1, info=local, align=ALIGN, entry=SYMBOL.size), packed)
    output.add(b".strtab", Section(type=STRINGS, align=1), bytes(strings.content))
    return output.finished(machine)


def _taken(found: Object, output: _Output) -> dict[int, int]:
    """Take over what a file has in memory; the new number of each of these sections."""
    place = {UNDEFINED: UNDEFINED}
    for k, header in enumerate(found.sections):
        if header.flags & ALLOCATED:
            if header.type != PROGRAM or header.flags & ~KNOWN:
                raise UnknownError
            place[k] = output.add(found.titles[k], header, found.content(header))
        elif header.type not in PASSED_OVER:
            raise UnknownError
    return place


def _joined(
    objects: Sequence[Object], places: Sequence[Mapping[int, int]], aliases: Mapping[bytes, bytes], strings: _Strings
) -> tuple[list[Symbol], int, list[list[int]]]:
    """All symbols, how many of them others don't see, and for each file the new numbers of its own."""

    def moved(name: bytes, symbol: Symbol, place: Mapping[int, int]) -> Symbol:
        return symbol._replace(name=strings.at(name), section=place[symbol.section])

    symbols, numbers = [Symbol()], []
    seen: dict[bytes, tuple[Symbol, Mapping[int, int]]] = {}  # what defines a name, or else refers to it
    for found, place in zip(objects, places, strict=True):
        number = [0] * len(found.symbols)
        for k, (name, symbol) in enumerate(zip(found.names, found.symbols, strict=True)):
            if symbol.info >> 4 != LOCAL:
                known = seen.get(name)
                if known is None or (symbol.section and not known[0].section):
                    seen[name] = symbol, place
            elif k and symbol.info & 15 != OF_FILE:
                number[k] = len(symbols)
                symbols.append(moved(name, symbol, place))
        numbers.append(number)
    local = len(symbols)
    new: dict[bytes, int] = {}
    for name, (symbol, place) in seen.items():
        if aliases.get(name) not in seen:
            new[name] = len(symbols)
            symbols.append(moved(name, symbol, place))
    for found, number in zip(objects, numbers, strict=True):
        for k, (name, symbol) in enumerate(zip(found.names, found.symbols, strict=True)):
            if symbol.info >> 4 != LOCAL:
                number[k] = new[name] if name in new else new[aliases[name]]
    return symbols, local, numbers
