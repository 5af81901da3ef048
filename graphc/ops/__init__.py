"""The ops: what each one means. A room per subject; `REGISTRY` joins them by name."""

from graphc import composites, operands
from graphc.op import Op, collect
from graphc.ops import (
    activations,
    control,
    conv,
    creation,
    extent,
    getitem,
    indexing,
    linalg,
    losses,
    math,
    nn,
    pooling,
    random,
    reduce,
    scan,
    shape,
    slicing,
    sorting,
    state,
)

# In the order of their imports: a room uses only those before it.
MODULES = (
    extent,
    math,
    creation,
    slicing,
    shape,
    indexing,
    getitem,
    sorting,
    control,
    scan,
    reduce,
    activations,
    state,
    random,
    linalg,
    conv,
    pooling,
    nn,
    losses,
)

REGISTRY: dict[str, Op] = collect((operands, composites, *MODULES))
