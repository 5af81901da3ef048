"""What a ledger holds, as data, as tables and as a chart; `graphc.ledger` measures it."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from graphc.errors import ArgumentError, ExportError, MissingExtra
from graphc.files import as_path, write_atomically
from graphc.plan_text import with_unit
from graphc.runtime.profile import duration

FORMATS = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Measured:
    """One way to run the model.

    Attributes:
        name: the way; of a technique that was switched on, or that is missing, its name.
        seconds: a step, on average of each turn.
        calls: of functions, those of C included, that the interpreter makes in a step.
        kernels: that a step runs: of native code; or ops that are run one by one. None if that can't be known.
        nodes: of the program after the passes.
        allocated: bytes of what a step puts into memory: temporaries and results, each once.
        peak: bytes that these take at one time, at most.
    """

    name: str
    seconds: tuple[float, ...]
    calls: int
    kernels: int | None
    nodes: int | None
    allocated: int | None
    peak: int

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Seconds a step: lower quartile, median, upper quartile."""
        low, middle, high = np.percentile(self.seconds, [25, 50, 75])
        return float(low), float(middle), float(high)

    @property
    def median(self) -> float:
        """Seconds a step."""
        return self.quartiles[1]

    def differs(self, other: Measured) -> bool:
        """Whether the two take different times, as far as can be told: their quartiles don't overlap."""
        (low, _, high), (low2, _, high2) = self.quartiles, other.quartiles
        return high < low2 or high2 < low


class Bar(NamedTuple):
    """A part of the waterfall: the median seconds of a step before and after something was switched on."""

    name: str
    before: float
    after: float

    @property
    def saved(self) -> float:
        """Seconds a step; less than 0 where it costs more than it buys."""
        return self.before - self.after


@dataclass(frozen=True)
class Ledger:
    """What was measured; `print` shows it as tables.

    Attributes:
        device: of the static ways.
        threads: that the full compiler may use.
        base: what the others are compared with: the eager way, or where there is none NumPy, op by op.
        stages: compiled with everything switched off; then with each technique, in the order of `TECHNIQUES`, in
            addition to those before it. The last one is the full compiler.
        without: the full compiler without each technique, in the same order.
        written: nodes of the program as it was written, gradients and updates included.
        compile_seconds: from the request to its first result, when nothing was known of it in this process.
        found: how much of the code for that came from the cache on disk, 0 to 1.
    """

    device: str
    threads: int
    base: Measured
    stages: tuple[Measured, ...]
    without: tuple[Measured, ...]
    written: int
    compile_seconds: float
    found: float

    @property
    def full(self) -> Measured:
        """The full compiler."""
        return self.stages[-1]

    @property
    def speedup(self) -> float:
        """How many times as fast as the base the full compiler is."""
        return self.base.median / self.full.median

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The waterfall, from `base` to `full`: what is saved adds up to the difference of the two."""
        ways = (self.base, *self.stages)
        return tuple([Bar(b.name, a.median, b.median) for a, b in pairwise(ways)])

    @property
    def payback(self) -> int | None:
        """After how many steps compiling has paid for itself, against the base; None if it never does."""
        saved = self.base.median - self.full.median
        return math.ceil(self.compile_seconds / saved) if saved > 0 else None

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the waterfall, and beside it what is lost without each technique.

        Args:
            path: a file ending in .svg, .png or .pdf.

        Raises:
            ArgumentError: another format. ExportError: the file can't be written.
            MissingExtra: matplotlib isn't installed.
        """
        target = as_path(path)
        if target.suffix not in FORMATS:
            raise ArgumentError(f"can't draw {str(target)!r}: the name must end in {', '.join(FORMATS)}")
        write_atomically(target, _chart(self, target.suffix.lstrip(".")), ExportError)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts, for JSON."""
        derived = {"speedup": self.speedup, "payback": self.payback, "bars": [bar._asdict() for bar in self.bars]}
        return {**asdict(self), **derived}


# ------------------------------------------------------------------------------------------- tables


HEADS = ("", "a step", "quartiles", "faster", "kernels", "calls", "nodes", "allocated", "peak")


def _lines(ledger: Ledger) -> Iterator[str]:
    full, base = ledger.full, ledger.base
    threads = f"{ledger.threads} {'thread' if ledger.threads == 1 else 'threads'}"
    turns = len(full.seconds)
    yield f"{base.name} against static on {ledger.device!r} with {threads}: a step, median of {turns} turns"
    first, *others = zip(ledger.stages, ledger.bars, strict=True)
    stages = [_row(first[0].name, *first), *[_row(f"+ {way.name}", way, bar) for way, bar in others]]
    yield from _table(HEADS, [_row(base.name, base, None), *stages])
    yield f"{ledger.written} nodes were written; all in all {_times(ledger.speedup)} as fast"
    yield ""
    yield "the full compiler without one technique, and how many times as long a step takes then"
    yield from _table(("", "a step", "quartiles", "slower"), [_left_out(way, full) for way in ledger.without])
    yield ""
    yield _cost(ledger)


def _row(name: str, way: Measured, bar: Bar | None) -> tuple[str, ...]:
    sizes = ["" if size is None else with_unit(size) for size in (way.allocated, way.peak)]
    counts = ["" if count is None else f"{count:,}" for count in (way.kernels, way.calls, way.nodes)]
    gain = "" if bar is None else _times(bar.before / bar.after)
    return (name, *_times_of(way), gain, *counts, *sizes)


def _left_out(way: Measured, full: Measured) -> tuple[str, ...]:
    return (f"without {way.name}", *_times_of(way), _times(way.median / full.median))


def _times_of(way: Measured) -> tuple[str, str]:
    low, middle, high = [duration(1e9 * seconds) for seconds in way.quartiles]
    return middle, f"{low} - {high}"


def _times(factor: float) -> str:
    """`1.234` as `1.23x`, `1234.5` as `1,234x`."""
    return f"{factor:.2f}x" if factor < 10 else f"{factor:,.0f}x"


def _cost(ledger: Ledger) -> str:
    took = f"compiling took {duration(1e9 * ledger.compile_seconds)}, with {ledger.found:.0%} of the code found on disk"
    if ledger.payback is None:
        return f"{took}: it never pays for itself"
    return f"{took}: it has paid for itself after {ledger.payback:,} {'step' if ledger.payback == 1 else 'steps'}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows under their heads; the first column to the left, all others to the right."""
    cells = [heads, *rows]
    widths = [max([len(row[k]) for row in cells]) for k in range(len(heads))]
    for row in cells:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *others]).rstrip()


# ------------------------------------------------------------------------------------------- the chart


BETTER, WORSE, ENDS, FAINT = "#2a7f62", "#b5442e", "#4a5568", "#a0aec0"  # FAINT: what can't be told from noise

MEANINGS = {BETTER: "saves time", WORSE: "costs time", FAINT: "can't be told from noise; lines: quartiles"}


def _chart(ledger: Ledger, kind: str) -> bytes:
    """Both charts side by side, times on logarithmic axes: equal lengths are equal factors.

    What can't be told from noise is pale.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingExtra("matplotlib", "data", "ledger.plot") from error
    with rc_context({"svg.hashsalt": "graphc", "svg.fonttype": "none"}):  # text stays text, and ids don't change
        figure = Figure(figsize=(11, 5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_waterfall(left, ledger)
        _draw_left_out(right, ledger)
        meanings = [Patch(color=color, label=label) for color, label in MEANINGS.items()]
        figure.legend(handles=meanings, loc="outside lower center", ncols=len(meanings), frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _draw_waterfall(axes: Any, ledger: Ledger) -> None:
    """From the base at the top to the full compiler at the bottom, each bar from before to after."""
    bars, base, full, ways = ledger.bars, ledger.base, ledger.full, (ledger.base, *ledger.stages)
    names = [base.name, bars[0].name, *[f"+ {bar.name}" for bar in bars[1:]], "full compiler"]
    bottom = 0.7 * min([way.quartiles[0] for way in ways])
    slowest = max([way.quartiles[2] for way in ways])
    for at, way in ((0, base), (len(names) - 1, full)):
        low, middle, high = way.quartiles
        axes.barh(at, middle - bottom, left=bottom, color=ENDS, xerr=[[middle - low], [high - middle]], ecolor=FAINT)
        axes.text(1.05 * high, at, duration(1e9 * middle), va="center", fontsize=8)
    for at, bar in enumerate(bars, 1):
        low, high = sorted((bar.before, bar.after))
        axes.barh(at, high - low, left=low, color=_colour(bar.saved, ways[at].differs(ways[at - 1])))
        axes.plot([bar.after, bar.after], [at - 0.4, at + 1.4], color=FAINT, linewidth=0.8)
        axes.text(1.05 * high, at, _times(bar.before / bar.after), va="center", fontsize=8)
    axes.set(xscale="log", xlim=(bottom, _with_room(bottom, slowest)), xlabel="a step")
    _name_ticks(axes, lambda seconds, _: duration(1e9 * seconds))
    axes.set(yticks=range(len(names)), yticklabels=names)
    axes.set_title(f"from {base.name} to static: {_times(ledger.speedup)} as fast", fontsize=10)
    axes.invert_yaxis()


def _draw_left_out(axes: Any, ledger: Ledger) -> None:
    """How many times as long a step takes without each technique, with the quartiles."""
    reference = ledger.full.median
    for at, way in enumerate(ledger.without):
        low, middle, high = [seconds / reference for seconds in way.quartiles]
        color = _colour(middle - 1, way.differs(ledger.full))
        axes.barh(at, middle - 1, left=1, color=color, xerr=[[middle - low], [high - middle]], ecolor=FAINT)
        axes.text(1.02 * max(high, 1), at, _times(middle), va="center", fontsize=8)
    names = [f"without {way.name}" for way in ledger.without]
    axes.axvline(1, color=ENDS, linewidth=0.8)
    ends = [way.quartiles[end] / reference for way in ledger.without for end in (0, 2)]
    bottom = 0.9 * min(1, *ends)
    axes.set(xscale="log", xlim=(bottom, _with_room(bottom, max(1, *ends))), yticks=range(len(names)))
    axes.set(xlabel="times as long as the full compiler", yticklabels=names)
    _name_ticks(axes, "{x:g}x")
    axes.set_title("the full compiler without one technique", fontsize=10)
    axes.invert_yaxis()


def _name_ticks(axes: Any, names: Any) -> None:
    """Ticks of a logarithmic axis, more of them where it is short."""
    low, high = axes.get_xlim()
    axes.xaxis.get_major_locator().set_params(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0))
    axes.xaxis.set_major_formatter(names)
    axes.xaxis.set_minor_formatter("")


def _colour(saved: float, differs: bool) -> str:
    return FAINT if not differs else BETTER if saved > 0 else WORSE


def _with_room(low: float, high: float) -> float:
    """The end of a logarithmic axis on which a label has room beside a bar that ends at `high`."""
    return high * float((high / low) ** 0.2)
