"""The random streams of a session: what each draws from next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from graphc.ir import Node
from graphc.op import Array
from graphc.ops.random import Draw
from graphc.philox import stream_key
from graphc.runtime.reference import DrawKey

COUNTER = 2  # where a key has what counts the draws


class Streams:
    """The keys of the next draws, in memory that stays where it is, so that machine code may draw from them and count.

    Args:
        seed: of all streams.
        counters: of streams by name: how many draws were made.
    """

    def __init__(self, seed: int, counters: Mapping[str, int] | None = None) -> None:
        self.seed = seed
        self._keys: dict[str, Array] = {}
        for name, count in (counters or {}).items():
            self.key(name)[COUNTER] = count

    def key(self, name: str) -> Array:
        """The key of a stream's next draw: seed, stream and counter, uint64 [3]."""
        if name not in self._keys:
            self._keys[name] = np.array([self.seed, stream_key(name), 0], np.uint64)
        return self._keys[name]

    def keys(self, draws: Iterable[Draw]) -> dict[Node, Array]:
        """What each random leaf draws from in the next run."""
        return {leaf: self.key(leaf.name) for leaf in draws}

    def claim(self, draws: Sequence[Draw]) -> dict[Node, DrawKey]:
        """What each random leaf draws from; whatever becomes of the run, no later one draws that again."""
        claimed: dict[Node, DrawKey] = {}
        for leaf, key in self.keys(draws).items():
            seed, stream, counter = key.tolist()
            claimed[leaf] = seed, stream, counter
            key[COUNTER] += np.uint64(1)
        return claimed

    @property
    def counters(self) -> dict[str, int]:
        """Of each stream by name: how many draws were made."""
        return {name: int(key[COUNTER]) for name, key in self._keys.items()}
