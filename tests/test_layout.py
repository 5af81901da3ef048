"""The layout of the repository: who imports whom, what is packaged, how long files and functions may be."""

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from checkout import PACKAGE_DIRS, ROOT, code_files, modules, shown

# A module is in the room that names it or the closest of its parents. The package `graphc` itself is a face
# and nobody's parent: a module that no room names fails a test.
ROOMS = {
    "core": [
        "graphc.attrs",
        "graphc.cached",
        "graphc.collector",
        "graphc.composites",
        "graphc.dims",
        "graphc.dumps",
        "graphc.errors",
        "graphc.evaluate",
        "graphc.fallible",
        "graphc.files",
        "graphc.ir",
        "graphc.kernel",
        "graphc.kernel_text",
        "graphc.occurrences",
        "graphc.op",
        "graphc.operands",
        "graphc.operators",
        "graphc.ops",
        "graphc.philox",
        "graphc.plan",
        "graphc.plan_report",
        "graphc.plan_text",
        "graphc.shortage",
        "graphc.source",
        "graphc.target",
        "graphc.printer",
        "graphc.restore",
        "graphc.types",
        "graphc.values",
        "graphc.verify",
        "graphc.verify_plan",
    ],
    "passes": ["graphc.passes"],
    "models": [
        "graphc.data",
        "graphc.losses",
        "graphc.metrics",
        "graphc.nn",
        "graphc.optim",
        "graphc.random",
    ],
    "runtime": ["graphc.runtime"],
    "exporters": ["graphc.exporters"],
    "faces": ["graphc", "graphc.draw", "graphc.eager", "graphc.export", "graphc.ledger", "graphc.ledger_report"],
}

MAY_IMPORT = {
    "core": {"core"},
    "passes": {"core", "passes"},
    "models": {"core", "passes", "models"},
    "runtime": {"core", "passes", "runtime"},
    "exporters": {"core", "passes", "exporters"},
    "faces": set(ROOMS),
}

# Below the faces, one module imports the pipeline.
PIPELINE = "graphc.passes.pipeline"
KNOW_PIPELINE = {"graphc.runtime.session", "graphc.runtime.devices"}  # the one that runs it, and what it runs of it

# Every other third-party package is imported in the function that uses it: `import graphc` stays fast, and a
# missing extra concerns only whoever asks for it.
IMPORTED_AT_ONCE = {"ml_dtypes", "numpy"}

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60  # docstring not counted

# "folder/file.py" or "folder/file.py: Class.function" -> the reason why it is longer.
LONGER_FOR_A_REASON: dict[str, str] = {}


class Import(NamedTuple):
    """One imported module, its line, and where the statement stands."""

    name: str
    line: int
    place: str  # "module", "function", or "typing" (under `if TYPE_CHECKING:`)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(module: str) -> str | None:
    named = {name: room for room, names in ROOMS.items() for name in names}
    parts = module.split(".")
    parents = [".".join(parts[:length]) for length in range(len(parts), 1, -1)]
    return next((named[name] for name in [module, *parents] if name in named), None)


@cache
def imports(path: Path) -> list[Import]:
    found = []
    pending: list[tuple[ast.AST, str]] = [(parsed(path), "module")]
    while pending:
        node, place = pending.pop()
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, place) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [Import(name, node.lineno, place) for name in imported_modules(node)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = "function"
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            place = "typing"
        pending += [(child, place) for child in ast.iter_child_nodes(node)]
    return found


def imported_modules(node: ast.ImportFrom) -> list[str]:
    """What `from m import a, b` imports: m.a where that is a module of the package, else m."""
    package = "." * node.level + (node.module or "")
    names = [f"{package}.{alias.name}" for alias in node.names]
    return sorted({name if name in modules() else package for name in names})


def top(name: str) -> str:
    return name.split(".")[0]


def is_third_party(name: str) -> bool:
    return top(name) not in sys.stdlib_module_names | {"graphc"}


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Qualified name and length of each function."""
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, prefix = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            prefix = f"{prefix}.{node.name}".removeprefix(".")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            yield prefix, span(node) - (span(node.body[0]) if has_docstring else 0)
        pending += [(child, prefix) for child in ast.iter_child_nodes(node)]


def span(node: ast.stmt) -> int:
    return node.end_lineno - node.lineno + 1


def too_long() -> dict[str, int]:
    """Lines of each file and function that has more than its limit."""
    files = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in code_files()}
    parts = {f"{shown(path)}: {name}": n for path in code_files() for name, n in functions(parsed(path))}
    return {what: n for what, n in files.items() if n > MAX_FILE_LINES} | {
        what: n for what, n in parts.items() if n > MAX_FUNCTION_LINES
    }


def test_every_module_is_in_a_room():
    homeless = [shown(path) for name, path in modules().items() if room_of(name) is None]
    assert not homeless, "name these modules in ROOMS"


def test_every_name_in_a_room_is_that_of_a_module():
    named = [name for names in ROOMS.values() for name in names]
    assert sorted(named) == sorted(set(named) & set(modules())), "each once, and only modules that exist"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    wrong = [
        f"{shown(path)}:{use.line} imports {use.name}, which is in room {room_of(use.name)}"
        for name, path in modules().items()
        if room_of(name) == room
        for use in imports(path)
        if top(use.name) == "graphc" and room_of(use.name) not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_below_the_faces_only_the_session_and_its_devices_import_the_pipeline():
    callers = [
        f"{shown(path)}:{use.line}"
        for name, path in modules().items()
        if name not in KNOW_PIPELINE and room_of(name) != "faces"
        for use in imports(path)
        if use.name == PIPELINE
    ]
    assert not callers


def test_functions_import_third_party_packages_only():
    dodges = [
        f"{shown(path)}:{use.line} imports {use.name}"
        for path in modules().values()
        for use in imports(path)
        if use.place == "function" and not is_third_party(use.name)
    ]
    assert not dodges


def test_heavy_packages_are_imported_where_they_are_used():
    early = [
        f"{shown(path)}:{use.line} imports {use.name}"
        for path in modules().values()
        for use in imports(path)
        if use.place == "module" and is_third_party(use.name) and top(use.name) not in IMPORTED_AT_ONCE
    ]
    assert not early


def test_no_file_imports_a_folder_under_its_bare_name():
    bare = [
        f"{shown(path)}:{use.line} imports {use.name} instead of graphc.{use.name}"
        for path in code_files()
        for use in imports(path)
        if top(use.name) in {"passes", "runtime", "exporters"}
    ]
    assert not bare


def test_importing_everything_leaves_the_bare_names_alone():
    for name in modules():
        importlib.import_module(name)
    assert not {"passes", "runtime", "exporters"} & set(sys.modules)


def test_every_package_folder_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert packages == set(settings["packages"]), "see tool.setuptools in pyproject.toml"
    assert {"graphc": "graphc"} | settings["package-dir"] == PACKAGE_DIRS


def test_every_module_lies_in_a_package():
    strays = [shown(path) for path in modules().values() if not (path.parent / "__init__.py").exists()]
    assert not strays, "the wheel lacks them: their folder has no __init__.py"


def test_files_and_functions_are_short():
    assert {what: n for what, n in too_long().items() if what not in LONGER_FOR_A_REASON} == {}


def test_each_exception_to_the_limits_is_still_needed():
    assert set(LONGER_FOR_A_REASON) <= set(too_long())
