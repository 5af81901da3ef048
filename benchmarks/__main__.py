"""`python -m benchmarks [name ...]`: run the named benchmarks, or all, and print one table."""

from __future__ import annotations

import sys

from benchmarks import building
from benchmarks.table import show

BENCHMARKS = {"build": building.build, "scale": building.scale, "loop": building.loop}


def main(names: list[str]) -> int:
    """Exit status: 0 if all wanted figures were reached, 1 if one was missed, 2 for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    reached = [show(BENCHMARKS[name]()) for name in names or BENCHMARKS]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
