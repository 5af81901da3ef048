"""Values held against the variables that they are meant for: one report of everything that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.dims import shape_text
from graphc.errors import StateError, did_you_mean
from graphc.op import Array
from graphc.types import TensorType, dtype_name

# An optimiser's slots. What another optimiser saved lacks them and has others; a part of them, such as a count of steps
# without its averages, would mislead the rule: so they are taken as a whole or start afresh.
OPTIONAL = "optim."


@dataclass(frozen=True)
class LoadReport:
    """What of some values was taken, and what differs from the variables.

    Attributes:
        loaded: names that were taken.
        missing: variables without a value, the slots of optimisers aside.
        unexpected: values without a variable, the slots of optimisers aside.
        mismatched: one sentence for each value of another shape or dtype.
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


def compare(wanted: Mapping[str, TensorType], found: Mapping[str, Array]) -> LoadReport:
    """What of `found` fits the variables in `wanted`, by name."""
    mismatched = {
        name: f"{name} is {wanted[name]}, the value is {dtype_name(array.dtype)}{shape_text(array.shape)}"
        for name, array in found.items()
        if name in wanted and (wanted[name].shape != array.shape or wanted[name].dtype != dtype_name(array.dtype))
    }
    fitting = [name for name in wanted if name in found and name not in mismatched]
    slots = [name for name in wanted if name.startswith(OPTIONAL)]
    whole = set(slots).issubset(fitting)
    return LoadReport(
        loaded=tuple(name for name in fitting if whole or not name.startswith(OPTIONAL)),
        missing=tuple(name for name in wanted if name not in found and not name.startswith(OPTIONAL)),
        unexpected=tuple(name for name in found if name not in wanted and not name.startswith(OPTIONAL)),
        mismatched=tuple(mismatched.values()),
    )


def require_all(report: LoadReport, what: str) -> None:
    """Refuse values that differ.

    Raises:
        StateError: with every difference; `what` names where the values come from.
    """
    if report.lines:
        raise StateError(
            f"{what!r} doesn't fit the variables: {len(report.missing)} missing, "
            f"{len(report.unexpected)} unexpected, {len(report.mismatched)} mismatched",
            lines=report.lines,
            hint="strict=False loads what fits and returns the report",
        )
