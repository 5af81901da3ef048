"""How much an eager step does: how many programs it runs, and how many bytes these put into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from graphc.eager.calls import CALLS


class Counts(NamedTuple):
    """What a step did.

    Attributes:
        launches: programs that were run, each one op or function, the gradient of one, or the update of one parameter;
            without those that only look at an operand's bytes in another way.
        nbytes: of their results.
    """

    launches: int
    nbytes: int


def counted(step: Callable[[], Any]) -> Counts:
    """Run a step and count what it does; programs that are new in it aren't seen."""
    sizes: list[int] = []

    def watched(entry: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arrays: Any) -> Any:
            results = entry(*arrays)
            several = results if isinstance(results, list | tuple) else [results]
            made = [y for y in several if not any(np.may_share_memory(y, x) for x in arrays)]
            sizes.extend([sum([array.nbytes for array in made])] if made else [])
            return results

        return watch

    entries = {call: call.entry for call in CALLS}
    try:
        for call, entry in entries.items():
            call.entry = watched(entry)
        step()
    finally:
        for call, entry in entries.items():
            call.entry = entry
    return Counts(len(sizes), sum(sizes))
