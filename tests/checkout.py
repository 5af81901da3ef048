"""What lies where in the checkout, for the tests that look at the source itself."""

from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Where each import package lies.
PACKAGE_DIRS = {
    "graphc": "graphc",
    "graphc.exporters": "exporters",
    "graphc.passes": "passes",
    "graphc.runtime": "runtime",
}

CODE_DIRS = [*PACKAGE_DIRS.values(), "tests", "examples", "benchmarks", "docs"]


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    found = {}
    for package, folder in PACKAGE_DIRS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def code_files() -> list[Path]:
    """Every Python file that people wrote."""
    return [path for folder in CODE_DIRS for path in sorted((ROOT / folder).rglob("*.py"))]


def shown(path: Path) -> str:
    """The path as people write it: from the root, with slashes."""
    return path.relative_to(ROOT).as_posix()
