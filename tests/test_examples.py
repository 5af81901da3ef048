"""The examples run, and what they print and write is right; the pictures of the documentation are those of today."""

import math
import re
import runpy
import sys
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from checkout import ROOT, shown
from safetensors.numpy import load_file

import graphc as gc
from graphc.runtime import session

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def graph():
    """A graph of its own for every test, so that names are what the example says."""
    with gc.Graph():
        yield


def load(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name=name)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example as a script, and returns what it printed."""

    def script(path, *arguments):
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        names = runpy.run_path(str(path), run_name="__main__")
        assert f"    python examples/{path.name}" in names["__doc__"]  # says how to run it
        return capsys.readouterr().out

    return script


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem != "digits"], ids=shown)
def test_every_example_runs_as_a_script(path, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(path)


@pytest.mark.gpu
@pytest.mark.parametrize("path", EXAMPLES, ids=shown)
def test_every_example_runs_on_a_gpu(path, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "BEST", "cuda")
    assert run(path)


# --------------------------------------------------------------------------------------------- linear regression

# Reference results. Mean squared error of w * t_u + b from (1, 0); losses before the epochs 100, 200, ..., 1000 on
# 0.1 * t_u, and the final (w, b); SGD with rate 1e-2, Adam with 1e-1.
START = (1763.8848, 4517.2969, 82.6000)
SGD = (22.148710, 16.608067, 12.664559, 9.857802, 7.860115, 6.438284, 5.426309, 4.706046, 4.193405, 3.828538)
SGD_FIT = (4.8021, -14.1031)
ADAM = (18.730587, 8.292550, 4.275753, 3.178962, 2.962302, 2.931170, 2.927909, 2.927659, 2.927646, 2.927647)
ADAM_FIT = (5.3676, -17.3044)


def same_digits(found, expected, digits=6, within=0.5):
    """Whether `found` is `expected` at so many significant digits, `within` so much of the last one."""
    unit = 10.0 ** (math.floor(math.log10(abs(expected))) + 1 - digits)
    return abs(found - expected) <= within * unit


def test_linear_regression_starts_from_the_reference_loss_and_gradient():
    found = load("linear_regression")["at_the_start"]()
    assert all(map(same_digits, found, START))


@pytest.mark.parametrize(
    ("way", "losses", "fit"),
    [("by_hand", SGD, SGD_FIT), ("symbolic", SGD, SGD_FIT), ("sgd", SGD, SGD_FIT), ("adam", ADAM, ADAM_FIT)],
)
@pytest.mark.parametrize(
    ("device", "within"), [("reference", 0.5), ("cpu", 1), pytest.param("cuda", 2, marks=pytest.mark.gpu)]
)
def test_linear_regression_gives_the_reference_results(way, losses, fit, device, within, monkeypatch):
    # The expected numbers were summed in NumPy's order; in another, 1,000 steps may move the last printed digit.
    monkeypatch.setattr(session, "BEST", device)
    found, w, b = load("linear_regression")["train"](way)
    pairs = zip(found, losses, strict=True)
    assert [f"{a:.7g} is not {b:.7g}" for a, b in pairs if not same_digits(a, b, within=within)] == []
    assert (round(w, 4), round(b, 4)) == fit


def test_linear_regression_draws_its_fit(tmp_path):
    load("linear_regression")["plot"]({"sgd": SGD_FIT, "adam": ADAM_FIT}, tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(PNG)


def test_linear_regression_does_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not load("linear_regression")["plot"]({}, tmp_path / "fit.png")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------- own gradients


def test_custom_gradient_gives_exact_gradients():
    found = load("custom_gradient")["main"]()
    x = np.array([0.2, 1.4, -2.6], "float32")
    plain = 3 * x**2
    expected = {
        "sum(x**3)": plain,
        "sum(clip_gradient(x)**3)": np.clip(plain, -1, 1),
        "sum(clip_gradient(x, limit=5)**3)": np.clip(plain, -5, 5),
        "sum(round_straight_through(x)**2)": 2 * np.round(x),
        "its Hessian": 2 * np.eye(3),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


# --------------------------------------------------------------------------------------------- named dimensions


def test_named_dims_shows_types_sizes_and_mistakes(capsys):
    load("named_dims")["main"]()
    said = capsys.readouterr().out
    for text in (
        "features: float32[batch, 8, (height - 7)//4 + 1, (width - 7)//4 + 1]",
        "brightness: float32[batch, 3]  contrast: float32[batch, 3, height, width]",
        "fed (1, 3, 32, 32): features (1, 8, 7, 7), brightness (1, 3)",
        "fed (4, 3, 21, 21): features (4, 8, 4, 4), brightness (4, 3)",
        "fed (0, 3, 64, 64): features (0, 8, 15, 15), brightness (0, 3)",
        "plans compiled: 1\n",
        "GuardError: the graph assumes (height + 1)//2 == height//2, but the feeds give batch = 2, height = 7",
        "ShapeError: add: shapes [batch, time] and [batch, seconds] do not broadcast: axis -1 is time and seconds",
    ):
        assert text in said


# --------------------------------------------------------------------------------------------- digits


def test_digits_are_learnt_exported_and_drawn(run, tmp_path):
    said = run(ROOT / "examples" / "digits.py", "--epochs", 2, "--out", tmp_path)
    accuracy = re.search(r"test accuracy ([\d.]+)% on 355 held-out images", said)
    assert float(accuracy[1]) > 90
    assert {p.name for p in tmp_path.iterdir()} == {"digits.safetensors", "digits.onnx", "digits.svg"}
    assert b"<svg" in (tmp_path / "digits.svg").read_bytes()
    weights = load_file(tmp_path / "digits.safetensors")
    assert weights["0.weight"].shape == (16, 1, 3, 3) and weights["9.bias"].shape == (10,)
    model = onnx.load(tmp_path / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["images"] and [o.name for o in model.graph.output] == ["logits"]
    kept = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert any(np.array_equal(value, weights["9.bias"]) for value in kept.values())


# --------------------------------------------------------------------------------------------- static and eager


@pytest.fixture
def compared():
    return load("static_vs_eager")


def test_every_system_trains_with_the_same_losses(compared):
    losses = compared["train"](50)
    assert {"static", "eager"} <= set(losses) and all(len(found) == 50 for found in losses.values())
    assert compared["furthest"](losses) <= 1e-5
    assert losses["eager"][-1] < 0.8 * losses["eager"][0]
    assert compared["furthest"]({"a": [1.0, 2.0], "b": [1.0, 2.5]}) == 0.5


def test_without_torch_two_systems_are_compared(compared, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert list(compared["systems"]()) == ["static", "eager"]


def test_a_gradient_goes_back_along_as_many_steps_as_were_taken(compared):
    for a, (static, static_slope) in zip([1.0, 2.0, 100.0], compared["static_slope"]([1.0, 2.0, 100.0]), strict=True):
        x, slope, count = compared["slope"](a)
        assert [x, static] == pytest.approx([math.sqrt(a)] * 2, rel=1e-6)
        assert [slope, static_slope] == pytest.approx([1 / (2 * x) if count else 1.0] * 2, rel=1e-3)
        assert count < compared["ENOUGH"]


def test_a_graph_says_that_a_loop_needs_a_value(compared):
    with pytest.raises(gc.GraphcError, match="where"):
        compared["root"](gc.placeholder("a", shape=()))


def test_what_is_computed_once_has_the_same_value_either_way(compared):
    (_, static), (_, eager) = (compared["once"]([3, 128])[name] for name in ("static", "eager"))
    assert static == pytest.approx(eager, rel=1e-5) and static[0] != static[1]


def test_a_debugger_shows_values_of_eager_tensors_and_types_of_nodes(compared):
    x = np.array([1, 2, 4], "float32")
    values = compared["stepped"](compared["suspicious"], compared["ge"].tensor(x))
    types = compared["stepped"](compared["suspicious"], gc.placeholder("x", shape=(3,)))
    assert [text.split(" = ")[0] for text in values] == ["x", "shifted", "rest", "logs"]
    assert "0. " in values[2] and "-inf" in values[3]
    assert types[3] == "logs = <log: float32[3]>"


def test_the_comparison_is_told_and_drawn(run, tmp_path):
    path = ROOT / "examples" / "static_vs_eager.py"
    said = run(path, "--steps", 10, "--rounds", 1, "--out", tmp_path)
    for text in ("the losses of 10 steps differ by", "eager against static", "+ fusion", "root of 2: eager 1.414214"):
        assert text in said
    assert (tmp_path / "static_vs_eager.png").read_bytes().startswith(PNG)


# --------------------------------------------------------------------------------------------- documentation

DOCS = ROOT / "docs"
SVG_TEXT = "{http://www.w3.org/2000/svg}text"
DOT_LABEL = re.compile(r'label="((?:[^"\\]|\\.)*)"')


def test_the_pictures_of_the_documentation_are_current(build):
    """They show the texts that they would show today; `make docs` renews them."""
    assert {path.stem for path in DOCS.glob("*.svg")} == set(build["PICTURES"])
    for name in build["PICTURES"]:
        shown = {text.text.strip() for text in ElementTree.parse(DOCS / f"{name}.svg").iter(SVG_TEXT)}
        labels = DOT_LABEL.findall(build["drawing"](name).source)
        assert shown == {line.strip() for label in labels for line in label.split("\\n")}, name


@pytest.fixture(scope="module")
def build():
    return runpy.run_path(str(DOCS / "build.py"))


@pytest.mark.parametrize("name", ["line", "spirals", "mlp", "inference"])
def test_what_was_measured_names_every_technique_of_today(build, name):
    """`make docs` measures anew."""
    page = (DOCS / build["STATIC"]).read_text(encoding="utf-8")
    table = page.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    chart = (DOCS / "measured" / f"{name}.svg").read_text(encoding="utf-8")
    for technique in sys.modules["graphc.ledger"].TECHNIQUES:
        for text in (f"+ {technique.name}", f"without {technique.name}"):
            assert f"\n{text} " in table and f">{text}<" in chart


def test_the_static_and_the_eager_line_compute_the_same(build):
    found = build["line"](rounds=1)
    assert found.base.name == "eager" and found.full.kernels == 1 < found.base.kernels


def test_what_the_page_shows_of_a_debugger_is_what_it_shows_today(build):
    assert build["stepped"]() in (DOCS / build["STATIC"]).read_text(encoding="utf-8")


def test_tables_of_pages(build):
    assert build["table"](("a", "b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    assert [build["digits3"](number) for number in (0.12345, 12.3456, 1234.5)] == ["0.123", "12.3", "1,234"]


def test_pages_refer_to_files_that_exist():
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert links and [link for link in links if not (page.parent / link).exists()] == []
