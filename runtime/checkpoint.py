"""Weights in files: safetensors, written atomically, read back exactly.

A variable `encoder/conv1/weight` is stored as `encoder.conv1.weight`, as torch names it. The counters of the random
streams stand in the file's metadata, so that a resumed run draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from graphc.errors import StateError
from graphc.files import write_atomically
from graphc.op import Array

FORMAT = "graphc-1"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by their dotted names, and the state of the random streams."""

    tensors: dict[str, Array]
    seed: int | None = None
    counters: Mapping[str, int] | None = None


def dotted(name: str) -> str:
    """The name of a variable in a file."""
    return name.replace("/", ".")


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write the file as a whole or not at all: beside its place, flushed to the disk, then renamed.

    Raises:
        StateError: the folder doesn't exist or can't be written to; the previous file is left as it was.
    """
    from safetensors.numpy import save

    metadata = {"format": FORMAT, "seed": str(checkpoint.seed), "counters": json.dumps(dict(checkpoint.counters or {}))}
    data = save({name: array.copy(order="C") for name, array in sorted(checkpoint.tensors.items())}, metadata)
    write_atomically(path, data, StateError)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a safetensors file; one that graphc didn't write has no random state.

    Raises:
        StateError: no such file, or one that is no valid safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise StateError(f"can't read {name!r}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise StateError(f"{name!r} is not a valid safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        return Checkpoint(tensors)
    try:
        counters = {str(k): int(v) for k, v in json.loads(metadata["counters"]).items()}
        return Checkpoint(tensors, int(metadata["seed"]), counters)
    except (KeyError, ValueError, AttributeError) as error:
        raise StateError(f"{name!r} has unreadable metadata: {error}") from error
