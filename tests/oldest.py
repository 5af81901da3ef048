"""Print the oldest versions that pyproject.toml allows of what graphc needs and may need, for pip; see the Makefile."""

from __future__ import annotations

import tomllib
from pathlib import Path

EXTRAS = ("onnx", "viz", "data")
RUNNERS = ("hypothesis", "pytest", "pytest-xdist")  # whose versions no user of graphc depends on


def oldest(project: dict[str, object]) -> list[str]:
    """Requirements like `numpy==2.2.6`."""
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict) and isinstance(project["dependencies"], list)
    allowed = [*project["dependencies"], *(line for extra in EXTRAS for line in optional[extra])]
    return [line.replace(">=", "==") for line in allowed]


if __name__ == "__main__":
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print(*oldest(tomllib.loads(text)["project"]), *RUNNERS)
