"""The error for a run that needs more memory than there is: how much, and for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.errors import ResourceError
from graphc.plan import Buffer
from graphc.plan_text import source_line, with_unit

SHOWN = 10  # of the largest values
EXISTING = ("given", "constant")


def shortage(
    buffers: Sequence[Buffer],
    nbytes: Sequence[int],
    dims: Mapping[str, int],
    total: int,
    *,
    free: int | None = None,
    fitting: Sequence[str] = (),
) -> ResourceError:
    """What to raise where the memory for a plan can't be had.

    Args:
        nbytes: of each buffer.
        total: bytes that the run takes, results included.
        free: bytes that a device of its own memory has for it; weights and feeds are then in them, too.
        fitting: what would fit, `batch = 96`, where that is known.
    """
    there = EXISTING if free is None else ()
    new = [k for k, buffer in enumerate(buffers) if buffer.role not in there and buffer.takes is None]
    lines = []
    for k in sorted(new, key=lambda k: -nbytes[k])[:SHOWN]:
        node = buffers[k].node
        what = f"{with_unit(nbytes[k])}: {node.op.name}, {node.tensor_type.bind(dims)}"
        lines.append(f"{what}, {line}" if (line := source_line(node)) else what)
    where = "which can't be had" if free is None else f"and the device has {with_unit(free)} for it"
    remedy = f"{' or '.join(fitting)} would fit" if fitting else "feed fewer samples at a time"
    return ResourceError(
        f"this run needs {with_unit(total)} of memory, {where}; the largest values in it are",
        lines=lines,
        hint=f"{remedy}; sess.plan(...).report() tells what lies in memory when",
    )
