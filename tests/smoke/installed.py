"""Checks an installed graphc, with its core dependencies only; `wheel.py` runs it far from the checkout."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from pathlib import Path

import graphc

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDERS = ("passes", "runtime", "exporters", "tests", "examples", "benchmarks", "docs")

# Packages that take long to import wait until they are needed.
HEAVY = {"graphviz", "matplotlib", "networkx", "onnx", "onnxruntime", "safetensors", "sklearn"}

home = Path(graphc.__file__).resolve().parent
assert not home.is_relative_to(CHECKOUT), f"{home} is the checkout, not the installed package"
assert (home / "py.typed").is_file(), "type checkers would ignore the package: py.typed is missing"
assert importlib.metadata.version("graphc") == graphc.__version__

modules = [module.name for module in pkgutil.walk_packages(graphc.__path__, "graphc.")]
for name in modules:
    importlib.import_module(name)
assert {"graphc.passes", "graphc.runtime", "graphc.exporters"} <= set(modules)

assert not HEAVY & set(sys.modules), f"imported before use: {sorted(HEAVY & set(sys.modules))}"

outside = [name for name in FOLDERS if importlib.util.find_spec(name) is not None]
assert not outside, f"installed under their bare names: {outside}"
