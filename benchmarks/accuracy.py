"""How accurate the elementary functions of the CPU target are: `python -m benchmarks.accuracy` measures all of them
and writes the table of docs/accuracy.md.

An error is counted in units of the last place (ulp) that the true result has in its dtype; it is the greatest over a
sample. The truth is NumPy's in float64 for float32, and in the longer float of x86 for float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import graphc as gc

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BEGIN, END = "<!-- ulp -->", "<!-- end of ulp -->"
COUNT = 1 << 20  # numbers of each kind in a sample
Array = np.ndarray[Any, Any]


def erf(x: Array) -> Array:
    """The error function by its series 2/√π · exp(-x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n + 1)!!, whose terms have one sign."""
    wide = np.minimum(np.abs(x), 7).astype(np.longdouble)
    total = term = wide * (2 / np.sqrt(4 * np.arctan(np.longdouble(1))))
    n = 0
    while (term > total * np.finfo(np.longdouble).eps / 8).any():
        n += 1
        term = term * (2 * wide * wide / (2 * n + 1))
        total = total + term
    return np.asarray(np.copysign(total * np.exp(-wide * wide), x))


class Measured(NamedTuple):
    """A function whose accuracy is measured.

    Attributes:
        apply: the op.
        truth: the same in NumPy, in the dtype of its operands.
        usual: where half of the sample lies, for each operand; the other half is of any magnitude.
    """

    apply: Callable[..., Any]
    truth: Callable[..., Array]
    usual: tuple[tuple[float, float], ...]


FUNCTIONS = {
    "exp": Measured(gc.exp, np.exp, ((-100, 90),)),
    "expm1": Measured(gc.expm1, np.expm1, ((-20, 20),)),
    "log": Measured(gc.log, np.log, ((0.25, 4),)),
    "log1p": Measured(gc.log1p, np.log1p, ((-0.75, 3),)),
    "log2": Measured(gc.log2, np.log2, ((0.25, 4),)),
    "log10": Measured(gc.log10, np.log10, ((0.25, 4),)),
    "sin": Measured(gc.sin, np.sin, ((-100, 100),)),
    "cos": Measured(gc.cos, np.cos, ((-100, 100),)),
    "tanh": Measured(gc.tanh, np.tanh, ((-2, 2),)),
    "erf": Measured(gc.erf, erf, ((-2, 2),)),
    "power": Measured(gc.power, np.power, ((0.5, 2), (-1000, 1000))),
}
PRECISE = {"float32": np.float64, "float64": np.longdouble}


def sample(function: Measured, dtype: str, rng: np.random.Generator) -> list[Array]:
    """Operands: numbers of a usual range, and finite numbers of any representation."""

    def operand(low: float, high: float) -> Array:
        kind = np.dtype(dtype)
        with np.errstate(invalid="ignore"):
            bits = rng.integers(0, 256, COUNT * kind.itemsize, dtype=np.uint8).view(kind)
            bits[~np.isfinite(bits)] = 1
        return np.concatenate([bits, rng.uniform(low, high, COUNT).astype(kind)])

    return [operand(low, high) for low, high in function.usual]


def greatest_error(function: Measured, dtype: str) -> float:
    """The greatest error over a sample, in ulp."""
    arrays = sample(function, dtype, np.random.default_rng(1))
    with gc.Graph():
        leaves = [gc.placeholder(f"x{k}", array.shape, dtype) for k, array in enumerate(arrays)]
        result = function.apply(*leaves)
    with gc.Session(device="cpu", graph=result.graph) as session:
        found = session.run(result, dict(zip(leaves, arrays, strict=True)))
    with np.errstate(all="ignore"):
        exact = function.truth(*[array.astype(PRECISE[dtype]) for array in arrays])
        return float(np.max(ulps(found, exact)))


def ulps(found: Array, exact: Array) -> Array:
    """The distance of results from the exact ones, in units of the last place that these have in the dtype."""
    limits = np.finfo(found.dtype)
    nearest = exact.astype(found.dtype)
    _, exponent = np.frexp(np.maximum(np.abs(exact), limits.tiny).astype(np.longdouble))
    unit = np.ldexp(np.longdouble(1), exponent - 1 - limits.nmant)
    distance = np.abs(found.astype(np.longdouble) - exact) / unit
    same = (found == nearest) | (np.isnan(found) & np.isnan(nearest))
    return np.where(same, np.where(np.isfinite(nearest), distance, 0), np.where(np.isnan(distance), np.inf, distance))


def table() -> Iterator[str]:
    """The lines of the table, as they are measured."""
    yield "| function | usual range | float32 | float64 |"
    yield "|---|---|---:|---:|"
    for name, function in FUNCTIONS.items():
        errors = [greatest_error(function, dtype) for dtype in PRECISE]
        usual = ", ".join(f"{low:g} … {high:g}" for low, high in function.usual)
        yield f"| `{name}` | {usual} | " + " | ".join(f"{error:.2f}" for error in errors) + " |"


def main() -> int:
    """Print the table, and put it into the page."""
    lines = []
    for line in table():
        print(line, flush=True)
        lines.append(line)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
