"""What the rooms of the cores share: operands that may be numbers, and launches over what they compute."""

from __future__ import annotations

from graphc.dims import Dim
from graphc.operands import splat_value
from graphc.runtime.cuda import lanes as regions
from graphc.runtime.cuda.launches import CudaCode
from graphc.runtime.strided import Strided

Number = float | int | bool


def operand_or_number(code: CudaCode, k: int) -> Strided | Number:
    """Where the core's k-th operand lies, or the number that all of it is."""
    number: Number | None = splat_value(code.kernel.operands[k].body.outputs[0])
    return regions.operand(code, k) if number is None else number


def is_multiple(dim: Dim, of: int) -> bool:
    """Whether a dimension is known to be a multiple of a number."""
    return dim % of == 0
