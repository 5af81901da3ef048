"""The ops: what each one means. A room per subject; `REGISTRY` joins them by name."""

from graphc import composites, operands
from graphc.op import Op, collect
from graphc.ops import math, state

# In the order of their imports: a room uses only those before it.
MODULES = (math, state)

REGISTRY: dict[str, Op] = collect((operands, composites, *MODULES))
