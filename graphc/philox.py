"""Counter-based random numbers: every draw is a pure function of (seed, stream, counter, element).

The generator is Philox4x32-10 (J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011). It uses only 32-bit integer arithmetic, one block of four words at a time and no state, so
a target emits the same arithmetic element by element, in any order and on any number of threads, and gets the
same bits.

Words. Draw number `counter` of a stream is an endless row of 32-bit words; word i is word `i % 4` of
`Philox(counter words = (i//4 low, i//4 high, counter low, counter high), key = mix(seed, stream))`.

Elements. What an element of a draw makes of the words, which every target repeats:

| draw                         | words of element i | value                                                  |
|------------------------------|--------------------|--------------------------------------------------------|
| uniform, float32 or narrower | i                  | u = (w >> 8) · 2^-24                                   |
| uniform, float64             | 2i, 2i+1           | u = ((w1 · 2^32 + w0) >> 11) · 2^-53                   |
| bernoulli                    | i                  | the float32 uniform < p                                |
| integers                     | 2i, 2i+1           | low + high 64 bits of (w1 · 2^32 + w0) · (high - low)  |
| normal, float32 or narrower  | i and i ^ 1        | Box-Muller of the pair of elements, uniforms w · 2^-32 |
| normal, float64              | those of i, i ^ 1  | Box-Muller of the pair of elements, float64 uniforms   |

A scaled uniform is `min(low + u * (high - low), largest value below high)`: a rounded product, then a rounded
sum, never a fused multiply-add, in float32 (float64 for float64), of `low` and `high` rounded to the dtype.

Every draw takes `start`: the elements `start`, `start + 1`, ... alone, equal to that part of the whole draw.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes  # registers bfloat16 with NumPy
import numpy as np
import numpy.typing as npt

from graphc.errors import ArgumentError, DTypeError

Words = npt.NDArray[np.uint64]  # 32-bit words in 64-bit lanes, so that a product of two keeps its high half
Shape = tuple[int, ...]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as fractions of 2^32

_MASK32 = 0xFFFFFFFF
_LOW, _HALF = np.uint64(_MASK32), np.uint64(32)
_MASK64 = 0xFFFFFFFFFFFFFFFF
GOLDEN64 = 0x9E3779B97F4A7C15
_PART = 1 << 17  # elements of a large draw that are made at once
_THREADED = 4  # parts from which threads are worth starting
_CHUNK = 1 << 15  # blocks made at once: the working set of the rounds stays in the cache

_NARROW = tuple(map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32)))
_FLOATS = (*_NARROW, np.dtype(np.float64))


def stream_key(name: str) -> int:
    """The 64-bit key of the stream called `name`: BLAKE2b of its UTF-8 bytes, little endian."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def mix(a: int, b: int) -> int:
    """One well-mixed 64-bit key from two: `f(f(a + G) + b + G)`, all modulo 2^64.

    `f` is the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014) and G its golden-ratio
    increment. For a fixed `a` this is a bijection of `b` and the other way round, so two streams of one seed
    never share a key, nor do two seeds of one stream. It also derives further keys, such as that of one
    iteration of a loop: `mix(stream, iteration)`.
    """
    return _finalise(_finalise(a + GOLDEN64) + b + GOLDEN64)


def _finalise(z: int) -> int:
    z &= _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


class _Scratch(threading.local):
    """Each thread's memory for the rounds. Taken anew for each part of a draw, its pages would cost more than they."""

    words: Words = np.empty((3, 2, 0), np.uint64)

    def of(self, blocks: int) -> Words:
        """Memory for so many blocks; it lasts until it is asked for again."""
        if self.words.shape[-1] < blocks:
            self.words = np.empty((3, 2, blocks), np.uint64)
        return self.words[..., :blocks]


_scratch = _Scratch()


def philox4x32(
    counter: tuple[Words, Words, Words, Words], key: int, scratch: Words | None = None
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of blocks: four counter words that broadcast against each other, and four words out.

    All words are below 2^32; the low half of the 64-bit `key` is the first key word.

    Args:
        scratch: memory [3, 2, *shape of the blocks] to work in; what is returned lies there.
    """
    shape = np.broadcast_shapes(*[words.shape for words in counter])
    mixed, carried, product = np.empty((3, 2, *shape), np.uint64) if scratch is None else scratch
    mixed[0], carried[0], mixed[1], carried[1] = counter
    tall = (2, *[1] * len(shape))
    factors, steps = (np.array(pair, np.uint64).reshape(tall) for pair in (MULTIPLIERS, KEY_STEPS))
    keys = np.array(_halves(key), np.uint64).reshape(tall)
    crossed = product[::-1]
    for _ in range(ROUNDS):  # in place: memory for each operation would cost more than the operation
        np.multiply(mixed, factors, out=product)
        np.right_shift(crossed, _HALF, out=mixed)
        np.bitwise_xor(mixed, carried, out=mixed)
        np.bitwise_xor(mixed, keys, out=mixed)
        np.bitwise_and(crossed, _LOW, out=carried)
        keys = (keys + steps) & _LOW
    return mixed[0], carried[0], mixed[1], carried[1]


def bits32(seed: int, stream: int, counter: int, count: int, *, start: int = 0) -> npt.NDArray[np.uint32]:
    """`count` random words of draw `counter`, from word `start` on, as uint32[count].

    `seed`, `stream` and `counter` are ints from 0 to 2^64 - 1; anything else raises `ArgumentError`.
    """
    key = mix(_word64("seed", seed), _word64("stream", stream))
    draw = [np.full(1, half, np.uint64) for half in _halves(_word64("counter", counter))]
    first, last = _word64("start", start) // 4, -(-(start + _word64("count", count)) // 4)
    out = np.empty((last - first, 4), np.uint32)
    for at in range(first, last, _CHUNK):
        blocks = np.uint64(at) + np.arange(min(_CHUNK, last - at), dtype=np.uint64)
        numbers = _low(blocks), _high(blocks), draw[0], draw[1]
        for column, words in enumerate(philox4x32(numbers, key, _scratch.of(len(blocks)))):
            out[at - first : at - first + len(blocks), column] = words
    return out.reshape(-1)[start - 4 * first :][:count]


def bits64(seed: int, stream: int, counter: int, count: int, *, start: int = 0) -> npt.NDArray[np.uint64]:
    """`count` random uint64 values from element `start` on; element i is words 2i+1 (high half) and 2i."""
    pairs = bits32(seed, stream, counter, 2 * count, start=2 * start).astype(np.uint64).reshape(-1, 2)
    return pairs[:, 1] << np.uint64(32) | pairs[:, 0]


def uniform(
    seed: int,
    stream: int,
    counter: int,
    shape: Shape,
    dtype: npt.DTypeLike = np.float32,
    low: float = 0.0,
    high: float = 1.0,
    *,
    start: int = 0,
) -> npt.NDArray[Any]:
    """Uniform values in [low, high), of a float dtype.

    On [0, 1) float32 values are multiples of 2^-24 and float64 values multiples of 2^-53; float16 and
    bfloat16 are rounded from float32. `high` itself never appears: what rounds to it becomes the largest
    value below it.

    Raises:
        DTypeError: `dtype` is no float that draws are made in.
        ArgumentError: `low` and `high` are not finite with low < high once they are of the dtype.
    """
    kind = _float_dtype(dtype)
    wide = np.result_type(kind, np.float32).type
    with np.errstate(over="ignore"):
        bottom, top = wide(kind.type(low)), wide(kind.type(high))
        span = top - bottom
    if not (bottom < top and np.isfinite(span)):
        raise ArgumentError(f"uniform needs low < high, not infinitely apart in {kind}, got {low!r} and {high!r}")
    unit = _unit64 if wide is np.float64 else _unit32
    largest = np.nextafter(kind.type(high), kind.type(low))

    def part(first: int, count: int) -> npt.NDArray[Any]:
        values = unit(seed, stream, counter, count, first)
        values *= span
        values += bottom
        narrow: npt.NDArray[Any] = values.astype(kind, copy=False)
        np.minimum(narrow, largest, out=narrow)
        return narrow

    return _in_parts(part, start, shape, kind)


def normal(
    seed: int,
    stream: int,
    counter: int,
    shape: Shape,
    dtype: npt.DTypeLike = np.float32,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    start: int = 0,
) -> npt.NDArray[Any]:
    """Normal values `mean + std * z`, of a float dtype.

    z is Box-Muller's (G. Box, M. Muller, 1958) in float64: elements 2j and 2j+1 are `r cos t` and `r sin t`
    with `r = sqrt(-2 log(1 - u))` and `t = 2 pi v`, where u and v are the uniforms of the two elements. The
    sum is made in float64 too and rounded once to the dtype. With 32-bit uniforms |z| is at most 6.66, with
    53-bit ones 8.57.

    Raises:
        DTypeError: `dtype` is no float that draws are made in.
        ArgumentError: `std` is negative, or a parameter is not finite.
    """
    kind = _float_dtype(dtype)
    if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
        raise ArgumentError(f"normal needs a finite mean and a finite std >= 0, got {mean!r} and {std!r}")

    def part(start: int, count: int) -> npt.NDArray[Any]:
        skipped = start % 2
        pairs = (count + skipped + 1) // 2
        first = start - skipped
        if kind in _NARROW:
            units = bits32(seed, stream, counter, 2 * pairs, start=first) * np.float64(2.0**-32)
        else:
            units = _unit64(seed, stream, counter, 2 * pairs, first)
        radius, angle = np.sqrt(-2.0 * np.log(1.0 - units[0::2])), (2.0 * np.pi) * units[1::2]
        z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[skipped:][:count]
        found: npt.NDArray[Any] = (mean + std * z).astype(kind)
        return found

    return _in_parts(part, start, shape, kind)


def _in_parts(
    make: Callable[[int, int], npt.NDArray[Any]], start: int, shape: Shape, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """What `make(first, count)` gives for elements in parts that stay in the cache, large draws on several threads."""
    count = math.prod(shape)
    if count <= _PART:
        return make(start, count).reshape(shape)
    found = np.empty(shape, dtype)
    flat = found.reshape(-1)

    def fill(at: int) -> None:
        size = min(_PART, count - at)
        flat[at : at + size] = make(start + at, size)

    parts = range(0, count, _PART)
    if len(parts) < _THREADED:
        deque(map(fill, parts), maxlen=0)
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            deque(threads.map(fill, parts), maxlen=0)
    return found


def bernoulli(
    seed: int, stream: int, counter: int, shape: Shape, p: npt.ArrayLike, *, start: int = 0
) -> npt.NDArray[np.bool_]:
    """Bools that are true with probability `p`, a number or an array that broadcasts to `shape`.

    Element by element `u < p`, where u is the float32 uniform of the same draw and p is taken in float64, so
    that the comparison is exact: p = 0 is never true, p = 1 always.

    Raises:
        ArgumentError: a probability is outside [0, 1] or nan.
    """
    chance = np.asarray(p, np.float64)
    if not np.all((chance >= 0) & (chance <= 1)):
        raise ArgumentError(f"bernoulli needs probabilities within [0, 1], got {p!r}")
    units = _unit32(seed, stream, counter, math.prod(shape), start).reshape(shape)
    return np.asarray(units < chance)


def integers(
    seed: int,
    stream: int,
    counter: int,
    shape: Shape,
    low: int,
    high: int,
    dtype: npt.DTypeLike = np.int64,
    *,
    start: int = 0,
) -> npt.NDArray[Any]:
    """Integers in [low, high), of an integer dtype.

    A 64-bit word is multiplied by `high - low` and the high 64 bits are kept. The chance of a value differs
    from 1 / (high - low) by less than 2^-64: relative to that chance, by less than 2^-32 for ranges up to
    2^32.

    Raises:
        DTypeError: `dtype` is no integer dtype.
        ArgumentError: the range is empty, or doesn't fit the dtype.
    """
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise DTypeError(f"integers are drawn in an integer dtype, got {kind}")
    low, high = operator.index(low), operator.index(high)
    limits = np.iinfo(kind)
    if not limits.min <= low < high <= int(limits.max) + 1:
        raise ArgumentError(
            f"integers needs low < high within {kind} ({limits.min} to {limits.max}), got {low} and {high}"
        )
    words = bits64(seed, stream, counter, math.prod(shape), start=start)
    size = high - low
    offset = words if size == 1 << 64 else _multiply_high(words, size)
    return (offset + np.uint64(low & _MASK64)).astype(kind).reshape(shape)


def permutation(seed: int, stream: int, counter: int, count: int) -> npt.NDArray[np.int64]:
    """The numbers 0 to count - 1 in a random order: those that stably sort the draw's 64-bit words."""
    return np.argsort(bits64(seed, stream, counter, count), kind="stable").astype(np.int64, copy=False)


def _unit32(seed: int, stream: int, counter: int, count: int, start: int) -> npt.NDArray[np.float32]:
    words = bits32(seed, stream, counter, count, start=start)
    words >>= np.uint32(8)
    units = words.astype(np.float32)
    units *= np.float32(2.0**-24)
    return units


def _unit64(seed: int, stream: int, counter: int, count: int, start: int) -> npt.NDArray[np.float64]:
    words = bits64(seed, stream, counter, count, start=start)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _multiply_high(words: Words, factor: int) -> Words:
    """The high 64 bits of the 128-bit products of 64-bit `words` and a 64-bit `factor`, by halves."""
    f0, f1 = (np.uint64(half) for half in _halves(factor))
    w0, w1 = _low(words), _high(words)
    middle = w1 * f0 + _high(w0 * f0)
    return w1 * f1 + _high(middle) + _high(w0 * f1 + _low(middle))


def _low(words: Words) -> Words:
    return words & np.uint64(_MASK32)


def _high(words: Words) -> Words:
    return words >> np.uint64(32)


def _halves(word: int) -> tuple[int, int]:
    return word & _MASK32, word >> 32


def _word64(what: str, value: int) -> int:
    number = operator.index(value)
    if not 0 <= number <= _MASK64:
        raise ArgumentError(f"{what} of a random draw must be an int from 0 to 2**64 - 1, got {number}")
    return number


def _float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind not in _FLOATS:
        raise DTypeError(f"random values are drawn in {', '.join(map(str, _FLOATS))}, got {kind}")
    return kind
