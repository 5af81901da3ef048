"""The error for a run that needs more memory than there is: how much, and for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.errors import ResourceError
from graphc.plan import Buffer
from graphc.plan_text import source_line, with_unit

SHOWN = 10  # of the largest values
EXISTING = ("given", "constant")


def shortage(buffers: Sequence[Buffer], nbytes: Sequence[int], dims: Mapping[str, int], total: int) -> ResourceError:
    """What to raise where the memory for a plan can't be had.

    Args:
        nbytes: of each buffer.
        total: bytes that the run takes, results included.
    """
    new = [k for k, buffer in enumerate(buffers) if buffer.role not in EXISTING and buffer.takes is None]
    lines = []
    for k in sorted(new, key=lambda k: -nbytes[k])[:SHOWN]:
        node = buffers[k].node
        what = f"{with_unit(nbytes[k])}: {node.op.name}, {node.tensor_type.bind(dims)}"
        lines.append(f"{what}, {line}" if (line := source_line(node)) else what)
    return ResourceError(
        f"this run needs {with_unit(total)} of memory, which can't be had; the largest values in it are",
        lines=lines,
        hint="feed fewer samples at a time; sess.plan(...).report() tells what lies in memory when",
    )
