"""What `Session(device=...)` can name: how its target is made, and which passes run for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

from graphc.errors import GraphcError, InternalError
from graphc.passes.pipeline import PIPELINE, Pass
from graphc.passes.plan import TECHNIQUES
from graphc.runtime.cpu.driver import driver
from graphc.runtime.cpu.host import lacking
from graphc.runtime.cpu.target import CpuTarget
from graphc.runtime.plan import PlanTarget
from graphc.runtime.reference import ReferenceTarget, Target
from graphc.source import Site, user_site

ConvPrecision = Literal["winograd4", "exact"]
CONV_PRECISIONS: tuple[ConvPrecision, ...] = ("winograd4", "exact")


class Settings(NamedTuple):
    """What a session tells its target; see `Session`."""

    seed: int
    threads: int | None
    disable: frozenset[str]
    conv_precision: ConvPrecision


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
RUN_SWITCHES = frozenset({"commands", "entry"})  # of how native code is called: see `CpuTarget`
SWITCHES = TECHNIQUES | RUN_SWITCHES  # besides those of passes
FALLBACK = "reference"


def _cpu(settings: Settings) -> Target:
    if missing := lacking():
        raise GraphcError(f"the processor lacks {missing}")
    driver()  # the first code that this process loads: where this fails, nothing can be run
    return CpuTarget(settings.threads, settings.disable & SWITCHES, conv_precision=settings.conv_precision)


DEVICES: dict[str, Device] = {
    "cpu": Device(_cpu, PIPELINE),
    "reference": Device(lambda settings: ReferenceTarget(), REQUIRED),
    "plan": Device(lambda settings: PlanTarget(settings.seed, settings.disable), PIPELINE),
}


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
