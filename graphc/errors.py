"""What graphc says when something is wrong: one exception family and one renderer.

Every message states what happened, what was got and what was expected, the user's own line, and a remedy; internal
frames never carry information that the message lacks. Whoever raises writes the plain sentence: the line that the user
is on, and the function that it called, are found here. Where another line is at fault (of a node that fails in a run,
of operands that don't fit), the place that knows it adds it with `at`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, TypeVar, cast

from graphc.source import called, here, passes_user_code

MAX_LINES = 14  # a message longer than this is no longer read
MAX_VALUE = 40  # characters of a value that a message shows

F = TypeVar("F", bound=Callable[..., Any])


class GraphcError(Exception):
    """Root of every error that graphc raises on purpose.

    Args:
        message: what is wrong, what was got, what was expected; one sentence, no trailing period needed.
        hint: the remedy, printed on a line of its own.
        lines: further lines (places in the user's source, one problem each), printed indented.
    """

    def __init__(self, message: str, *, hint: str | None = None, lines: Iterable[str] = ()) -> None:
        self.message = message
        self.hint = hint
        self.lines = tuple(lines)
        self.called, self.line = called(), here()
        super().__init__(message)

    def __reduce__(self) -> tuple[Callable[..., GraphcError], tuple[Any, ...]]:
        return _restored, (type(self), self.__dict__.copy())  # errors come back from worker processes

    def at(self, *lines: str) -> GraphcError:
        """Add the user's lines that this error concerns, unless some are known already; returns the error itself."""
        if not self.lines:
            self.lines = tuple(line for line in lines if line)
        return self

    def within(self, *lines: str) -> GraphcError:
        """Add what surrounds the place of this error, after its own lines; returns the error itself."""
        self.at(self.line)
        self.lines = (*self.lines, *(line for line in lines if line and line not in self.lines))
        return self

    def __str__(self) -> str:
        named = not self.called or self.called in self.message
        message = self.message if named else f"{self.called}: {self.message}"
        return render(message, self.lines, self.hint, self.line)


def _restored(cls: type[GraphcError], state: dict[str, Any]) -> GraphcError:
    error: GraphcError = BaseException.__new__(cls, state["message"])  # MemoryError.__new__ is for itself alone
    error.__dict__.update(state)
    return error


class ShapeError(GraphcError, ValueError):
    """Shapes that don't fit each other, or an axis that doesn't exist."""


class DTypeError(GraphcError, TypeError):
    """A data type that an operation can't take, or a cast that would lose values."""


class ArgumentError(GraphcError, ValueError):
    """A value that an argument can't have."""


class GraphError(GraphcError, ValueError):
    """Nodes of two graphs mixed, or a name that no graph knows."""


class GradientError(GraphcError, ValueError):
    """A gradient that was asked for and doesn't exist, with the place where the path was cut."""


class FeedError(GraphcError, ValueError):
    """Feeds that don't fit the graph; all problems of one run are told together."""


class FetchError(GraphcError, ValueError):
    """Something that can't be fetched."""


class StateError(GraphcError, ValueError):
    """Conflicting updates, or a checkpoint that doesn't fit the variables."""


class SessionError(GraphcError, RuntimeError):
    """A session used after `close()`, or from inside one of its own runs."""


class ResourceError(GraphcError, MemoryError):
    """A run that needs more memory than there is; it has changed nothing."""


class DeviceError(GraphcError, RuntimeError):
    """A device that can't be used: it isn't there, its software is missing or doesn't fit, or it was lost."""


class ExportError(GraphcError, ValueError):
    """What an exporter can't express; all of it is told at once."""


class GuardError(GraphcError, ValueError):
    """Sizes that the graph had to assume, and that the feeds contradict."""


class MissingExtra(GraphcError, ImportError):  # noqa: N818 - it is named by what is missing
    """An optional package that isn't installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f"pip install 'graphc[{extra}]'",
        )


class InternalError(GraphcError, AssertionError):
    """A broken invariant of graphc itself: please report it with the text of the message."""


# What an argument of a wrong kind leads to. NumPy before 2.4 warns of some, and warnings can be made to raise.
WRONG_ARGUMENT = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, DeprecationWarning)

# Keywords as other libraries call them, and how they may be called here.
KEYWORDS = {"dim": ("axis",), "dims": ("axis", "axes"), "axes": ("axis",), "keepdim": ("keepdims",)}

PUBLIC: set[Callable[..., Any]] = set()  # what `public` made


def _by_first_item(call: Callable[..., Any], fn: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> Any:
    """The call with a list or tuple first is taken by what takes its first item."""
    taker = TAKERS.get(args[0][0].__class__) if args[0] else None
    if taker is None or taker is _by_first_item:
        return fn(*args, **kwargs)
    return taker(call, fn, args, kwargs)


# What takes the calls of public functions by the class of their first argument, as `take(call, fn, args, kwargs)`.
TAKERS: dict[type, Callable[..., Any]] = {list: _by_first_item, tuple: _by_first_item}


@cache
def public(fn: F) -> F:
    """`fn`, which tells an argument of a wrong kind as an ArgumentError with the call, the user's line and the usage.

    Exceptions that rise in functions of the user's own stay what they are.
    """
    if fn in PUBLIC:
        return fn

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if args and args[0].__class__ in TAKERS:
                return TAKERS[args[0].__class__](call, fn, args, kwargs)
            return fn(*args, **kwargs)
        except WRONG_ARGUMENT as error:
            told = explained(error, fn, args, kwargs)
            if told is error:
                raise
            raise told from error

    PUBLIC.add(call)
    return cast(F, call)


def publish(room: dict[str, Any]) -> None:
    """Let the functions and classes that a module names in `__all__` tell arguments of a wrong kind, as `public`."""
    for name in room["__all__"]:
        value = room[name]
        if inspect.isfunction(value):
            room[name] = public(value)
        elif inspect.isclass(value) and not issubclass(value, BaseException):
            constructor = vars(value).get("__init__")
            if inspect.isfunction(constructor):
                value.__init__ = public(constructor)  # type: ignore[method-assign]


def explained(error: Exception, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception:
    """What a call of `fn` raises in the place of `error`: itself, or an ArgumentError if it rose in graphc's code."""
    if isinstance(error, GraphcError) or passes_user_code(error.__traceback__):
        return error
    name, method = fn.__name__, fn
    if inspect.isclass(fn):
        method = fn.__init__
    elif name == "__init__":
        name, args = type(args[0]).__name__, args[1:]
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(method).parameters.values()]
    usage = inspect.Signature(parameters[1:] if method.__name__ == "__init__" else parameters)
    given = [*map(_short, args), *(f"{key}={_short(value)}" for key, value in kwargs.items())]
    return ArgumentError(f"{name}({', '.join(given)}): {error}{_names_here(kwargs, usage)}", hint=f"{name}{usage}")


def _names_here(kwargs: Iterable[str], usage: inspect.Signature) -> str:
    """What the keywords of other libraries are called in this usage, or an empty string."""
    strange = [key for key in kwargs if key not in usage.parameters]
    names = [(key, name) for key in strange for name in KEYWORDS.get(key, ()) if name in usage.parameters]
    return "".join([f"; {key!r} is called {name!r} here" for key, name in names])


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 4]} ..."


def render(message: str, lines: Sequence[str], hint: str | None, line: str = "") -> str:
    """`message`, its indented `lines` (cut with a count past `MAX_LINES`), and the remedy.

    The user's current `line` comes last unless `lines` show it already; it is never cut.
    """
    if line and not any(line in shown for shown in lines):
        lines = (*lines, line)
    room = MAX_LINES - (2 if hint else 1)
    shown = list(lines)
    if len(lines) > room:
        kept = [text for text in lines if line and line in text][:1]
        others = [text for text in lines if text not in kept]
        count = room - 1 - len(kept)
        shown = [*kept, *others[:count], f"... and {len(others) - count} more"]
    tail = [f"  hint: {hint}"] if hint else []
    return "\n".join([message, *(f"  {text}" for text in shown), *tail])


def did_you_mean(word: object, known: Iterable[str], *, limit: int = 3) -> str:
    """`"; did you mean 'a' or 'b'?"`, or the empty string when nothing known is near `word`."""
    near = difflib.get_close_matches(word, list(known), n=limit, cutoff=0.6) if isinstance(word, str) else []
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
