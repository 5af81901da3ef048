"""Winograd's transforms for convolutions of 3x3 taps and stride 1: 36 products for 16 results, not 144.

The results fall into tiles of 4x4. With y = A^T [(G w G^T) * (B^T d B)] A, where d are the 6x6 elements of the source
that a tile meets, * works place by place, so that sums over the channels become 36 products of matrices, one for each
place. The polynomials are interpolated at 0, 3/4, -3/4, 3/2, -3/2 and infinity, which rounds five times less than the
usual points 0, 1, -1, 2, -2. Tiles of 2x2, at 0, 1, -1 and infinity, take 16 products for 4 results, not 36, and less
than half the memory for transformed taps; those of 4x2 take 24 products for 8, and two thirds of the memory.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; points as in B. Barabasz,
A. Anderson, K. Soodhalter and D. Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep
neural networks", ACM TOMS 46 (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from graphc.runtime.cpu.affine import bytes_of
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.values import Int, Value, constant, lanes_of

SIDE = 6  # of the part of the source that a tile meets
PLACES = SIDE * SIDE
RESULTS = 4  # the side of a tile
TAPS = 3

NEAR, FAR = 0.75, 1.5  # the points, each with both signs
_NEAR2, _FAR2 = NEAR**2, FAR**2


class Lines:
    """The one-dimensional transforms, of vectors."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def _fma(self, factor: float, a: Value, b: Value) -> Value:
        return self.f.fma(constant(a.type, factor), a, b)

    def _times(self, factor: float, a: Value) -> Value:
        return self.f.binary("fmul", constant(a.type, factor), a)

    def source(self, d: Sequence[Value]) -> list[Value]:
        """B^T d: the values at the points of the products of all other points' (x - point)."""
        found = [self._fma(_NEAR2 * _FAR2, d[0], self._fma(-_NEAR2 - _FAR2, d[2], d[4]))]
        for point, other in ((NEAR, _FAR2), (FAR, _NEAR2)):
            even, odd = self._fma(-other, d[2], d[4]), self._fma(-other, d[1], d[3])
            found += [self._fma(point, odd, even), self._fma(-point, odd, even)]
        return [*found, self._fma(_NEAR2 * _FAR2, d[1], self._fma(-_NEAR2 - _FAR2, d[3], d[5]))]

    def taps(self, w: Sequence[Value]) -> list[Value]:
        """G w: the values at the points of w[0] + w[1] x + w[2] x^2, divided by the products of their distances."""
        found = [self._times(1 / (_NEAR2 * _FAR2), w[0])]
        for point, square, other in ((NEAR, _NEAR2, _FAR2), (FAR, _FAR2, _NEAR2)):
            scale = 1 / (2 * square * (square - other))
            even = self._times(scale, self._fma(square, w[2], w[0]))
            found += [self._fma(point * scale, w[1], even), self._fma(-point * scale, w[1], even)]
        return [*found, w[2]]

    def results(self, m: Sequence[Value]) -> list[Value]:
        """A^T m: the sums of m[point] point^k for k = 0, 1, 2, 3; infinity counts in the last."""
        f = self.f
        near, far = (f.binary("fadd", m[k], m[k + 1]) for k in (1, 3))
        near_odd, far_odd = (f.binary("fsub", m[k], m[k + 1]) for k in (1, 3))
        return [
            f.binary("fadd", m[0], f.binary("fadd", near, far)),
            self._fma(FAR, far_odd, self._times(NEAR, near_odd)),
            self._fma(_FAR2, far, self._times(_NEAR2, near)),
            self._fma(FAR**3, far_odd, self._fma(NEAR**3, near_odd, m[5])),
        ]

    def gradients(self, g: Sequence[Value]) -> list[Value]:
        """A g, the transpose of `results`."""
        f = self.f
        found = [g[0]]
        for point in (NEAR, FAR):
            even = self._fma(point**2, g[2], g[0])
            odd = self._fma(point**3, g[3], self._times(point, g[1]))
            found += [f.binary("fadd", even, odd), f.binary("fsub", even, odd)]
        return [*found, g[3]]

    def tap_gradients(self, m: Sequence[Value]) -> list[Value]:
        """G^T m, the transpose of `taps`."""
        f = self.f
        first, second, third = self._times(1 / (_NEAR2 * _FAR2), m[0]), None, m[5]
        for k, (point, square, other) in ((1, (NEAR, _NEAR2, _FAR2)), (3, (FAR, _FAR2, _NEAR2))):
            scale = 1 / (2 * square * (square - other))
            even, odd = f.binary("fadd", m[k], m[k + 1]), f.binary("fsub", m[k], m[k + 1])
            first = self._fma(scale, even, first)
            second = self._times(point * scale, odd) if second is None else self._fma(point * scale, odd, second)
            third = self._fma(square * scale, even, third)
        assert second is not None
        return [first, second, third]


class ShortLines:
    """Those of tiles of 2x2."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def source(self, d: Sequence[Value]) -> list[Value]:
        """B^T d."""
        f = self.f
        pairs = (("fsub", 0, 2), ("fadd", 1, 2), ("fsub", 2, 1), ("fsub", 1, 3))
        return [f.binary(op, d[a], d[b]) for op, a, b in pairs]

    def taps(self, w: Sequence[Value]) -> list[Value]:
        """G w."""
        f = self.f
        half = constant(w[0].type, 0.5)
        even = f.binary("fmul", half, f.binary("fadd", w[0], w[2]))
        return [w[0], f.fma(half, w[1], even), f.fma(constant(half.type, -0.5), w[1], even), w[2]]

    def results(self, m: Sequence[Value]) -> list[Value]:
        """A^T m."""
        f = self.f
        even, odd = (f.binary(op, m[1], m[2]) for op in ("fadd", "fsub"))
        return [f.binary("fadd", m[0], even), f.binary("fsub", odd, m[3])]


class Forward(Protocol):
    """What computes a convolution: the one-dimensional transforms of source, taps and products."""

    def source(self, d: Sequence[Value]) -> list[Value]:
        """B^T d, of a line of the tile's source."""
        ...

    def taps(self, w: Sequence[Value]) -> list[Value]:
        """G w, of a line of the filter: as many values as `source` gives."""
        ...

    def results(self, m: Sequence[Value]) -> list[Value]:
        """A^T m, of a line of the products of both: the results along a side."""
        ...


class Side(NamedTuple):
    """Of tiles, along one axis: the results, and the transforms."""

    results: int
    lines: Callable[[Function], Forward]

    @property
    def met(self) -> int:
        """Elements of the source that a tile meets."""
        return self.results + TAPS - 1


class Transform(NamedTuple):
    """A size of tiles."""

    down: Side
    across: Side

    @property
    def places(self) -> int:
        """Products of a tile."""
        return self.down.met * self.across.met

    @property
    def name(self) -> str:
        """How many results a tile has, down and across."""
        return f"{self.down.results}x{self.across.results}"


_LONG, _SHORT = Side(RESULTS, Lines), Side(2, ShortLines)
FOUR, MIXED, TWO = TRANSFORMS = Transform(_LONG, _LONG), Transform(_LONG, _SHORT), Transform(_SHORT, _SHORT)


class Pass(NamedTuple):
    """A multiplication by T: `line` computes T x, of so many values so many."""

    line: Callable[[Sequence[Value]], list[Value]]
    given: int
    made: int


def two_passes(
    f: Function,
    type: str,
    rows: Pass,
    columns: Pass,
    load: Callable[[Value], Sequence[Value]],
    store: Callable[[Value, Sequence[Value]], None],
) -> None:
    """Emit S X T^T, where `rows` computes T x for the rows of X, and `columns` S y for the columns of what comes out.

    Loops keep the code small; what lies between the passes would not fit the registers anyway.

    Args:
        load: the values of a row of X.
        store: takes the values of a column of the result.
    """
    between, align = f.stack(type, columns.given * rows.made), bytes_of(type)

    def row(i: Value, _: list[Value]) -> None:
        begin = f.address(between, f.mul(i, rows.made), type)
        for k, value in enumerate(rows.line(load(i))):
            f.store(value, f.address(begin, k, type), align)

    def column(j: Value, _: list[Value]) -> None:
        begin = f.address(between, j, type)
        column = [f.load(type, f.address(begin, i * rows.made, type), align) for i in range(columns.given)]
        store(j, columns.line(column))

    f.loop(0, columns.given, 1, row)
    f.loop(0, rows.made, 1, column)


def store_column(
    f: Function, at: Value, values: Sequence[Value], across: int, apart: Int, mask: Value | None = None
) -> None:
    """Store the values of a column of places.

    Args:
        at: where the first goes.
        across: places in a row.
        apart: distance of neighbouring places in memory, in elements.
    """
    for i, value in enumerate(values):
        f.store(value, f.address(at, f.mul(i * across, apart), "float"), 4, mask)


# --------------------------------------------------------------------------------------------- lanes


def spread_apart(f: Function, parts: Sequence[Value], count: int) -> list[Value]:
    """Of vectors in a row, 2 or 4, every second or every fourth element: from the first on, from the second on, ...

    Args:
        count: how many are wanted, 2 or all.
    """
    if len(parts) == 2:
        lanes = lanes_of(parts[0].type)
        return [f.shuffle(parts[0], parts[1], range(first, 2 * lanes, 2)) for first in range(count)]
    return [column for first in range(0, count, 2) for column in _every_fourth(f, parts, first)]


def _every_fourth(f: Function, parts: Sequence[Value], first: int) -> list[Value]:
    """Of four vectors in a row, every fourth element from number `first` (0 or 2) on, and from the next on."""
    lanes = lanes_of(parts[0].type)
    half = lanes // 2
    picks = [4 * k + j for j in (first, first + 1) for k in range(half)]
    low, high = (f.shuffle(parts[k], parts[k + 1], picks) for k in (0, 2))
    return [
        f.shuffle(low, high, [start + k for start in (j * half, lanes + j * half) for k in range(half)]) for j in (0, 1)
    ]


def interleaved(f: Function, parts: Sequence[Value]) -> list[Value]:
    """Four vectors, each with every fourth element, as four vectors in a row."""
    lanes = lanes_of(parts[0].type)
    quarter = lanes // 4
    found = []
    for start in (0, lanes // 2):
        picks = [k + side for k in range(start, start + lanes // 2) for side in (0, lanes)]
        left, right = (f.shuffle(parts[k], parts[k + 1], picks) for k in (0, 2))
        for begin in (0, quarter):
            pairs = [2 * k + side + j for k in range(begin, begin + quarter) for side in (0, lanes) for j in (0, 1)]
            found.append(f.shuffle(left, right, pairs))
    return found
