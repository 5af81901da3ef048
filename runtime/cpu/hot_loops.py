"""The loops of kernels that call functions, apart from what is around them, which LLVM compiles fast as it stands.

A phase that calls functions of a library, or of its kernel, is *glue*, but for its loops without calls: it runs once
where they run thousands of times. So these loops become functions, and what is left needs no optimisation, which takes
LLVM three quarters of its time. Loops and functions of kernels are named by their text: kernels share those that are
the same.

The assembly of a kernel has all, as one module; `parts` takes it apart.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from graphc.runtime.cpu.builder import ATTRIBUTES, METADATA, Function, Module, Span

PREFIX = "loop."  # of the names of loops
GLUE = "attributes #1 = { nounwind noinline optnone }"  # in modules that are compiled as they stand

NAME = re.compile(r"%([\w.]+)")
NAMES = re.compile(r"([%\n])([\w.]+)")  # with the labels of blocks, as no other line begins so
VALUE = re.compile(r"^  %([\w.]+) =", re.MULTILINE)
LABEL = re.compile(r"b\d+|entry")
GLOBAL = re.compile(r"@(?!llvm\.)")
GLOBALS = re.compile(r"(@[\w.]+)")  # names of functions and tables
CALL = re.compile(r"\bcall [^\n@(]*(?:@(?!llvm\.)|%)")
INTRINSIC = re.compile(r"@(llvm\.[\w.]+)\(")
DECLARED = re.compile(r"declare [^@]*@([\w.]+)\(.*")
PARAMETER = re.compile(r" %[\w.]+")
LOOP, END = f"define void @{PREFIX}", "\n}\n"  # how loops begin and end


class Loop(NamedTuple):
    """A loop as a function, or a function that kernels have.

    Attributes:
        call: how it is called where it was.
    """

    name: str
    text: str
    call: str = ""


class _Apart(NamedTuple):
    """The lines of a function without some of its loops, and those."""

    lines: list[str]
    loops: list[Loop]


def kernel_text(module: Module) -> str:
    """A kernel's module as LLVM assembly, its loops apart if it calls functions of its own or of a library."""
    called = [name for name in module.declared if not name.startswith("llvm.")]
    of_c = any("." not in name for name in called)  # those do little: what is around them matters
    if of_c or not (called or any(function.internal for function in module.functions)):
        return module.text()
    found = {function: _own(function) if function.internal else _taken_apart(function) for function in module.functions}
    if None in found.values():
        return module.text()
    shared = {function: loop for function, loop in found.items() if isinstance(loop, Loop)}
    glue, loops = module.tables, [*shared.values()]
    for function, apart in found.items():
        if isinstance(apart, _Apart):
            glue.append(function.text(apart.lines, "#1"))
            loops += apart.loops
    text = "\n".join(glue)
    text = renamed(text, {function.name: loop.name for function, loop in shared.items()})
    texts = {loop.name: loop.text for loop in loops}.values()
    return "\n".join([*module.declared.values(), text, *texts, ATTRIBUTES, GLUE, METADATA, ""])


def renamed(assembly: str, names: Mapping[str, str]) -> str:
    """Assembly in which functions and tables have other names."""
    if not names:
        return assembly
    new = {f"@{name}": f"@{other}" for name, other in names.items()}
    pieces = GLOBALS.split(assembly)
    pieces[1::2] = [new.get(name, name) for name in pieces[1::2]]
    return "".join(pieces)


def _own(function: Function) -> Loop | None:
    """A function of the module as one that others may share; None if it needs the module, or is called for a value."""
    body = function.text().partition("(")[2]
    if function.result != "void" or GLOBAL.search(body):
        return None
    name = _name(body)
    return Loop(name, f"define void @{name}({body}")


def _name(text: str) -> str:
    """The name of a function of this text."""
    return f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _taken_apart(function: Function) -> _Apart | None:
    """A function and its loops that call nothing; None if one has to stay."""
    lines = list(function.lines)
    calling = [number for number, line in enumerate(lines) if "call " in line and CALL.search(line)]
    free: list[Span] = []
    for span in function.spans:  # the outer ones come last
        if bisect_left(calling, span.first) == bisect_left(calling, span.last):
            free = [inner for inner in free if not span.first <= inner.first < span.last]
            free.append(span)
    loops = []
    uses = Counter(NAME.findall("\n".join(lines))) if free else Counter()
    for span in sorted(free, reverse=True):
        loop = _loop(function, lines, span, uses)
        if loop is None:
            return None
        after = lines[span.last].removesuffix(":")
        lines[span.first + 1 : span.last] = [f"  {loop.call}", f"  br label %{after}"]
        loops.append(loop)
    return _Apart(lines, loops[::-1])


def _loop(function: Function, lines: Sequence[str], span: Span, uses: Mapping[str, int]) -> Loop | None:
    """A loop as a function; None where that would need more than what it takes from before it.

    Args:
        uses: how often each name is in the function.
    """
    after = lines[span.last].removesuffix(":")
    body = "\n".join(lines[span.first : span.last])
    own, inside = set(VALUE.findall(body)), Counter(NAME.findall(body))
    if span.carries or GLOBAL.search(body) or any(inside[name] < uses[name] for name in own):
        return None
    used = [name for name in inside if name not in own]
    taken = [name for name in used if not LABEL.fullmatch(name)]
    labels = {line.removesuffix(":") for line in body.split("\n") if line.endswith(":")}
    before = next(name for name in used if LABEL.fullmatch(name) and name not in labels and name != after)
    typed = [(function.types[f"%{name}"], name) for name in taken]
    parameters = ", ".join([f"{type} %{name}" for type, name in typed])
    first = lines[span.first].removesuffix(":")
    text = f"({parameters}) #0 {{\n{before}:\n  br label %{first}\n{body}\n{after}:\n  ret void\n}}"
    pieces, new = NAMES.split(text), {before: "entry"}
    for name in pieces[2::3]:
        if name not in new:
            new[name] = f"x{len(new)}"
    pieces[2::3] = [new[name] for name in pieces[2::3]]
    text = "".join(pieces)
    name = _name(text)
    return Loop(name, f"define void @{name}{text}", f"call void @{name}({parameters})")


# ------------------------------------------------------------------------------------------------ modules


def parts(assembly: str) -> tuple[str, Mapping[str, str]]:
    """A kernel without its loops, and the modules of these, by name; all of it where none are apart."""
    if GLUE not in assembly:
        return assembly, {}
    glue, *texts = assembly.split(LOOP)
    declared = {found[1]: found[0] for found in map(DECLARED.match, glue.split("\n")) if found}
    loops: dict[str, str] = {}
    calls = []
    for text in texts:
        body, end, rest = text.partition(END)
        name, _, parameters = body.partition(") #0 {")[0].partition("(")
        needed = [declared[each] for each in dict.fromkeys(INTRINSIC.findall(body))]
        loops[PREFIX + name] = "\n".join([*needed, f"{LOOP}{body}{end}{ATTRIBUTES}", METADATA, ""])
        calls.append(f"declare void @{PREFIX}{name}({PARAMETER.sub('', parameters)})")
        glue += rest
    return "\n".join([*calls, glue.replace(f"{ATTRIBUTES}\n", "", 1)]), loops


def is_glue(module: str) -> bool:
    """Whether a module, or what `parts` leaves of one, is to be compiled as it stands."""
    return GLUE in module and ATTRIBUTES not in module


def names(assembly: str) -> Iterable[str]:
    """The loops that are compiled apart from a kernel."""
    texts = assembly.split(LOOP)[1:] if GLUE in assembly else ()
    return [PREFIX + text.partition("(")[0] for text in texts]
