"""What `Session(device=...)` can name: how its target is made, and which passes run for it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from graphc.errors import ArgumentError, GraphcError, InternalError, did_you_mean
from graphc.passes.pipeline import PIPELINE, Pass, check_switches, switches
from graphc.passes.plan import TECHNIQUES
from graphc.runtime.cpu.driver import require_code
from graphc.runtime.cpu.host import lacking
from graphc.runtime.cpu.target import CpuTarget
from graphc.runtime.plan import PlanTarget
from graphc.runtime.reference import ReferenceTarget, Target
from graphc.source import Site, user_site

ConvPrecision = Literal["winograd4", "exact"]
MatmulPrecision = Literal["float32", "tf32", "bfloat16"]
Place = Literal["numpy", "device"]

CHOICES: dict[str, tuple[str, ...]] = {
    "conv_precision": ("winograd4", "exact"),
    "matmul_precision": ("float32", "tf32", "bfloat16"),
    "results": ("numpy", "device"),
}


class Settings(NamedTuple):
    """What a session tells its target; see `Session`."""

    seed: int
    threads: int | None
    disable: frozenset[str]
    conv_precision: ConvPrecision = "winograd4"
    matmul_precision: MatmulPrecision = "float32"
    results: Place = "numpy"


class Device(NamedTuple):
    """A name of a device, explained."""

    target: Callable[[Settings], Target]
    passes: tuple[Pass, ...]


class Chosen(NamedTuple):
    """What a session runs on.

    Attributes:
        name: of the device.
        instead: why it isn't the one that was wanted; "" if it is.
    """

    name: str
    target: Target
    passes: tuple[Pass, ...]
    instead: str


REQUIRED = tuple(p for p in PIPELINE if not p.optional)  # the oracle depends on no optimisation
BEST = "cpu"
RUN_SWITCHES = frozenset({"commands", "entry", "capture", "cudnn", "cublaslt"})  # see `CpuTarget`, `CudaTarget`
SWITCHES = TECHNIQUES | RUN_SWITCHES  # besides those of passes
FALLBACK = "reference"


def _cpu(settings: Settings) -> Target:
    if missing := lacking():
        raise GraphcError(f"the processor lacks {missing}")
    require_code()
    return CpuTarget(settings.threads, settings.disable & SWITCHES, conv_precision=settings.conv_precision)


def _cuda(settings: Settings) -> Target:
    # A tenth of the time that `import graphc` would take, for those who have a GPU.
    room = importlib.import_module("graphc.runtime.cuda.target")
    target: Target = room.on_gpu(settings.disable & SWITCHES, settings.matmul_precision, settings.results)
    return target


DEVICES: dict[str, Device] = {
    "cpu": Device(_cpu, PIPELINE),
    "cuda": Device(_cuda, PIPELINE),
    "reference": Device(lambda settings: ReferenceTarget(), REQUIRED),
    "plan": Device(lambda settings: PlanTarget(settings.seed, settings.disable), PIPELINE),
}


def checked(device: Any, seed: Any, threads: Any, disable: str | Sequence[str], **choices: Any) -> Settings:
    """What a session is told, as settings.

    Args:
        choices: of `CHOICES`.

    Raises:
        ArgumentError: something can't be what it is.
    """
    if device not in DEVICES:
        raise ArgumentError(
            f"device {device!r} is not one of {', '.join(map(repr, DEVICES))}{did_you_mean(str(device), DEVICES)}"
        )
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ArgumentError(f"threads must be a positive int, got {threads!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed must be an int in [0, 2**64), got {seed!r}")
    for name, choice in choices.items():
        if choice not in CHOICES[name]:
            *others, last = map(repr, CHOICES[name])
            raise ArgumentError(f"{name} must be {', '.join(others)} or {last}, got {choice!r}")
    disable = [disable] if isinstance(disable, str) else disable
    check_switches(disable, switches() | SWITCHES)
    return Settings(int(seed), threads, frozenset(disable), **choices)


def chosen(name: str, settings: Settings) -> Chosen:
    """The target of a device; NumPy in its place, and a warning, where the host can't run native code.

    That is so where llvmlite is missing or can't be loaded, where the system refuses memory for generated code, and
    where the processor lacks what the code needs.
    """
    try:
        return Chosen(name, DEVICES[name].target(settings), DEVICES[name].passes, "")
    except InternalError:
        raise
    except (ImportError, OSError, RuntimeError, GraphcError) as error:
        if name != BEST:
            raise
        reason = error.message if isinstance(error, GraphcError) else str(error)
    told = f"device {name!r} can't be used here: {reason}; NumPy runs everything, more slowly"
    code, offset = user_site()
    if code is None:
        warnings.warn(told, RuntimeWarning, stacklevel=2)
    else:
        site = Site.of(code, offset)
        warnings.warn_explicit(told, RuntimeWarning, site.file, site.line)
    return Chosen(FALLBACK, DEVICES[FALLBACK].target(settings), DEVICES[FALLBACK].passes, reason)
