"""Weights in files: safetensors, written atomically, read back exactly.

A variable `encoder/conv1/weight` is stored as `encoder.conv1.weight`, as torch names it. The counters of the random
streams stand in the file's metadata, so that a resumed run draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import StateError, did_you_mean
from graphc.files import as_path, write_atomically
from graphc.op import Array
from graphc.ops.state import Variable

FORMAT = "graphc-1"
RESERVED = "__metadata__"  # a name that safetensors keeps for itself
PICKLED = b"PK\x03\x04"  # how the files of torch.save start


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by their dotted names, and the state of the random streams."""

    tensors: dict[str, Array]
    seed: int | None = None
    counters: Mapping[str, int] | None = None


def by_dotted_name(variables: Iterable[Variable]) -> dict[str, Variable]:
    """Variables by their names in a file.

    Raises:
        StateError: two variables would have one name in it, or one the name that the format keeps for itself.
    """
    found: dict[str, Variable] = {}
    for variable in variables:
        name = variable.name.replace("/", ".")
        if name == RESERVED:
            raise StateError(f"a variable named {name!r} can't be in a file", lines=[variable.made_at])
        if found.setdefault(name, variable) is not variable:
            raise StateError(
                f"variables {found[name].name!r} and {variable.name!r} would both be {name!r} in a file",
                lines=[found[name].made_at, variable.made_at],
                hint="name one of them otherwise",
            )
    return found


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

    target = as_path(path)
    try:
        with target.open("rb") as opened:
            start = opened.read(len(PICKLED))
        with safe_open(str(target), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        lost = isinstance(error, FileNotFoundError) and target.parent.is_dir()
        near = did_you_mean(target.name, os.listdir(target.parent)) if lost else ""
        raise StateError(f"can't read {str(target)!r}: {error.strerror or error}{near}") from error
    except SafetensorError as error:
        raise StateError(
            f"{str(target)!r} is not a valid safetensors file: {error}",
            hint="it looks like torch.save's: let torch write it with safetensors" if start == PICKLED else None,
        ) from error
    return Checkpoint(tensors, *_random_state(metadata, target))


def _random_state(metadata: Mapping[str, str], path: Path) -> tuple[int | None, dict[str, int] | None]:
    """Seed and counters, if graphc wrote the file."""
    if metadata.get("format") != FORMAT:
        return None, None
    try:
        seed = int(metadata["seed"])
        counters = {str(k): int(v) for k, v in json.loads(metadata["counters"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        seed, counters = -1, {}
    if not all(0 <= number < 1 << 64 for number in (seed, *counters.values())):
        raise StateError(f"{str(path)!r} has no valid random state in its metadata")
    return seed, counters
