"""The comparison as charts: how many times as long as graphc each system takes, and how its turns are spread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured import Measured, Results, duration
from benchmarks.systems import OWN

OURS, TITLE_SIZE, LABEL_SIZE = "graphc", 10, 8
WIDTH, ROW, HEAD = 8.0, 0.22, 1.2  # inches


def ratios(own: Measured, other: Measured) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of how many times as long another system takes, turn by turn.

    Turns of one round were close to each other in time, so what else kept the machine busy slowed both.
    """
    pairs = zip(own.samples, other.samples, strict=False)
    low, middle, high = np.percentile([theirs / ours for ours, theirs in pairs], [25, 50, 75])
    return float(low), float(middle), float(high)


def compared(results: Results) -> dict[str, tuple[float, float, float]]:
    """The ratios of all peers; none where graphc has no figure."""
    own = results.get(OURS)
    return {} if own is None else {name: ratios(own, found) for name, found in results.items() if name not in OWN}


def draw(everything: Mapping[str, Results], folder: Path) -> list[Path]:
    """Write `ratios.svg` and, for each workload, its turns as `<workload>.svg`.

    Args:
        everything: the results by workload.
        folder: made if it doesn't exist.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = {name: found for name, results in everything.items() if (found := compared(results))}
    figures = {"ratios": _ratios(shown)} if shown else {}
    figures |= {name: _turns(name, found) for name, found in everything.items() if found}
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg")
    return [folder / f"{name}.svg" for name in figures]


def _ratios(shown: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Any:
    """A group of bars for each workload, a bar for each peer, on a logarithmic axis that begins at graphc."""
    systems = list(dict.fromkeys(name for found in shown.values() for name in found))
    figure = _figure(sum(len(found) + 1 for found in shown.values()))
    axes, at, middles = figure.subplots(), 0.0, []
    for found in shown.values():
        middles.append(at + (len(found) - 1) / 2)
        for name, (low, middle, high) in found.items():
            colour = f"C{systems.index(name)}"
            axes.barh(at, middle - 1, left=1, color=colour, xerr=[[middle - low], [high - middle]], ecolor="#4a5568")
            axes.text(1.03 * max(high, 1), at, f"{name} {middle:.2f}x", va="center", fontsize=LABEL_SIZE)
            at += 1
        at += 1
    axes.axvline(1, color="#4a5568", linewidth=0.8)
    axes.set(xscale="log", yticks=middles, yticklabels=list(shown), xlabel="times as long as graphc")
    axes.set_title("medians and quartiles of the ratios of turns", fontsize=TITLE_SIZE)
    axes.margins(x=0.25)
    axes.invert_yaxis()
    return figure


def _turns(workload: str, results: Results) -> Any:
    """A box for each system: quartiles of the turns, with the median, and every turn."""
    figure = _figure(2 * len(results))
    axes = figure.subplots()
    names = list(results)
    axes.boxplot([found.samples for found in results.values()], orientation="horizontal", showfliers=False, widths=0.6)
    for at, found in enumerate(results.values(), 1):
        axes.plot(found.samples, [at] * len(found.samples), ".", color="#4a5568", alpha=0.4)
    labels = [f"{name}\n{duration(results[name].median)}" for name in names]
    axes.set(xscale="log", yticks=range(1, len(names) + 1), yticklabels=labels, xlabel="seconds a step")
    axes.set_title(workload, fontsize=TITLE_SIZE)
    axes.invert_yaxis()
    return figure


def _figure(rows: int) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, HEAD + ROW * rows), layout="constrained")
