"""Transforms of weights and of results, by functions that all Winograd convolutions share.

What differs from one convolution to the next is a parameter, but for what the inner loops depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.conv_tiles import BYTES, FLOAT
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.values import I64, PTR, Int, Value, vector
from graphc.runtime.cpu.winograd import RESULTS, SIDE, TAPS, Lines, interleaved, store_column, two_passes


class Weights(NamedTuple):
    """How rows of weights lie, in elements.

    Attributes:
        channels: of a row.
        row, channel: distances of rows, and of channels in the source; in the target channels follow each other.
        down, across: distances of taps; negative where they are turned round.
        place: distance of places in the target.
    """

    channels: int
    row: int
    channel: int
    down: int
    across: int
    place: int


def transform_weights(f: Function, host: Host, source: Value, target: Value, rows: Int, how: Weights) -> None:
    """Transform rows of weights, which begin with the first tap that is taken."""
    inner = "channels" if how.channel < how.row else "rows"
    last = "masked" if how.channels % host.lanes(BYTES) else "whole"
    f.call(f"winograd.weights.{inner}.{last}", "void", source, target, f.i64(rows), *map(f.i64, how))


def transform_results(f: Function, source: Value, target: Value, vectors: Int, place: int, row: int) -> None:
    """Transform the products of one row of weights, for vectors of tiles.

    The results lie as four rows, the lines of the tiles one after the other in each.

    Args:
        place: distance of places in the source.
        row: tiles in a row of results, at most.
    """
    f.call("winograd.results", "void", source, target, *map(f.i64, (vectors, place, row)))


def library(host: Host, symbol: str) -> str:
    """The assembly of a function that is called here."""
    module = Module()
    _, kind, *variant = symbol.split(".")
    numbers = 1 + len(Weights._fields) if kind == "weights" else 3
    pointers = [(f"{PTR} noalias", name) for name in ("source", "target")]
    f = module.function(symbol, [*pointers, *[(I64, f"number{k}") for k in range(numbers)]])
    given = [f.parameter(k) for k in range(2 + numbers)]
    if kind == "weights":
        _weights(f, host, given, channels_last=variant[0] == "channels", masked=variant[1] == "masked")
    else:
        _results(f, host, given)
    f.ret()
    return module.text()


def _weights(f: Function, host: Host, given: Sequence[Value], *, channels_last: bool, masked: bool) -> None:
    source, target, rows, channels, row_step, channel_step, down, across, place = given
    wide, lines = host.lanes(BYTES), Lines(f)
    type = vector(FLOAT, wide)
    steps = f.binary("mul", f.counter(wide, "i32"), f.splat(f.convert("trunc", channel_step, "i32"), wide))

    def some(r: Int, c: Int) -> None:
        at = f.address(source, f.add(f.mul(r, row_step), f.mul(c, channel_step)), FLOAT)
        into = f.address(target, f.add(f.mul(r, channels), c), FLOAT)
        mask = f.mask(f.sub(channels, c), wide) if masked else None

        def load(i: Value) -> list[Value]:
            row = f.address(at, f.mul(i, down), FLOAT)
            taps = [f.addresses(f.address(row, f.mul(j, across), FLOAT), steps, FLOAT) for j in range(TAPS)]
            return [f.gather(type, tap, BYTES, mask) for tap in taps]

        def store(j: Value, values: Sequence[Value]) -> None:
            store_column(f, f.address(into, f.mul(j, place), FLOAT), values, place, mask)

        two_passes(f, type, lines.taps, (TAPS, SIDE), load, store)

    if channels_last:
        f.loop(0, rows, 1, lambda r, _: f.loop(0, channels, wide, lambda c, _: some(r, c)) and None)
    else:
        f.loop(0, channels, wide, lambda c, _: f.loop(0, rows, 1, lambda r, _: some(r, c)) and None)


def _results(f: Function, host: Host, given: Sequence[Value]) -> None:
    source, target, vectors, place, row_size = given
    wide, lines, align = host.lanes(BYTES), Lines(f), host.vector_bytes
    type = vector(FLOAT, wide)

    def some(v: Value, _: list[Value]) -> None:
        begin, into = f.address(source, f.mul(v, wide), FLOAT), f.address(target, f.mul(v, RESULTS * wide), FLOAT)

        def load(j: Value) -> list[Value]:
            column = f.address(begin, f.mul(j, place), FLOAT)
            places = [f.address(column, f.mul(i * SIDE, place), FLOAT) for i in range(SIDE)]
            return [f.load(type, at, align) for at in places]

        def store(i: Value, values: Sequence[Value]) -> None:
            row = f.address(into, f.mul(f.mul(i, RESULTS), row_size), FLOAT)
            for k, value in enumerate(interleaved(f, values)):
                f.store(value, f.address(row, k * wide, FLOAT), align)

        two_passes(f, type, lines.results, (SIDE, RESULTS), load, store)

    f.loop(0, vectors, 1, some)
