"""Sizes as values: what a symbolic dimension is when the graph runs."""

from __future__ import annotations

import numpy as np

from graphc.dims import Dim
from graphc.ir import Node
from graphc.op import NoGradient
from graphc.operands import constant, primitive
from graphc.types import TensorType, dtype_name, np_dtype

extent_op = primitive(
    "extent",
    lambda *, dim, dtype: TensorType(dtype, ()),
    lambda *, dim, dtype: np.asarray(dim, np_dtype(dtype)),
    NoGradient("a size depends on no value"),
    "extent",
    required=("dim", "dtype"),
)


def extent(dim: Dim, dtype: str = "int64") -> Node:
    """The size `dim` as a scalar of `dtype`: a constant if it is an int, else the value that it has in each run."""
    name = dtype_name(dtype)
    return constant(dim, name) if isinstance(dim, int) else extent_op(dim=dim, dtype=name)
