"""What was measured of one system on one workload."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Measured(NamedTuple):
    """What one system did on one workload: its version, values to compare, and seconds of a step in each turn."""

    version: str
    values: list[float]
    samples: list[float]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Seconds: lower quartile, median, upper quartile."""
        low, middle, high = np.percentile(self.samples, [25, 50, 75])
        return float(low), float(middle), float(high)

    @property
    def median(self) -> float:
        """Seconds."""
        return self.quartiles[1]


Results = dict[str, Measured]
Failures = dict[str, str]

UNITS: tuple[tuple[float, str], ...] = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def duration(seconds: float) -> str:
    """With three digits and a unit."""
    scale, unit = next((pair for pair in UNITS if seconds >= pair[0]), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}" if seconds / scale < 1000 else f"{seconds / scale:.0f} {unit}"
