"""What a thread's eager calls depend on besides their operands: is a tape kept, is this training; and the draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import wraps
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from graphc import philox
from graphc.errors import ArgumentError
from graphc.ir import Node
from graphc.op import Array

KNOWN: dict[bool, dict[Any, Any]] = {True: {}, False: {}}  # compiled calls, by whether they are for training


class _Modes(threading.local):
    """The modes of a thread."""

    grad = True  # calls are put on the tape
    known = KNOWN[True]

    @property
    def training(self) -> bool:
        """What `by_mode` chooses, and whether statistics are kept."""
        return self.known is KNOWN[True]

    @training.setter
    def training(self, training: bool) -> None:
        self.known = KNOWN[training]


modes = _Modes()


class _Set:
    """Sets a mode at once; as a context manager, until the end of the block; as a decorator, for each call."""

    _mode = ""

    def __init__(self, value: bool = True) -> None:
        self._before = getattr(modes, self._mode)
        self._value = bool(value)
        setattr(modes, self._mode, self._value)

    def __enter__(self) -> None:
        setattr(modes, self._mode, self._value)

    def __exit__(self, *exc: object) -> None:
        setattr(modes, self._mode, self._before)

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` with the mode for each call of it, and for nothing else."""
        setattr(modes, self._mode, self._before)

        @wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            with type(self)(self._value):
                return fn(*args, **kwargs)

        return called


class set_grad_enabled(_Set):
    """`set_grad_enabled(False)` keeps no tape from now on, in a `with` block, or in what it decorates.

    It is a mode of the thread.
    """

    _mode = "grad"


class set_training(_Set):
    """`set_training(False)` evaluates from now on, or in a `with` block; training is the default.

    It is what `gc.by_mode`, dropout and batch norm follow: torch's `module.train()` and `eval()`, for all modules.
    """

    _mode = "training"


class _Block(ContextDecorator):
    """Sets the grad mode for a `with` block, or for each call of the function that it decorates."""

    _value: bool

    def __new__(cls, fn: Callable[..., Any] | None = None) -> Any:
        """The block; or `fn`, decorated: `@no_grad` without parentheses is the same as with them."""
        return super().__new__(cls) if fn is None else cls()(fn)

    def __enter__(self) -> None:
        self._before = modes.grad
        modes.grad = self._value

    def __exit__(self, *exc: object) -> None:
        modes.grad = self._before

    def _recreate_cm(self) -> Self:
        return type(self)()  # a decorated function may call itself


class no_grad(_Block):
    """`with no_grad():` keeps no tape; also a decorator."""

    _value = False


class enable_grad(_Block):
    """`with enable_grad():` keeps a tape, inside `no_grad` too; also a decorator."""

    _value = True


def is_grad_enabled() -> bool:
    """Whether this thread's calls are put on the tape."""
    return modes.grad


# --------------------------------------------------------------------------------------------- randomness

STREAM = philox.stream_key("eager")


class Generator:
    """Where eager draws come from: one stream, in which every draw has the next number.

    A random leaf has the one value that was drawn for it, however often it is used.

    Attributes:
        count: of the draws since the seed was set.
    """

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begin anew."""
        self._seed, self.count = seed, 0
        self._drawn: WeakKeyDictionary[Node, Array] = WeakKeyDictionary()

    def drawn(self, leaf: Node) -> Array:
        """The value of a random leaf."""
        found = self._drawn.get(leaf)
        if found is None:
            found = self._drawn[leaf] = self.draw(leaf)
        return found

    def draw(self, leaf: Node) -> Array:
        """A new draw from the distribution of a random leaf."""
        assert leaf.op.ref is not None
        with self._lock:
            count = self.count
            self.count += 1
        return np.asarray(leaf.op.ref((self._seed, STREAM, count), **leaf.attrs))


generator = Generator()


def manual_seed(seed: int) -> None:
    """Draw the same from now on as after any other call with this seed, an int in [0, 2**64)."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed must be an int in [0, 2**64), got {seed!r}")
    generator.seed(int(seed))
