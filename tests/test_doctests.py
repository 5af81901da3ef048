"""Examples in the documentation run: those of docstrings, and the Python blocks of the pages."""

import doctest
import importlib
import re
from unittest.mock import patch

import pytest
from checkout import ROOT, modules, shown

from graphc.exporters.onnx.table import TABLE
from graphc.ir import Graph

PROMPT = ">>> "
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DESCRIBED = [name for name, path in modules().items() if PROMPT in path.read_text(encoding="utf-8")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def check(test: doctest.DocTest) -> None:
    """Run the examples; what was expected and what came is the message of the failure."""
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    failed = runner.run(test, out=report.append, clear_globs=False).failed
    assert not failed, "".join(report)


@pytest.mark.parametrize("name", DESCRIBED)
def test_examples_in_docstrings(name):
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        with Graph():  # what an example declares keeps its name
            check(test)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_examples_on_pages(page, tmp_path, monkeypatch):
    """The blocks of a page are one script from top to bottom, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names = {"__name__": "__main__"}
    with Graph(), patch.dict(TABLE):  # what a page declares ends with it
        for block in PYTHON_BLOCK.finditer(text):
            code, line = block[1], text.count("\n", 0, block.start(1))
            if PROMPT in code:
                test = doctest.DocTestParser().get_doctest(code, {}, f"{page.name}:{line}", str(page), line)
                test.globs = names
                check(test)
                continue
            exec(compile("\n" * line + code, str(page), "exec"), names)
