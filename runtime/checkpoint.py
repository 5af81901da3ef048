"""Weights in files: safetensors, written atomically, read with one report of everything that differs.

A variable `encoder/conv1/weight` is stored as `encoder.conv1.weight`, as torch names it. The counters of the random
streams stand in the file's metadata, so that a resumed run draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.errors import StateError, did_you_mean
from graphc.op import Array
from graphc.types import TensorType, dtype_name

FORMAT = "graphc-1"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by their dotted names, and the state of the random streams."""

    tensors: dict[str, Array]
    seed: int | None = None
    counters: Mapping[str, int] | None = None


@dataclass(frozen=True)
class LoadReport:
    """What of a checkpoint was taken, and what differs from the variables.

    Attributes:
        loaded: names that were taken.
        missing: variables that the file lacks.
        unexpected: tensors of the file that are no variable.
        mismatched: one sentence for each tensor of another shape or dtype.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """Every difference, with near names."""
        return [
            *(f"missing: {name}{did_you_mean(name, self.unexpected, limit=1)}" for name in self.missing),
            *(f"unexpected: {name}{did_you_mean(name, self.missing, limit=1)}" for name in self.unexpected),
            *(f"mismatch: {line}" for line in self.mismatched),
        ]


def dotted(name: str) -> str:
    """The name of a variable in a file."""
    return name.replace("/", ".")


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write the file as a whole or not at all: beside its place, flushed to the disk, then renamed.

    Raises:
        StateError: the folder doesn't exist or can't be written to; the previous file is left as it was.
    """
    from safetensors.numpy import save

    target = Path(path)
    metadata = {"format": FORMAT, "seed": str(checkpoint.seed), "counters": json.dumps(dict(checkpoint.counters or {}))}
    data = save({name: array.copy(order="C") for name, array in sorted(checkpoint.tensors.items())}, metadata)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise StateError(f"can't write {str(target)!r}: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StateError(f"can't write {str(target)!r}: {error.strerror or error}") from error
        raise
    _sync_folder(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder can't be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


def compare(wanted: Mapping[str, TensorType], found: Mapping[str, Array]) -> LoadReport:
    """What of `found` fits the variables in `wanted`."""
    mismatched = {
        name: f"{name} is {wanted[name]}, the file has {dtype_name(array.dtype)}{list(array.shape)}"
        for name, array in found.items()
        if name in wanted and (wanted[name].shape != array.shape or wanted[name].dtype != dtype_name(array.dtype))
    }
    return LoadReport(
        loaded=tuple(name for name in wanted if name in found and name not in mismatched),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(name for name in found if name not in wanted),
        mismatched=tuple(mismatched.values()),
    )


def require_all(report: LoadReport, what: Any) -> None:
    """Refuse a checkpoint that differs.

    Raises:
        StateError: with every difference.
    """
    if report.lines:
        raise StateError(
            f"{str(what)!r} doesn't fit the variables: {len(report.missing)} missing, "
            f"{len(report.unexpected)} unexpected, {len(report.mismatched)} mismatched",
            lines=report.lines,
            hint="strict=False loads what fits and returns the report",
        )
