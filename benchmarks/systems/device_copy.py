"""What copies within a GPU's memory take: the measure of what moves memory, by the driver's own copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.systems import Prepared, Table
from benchmarks.workloads import COPIED_BYTES, GPU, Array
from graphc.runtime.cuda import target


def prepare(variant: str, threads: int) -> Table:
    """The same for each workload that is measured by it."""
    return {name: copied for name, workload in GPU.items() if workload.nbytes}


def copied(weights: dict[str, Array], data: tuple[Array, ...]) -> Prepared:
    """A copy that reads and writes `COPIED_BYTES` together."""
    driver = target.opened()
    source, to = (driver.allocate(COPIED_BYTES // 2) for _ in range(2))

    def step() -> Any:
        driver.copy(to.address, source.address, COPIED_BYTES // 2)
        driver.synchronise()
        return np.zeros(1)

    return Prepared(step)
