"""Where in the user's own code a node was made.

A site is a code object and an instruction offset: capturing it costs a fraction of a microsecond, and everything a
message shows (file, line, text, the name assigned to) is worked out only when somebody asks.
"""

from __future__ import annotations

import dis
import linecache
import os
import sys
from dataclasses import dataclass
from textwrap import shorten
from types import CodeType, FrameType, TracebackType

_internal: dict[object, bool] = {}  # are a module's frames never the user's line? by name: hashing code reads all of it

STORES = frozenset({"STORE_NAME", "STORE_FAST", "STORE_GLOBAL", "STORE_DEREF"})  # what assigns a name
MAX_TEXT = 120  # characters of a source line that a message shows

# Packages whose frames are never the user's line: graphc, and what may stand between it and the user.
PACKAGES = frozenset({"graphc", "numpy", "functools", "copy"})


def user_site(depth: int = 1) -> tuple[CodeType | None, int]:
    """Code object and instruction offset of the nearest frame outside graphc, starting `depth` frames up."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        module = frame.f_globals.get("__name__")
        internal = _internal.get(module)
        if internal is None:
            internal = _internal[module] = _is_internal(frame)
        if not internal:
            return frame.f_code, frame.f_lasti
        frame = frame.f_back
    return None, 0


def _is_internal(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in PACKAGES or frame.f_code.co_filename.startswith("<frozen")


def called() -> str:
    """The function of graphc that the user's line called: `sum`, `getitem`; empty for classes and their methods."""
    frame: FrameType | None = sys._getframe(1)
    outermost = ""
    while frame is not None and _is_internal(frame):
        name = frame.f_code.co_qualname
        room = str(frame.f_globals.get("__name__"))
        inside = room == "graphc.errors" or room.startswith("graphc.eager")  # wrappers, and how eager tensors call ops
        if not inside and "<" not in name and not name.startswith("Operators."):  # no lambda or operator
            outermost = name
        frame = frame.f_back
    return "" if "." in outermost else outermost


def passes_user_code(traceback: TracebackType | None) -> bool:
    """Whether an exception came through a frame that belongs neither to graphc nor to Python's own library."""
    while traceback is not None:
        root = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if not _is_internal(traceback.tb_frame) and root not in sys.stdlib_module_names:
            return True
        traceback = traceback.tb_next
    return False


@dataclass(frozen=True)
class Site:
    """One place in the user's source: `str` gives `model.py:31   logits = hidden @ weights`."""

    file: str
    line: int
    text: str

    @classmethod
    def of(cls, code: CodeType, offset: int) -> Site:
        """The place of an instruction: the byte `offset` into `code`."""
        line = next((p[0] for i, p in enumerate(code.co_positions()) if 2 * i == offset), None)
        line = line or code.co_firstlineno
        return cls(code.co_filename, line, linecache.getline(code.co_filename, line).strip())

    @property
    def short(self) -> str:
        """`model.py:31`"""
        return f"{os.path.basename(self.file)}:{self.line}"

    def __str__(self) -> str:
        return f"{self.short}   {shorten(self.text, MAX_TEXT, placeholder=' ...')}" if self.text else self.short


def here() -> str:
    """The user's current line, ready for a message; empty when no user frame is on the stack."""
    code, offset = user_site(2)
    return "" if code is None else str(Site.of(code, offset))


def assigned_name(code: CodeType | None, offset: int) -> str | None:
    """The name that the call at `offset` is about to be assigned to (`x = gc.placeholder(...)` gives `"x"`)."""
    if code is None:
        return None
    following = (i for i in dis.get_instructions(code) if i.offset > offset)
    instruction = next((i for i in following if i.opname not in ("CACHE", "NOP")), None)
    if instruction is not None and instruction.opname in STORES:
        name = instruction.argval
        return name if isinstance(name, str) else None
    return None


def name_in_caller(value: object) -> tuple[str, list[Site]]:
    """The one name that the nearest user frame has for `value`, and where it assigns it; or an empty name.

    For messages about a name that was rebound.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_internal(frame):
        frame = frame.f_back
    if frame is None:
        return "", []
    code = frame.f_code
    names = [name for name, known in frame.f_locals.items() if known is value]
    name = names[0] if len(names) == 1 else ""
    stores = (i for i in dis.get_instructions(code) if i.opname in STORES and i.argval == name)
    return name, [Site.of(code, i.offset) for i in stores]
