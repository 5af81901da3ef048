"""How much an eager step does: how many programs it runs, and how many bytes these put into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from graphc.eager.calls import CALLS


class Counts(NamedTuple):
    """What a step did.

    Attributes:
        launches: programs that were run, each one op, the gradient of one, or the update of one parameter.
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
            made = results if isinstance(results, list | tuple) else [results]
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
