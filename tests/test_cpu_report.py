"""What a user sees of a native plan: the report, the dumps, and the cache of compiled code."""

import re

import llvmlite.binding as llvm
import numpy as np
import pytest

import graphc as gc
from graphc.ops.conv import conv_weight_grad
from graphc.ops.math import sin
from graphc.plan import Made
from graphc.runtime import cache
from graphc.runtime.cache import ObjectCache
from graphc.runtime.cpu import dump, hot_loops, jit, pointwise


@pytest.fixture(autouse=True)
def graph():
    with gc.Graph() as made:
        yield made


@pytest.fixture
def no_code(monkeypatch):
    """Switch off the code of an op: kernels around it run in NumPy."""

    def switch_off(op):
        table = {other: emit for other, emit in pointwise.TABLE.items() if other is not op}
        monkeypatch.setattr(pointwise, "TABLE", table)

    return switch_off


def report(fetches, feeds=None, **options):
    with gc.Session(**options) as session:
        return session.plan(fetches, feeds).report()


def line_with(text, words):
    (found,) = [line.strip() for line in text.splitlines() if words in line]
    return found


def variable(*shape, dtype="float32"):
    return gc.Variable(np.ones(shape, dtype))


# --- the report


def test_the_report_says_which_algorithm_computes_a_kernel():
    x, w = variable(8, 32, 28, 28), variable(32, 32, 3, 3)
    y = gc.conv2d(x, w, padding=1)
    assert "winograd 4x4" in line_with(report(y), "conv: conv")
    assert "direct" in line_with(report(y, conv_precision="exact"), "conv: conv")
    a, b = variable(200, 300), variable(300, 100)
    assert re.search(r"gemm \d+x\d+, ", line_with(report(gc.relu(a @ b)), "contract: matmul maximum"))
    double = variable(1, 2, 9, 9, dtype="float64")
    taps = variable(2, 2, 3, 3, dtype="float64")
    assert "one result at a time" in line_with(report(gc.conv2d(double, taps)), "conv: conv")


def test_the_report_says_which_loop_lies_in_vectors_and_what_is_scattered():
    x = variable(64, 48)
    assert re.search(r"\d+ lanes along i$", line_with(report(gc.exp(x) + 1), "pointwise: exp add"))
    assert "along j (reduced)" in line_with(report(gc.sum(x, axis=1)), "reduce: reduce_sum")
    strided = line_with(report(gc.exp(x[::2, ::3])), "pointwise: exp")
    assert "1 of 2 operands scattered" in strided
    masked = line_with(report(gc.where(gc.arange(48) > 5, gc.exp(x), 0)), "exp")
    lanes = [re.search(r"(\d+) lanes along", line)[1] for line in (masked, line_with(report(gc.exp(x)), "exp"))]
    assert lanes[0] == lanes[1], "counters of 8 bytes make no vector of 4-byte elements shorter"


def test_the_report_says_how_many_threads_can_help_and_what_memory_the_code_needs():
    text = report(gc.exp(variable(2000, 1000)))
    assert int(re.search(r"\[(\d+) parts\]", line_with(text, "pointwise: exp"))[1]) > 1
    assert line_with(text, "code: ") == (
        "code: 1 of 1 kernels are native; 1 are divided among threads; 0 B of workspace, 0 B of scratch a thread"
    )


def test_the_report_names_what_numpy_runs(no_code):
    no_code(sin)
    text = report([gc.sin(variable(3)), gc.exp(variable(4))])
    assert "NumPy: " in line_with(text, "pointwise: sin") and "sin" in line_with(text, "NumPy: ")
    assert line_with(text, "code: ").startswith("code: 1 of 2 kernels are native")


def test_the_report_says_what_simplifying_has_removed():
    x = variable(5, 6)
    y = gc.transpose(gc.transpose(x)) * 1.0 + (gc.sqrt(gc.constant(np.ones((1, 6), "float32"))) + 1.0)
    found = line_with(report(gc.exp(y)), "simplified: ")
    before, after = map(int, re.match(r"simplified: (\d+) ops, .* are (\d+) ", found).groups())
    assert after < before
    assert "2 transpose" in found and found.endswith("1 constants are computed ahead")


def test_composites_count_as_the_ops_in_them():
    x = variable(5, 6)
    simple = line_with(report(gc.exp(x)), "simplified: ")
    nested = line_with(report(gc.log_softmax(gc.gelu(x))), "simplified: ")
    assert simple.startswith("simplified: 1 ops, with composites taken apart, are 1;")
    assert int(nested.split()[1]) > 5


def test_the_report_says_what_lies_in_memory_between_kernels_and_why():
    x, w = variable(64, 32), variable(32, 32)
    shared = gc.exp(x @ w)
    text = report([shared @ w, gc.sum(shared, axis=0)])
    assert line_with(text, "not fused: ") == (
        "not fused: 1 values (8 KB) are written by one kernel and read by another"
    )
    assert re.search(r"8 KB  several kernels read them.*: exp \(test_cpu_report.py:\d+\)", text)
    text = report(gc.relu(x @ w) @ w)
    assert re.search(r"8 KB  matmul reads each element many times: maximum", text)
    text = report(gc.take(gc.exp(x), variable(3, dtype="int64"), axis=0))
    assert "gather reads its operands as they lie in memory: exp" in text
    assert "not fused" not in report(gc.exp(x) + 1)


def test_plans_of_other_devices_say_nothing_of_code():
    x = variable(3)
    for device in ("plan", "reference"):
        with gc.Session(device=device) as session:
            plan = session.plan(gc.exp(x))
        assert plan.made == () and "code: " not in plan.report()
    with gc.Session() as session:
        (made,) = session.plan(gc.exp(x)).made
    assert isinstance(made, Made) and made.native and made.parts == 1


# --- dumps


def dumped(folder):
    (made,) = folder.iterdir()
    return {path.name: path.read_text() for path in sorted(made.iterdir())}


def test_kernels_are_dumped_as_ir_assembly_and_machine_code(tmp_path, monkeypatch):
    x, w = gc.placeholder("x", ("batch", 32)), gc.placeholder("w", (32, 16))
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path / "dumps"))
    with gc.Session() as session:
        session.run(gc.softmax(gc.relu(x @ w)), {x: np.ones((4, 32)), w: np.ones((32, 16))})
    files = dumped(tmp_path / "dumps")
    names = list(files)
    assert names[0] == "00-input.txt" and names[-1] == "plan-batch=4.txt"
    kernels = [name for name in names if name.startswith("kernel-")]
    assert [name.rpartition(".")[2] for name in kernels] == ["ll", "s", "txt"] * 2
    assert kernels[0].startswith("kernel-000-contract-matmul")
    assert kernels[3].startswith("kernel-001-reduce-")
    assert files[kernels[2]].startswith("contract kernel\n") and "# gemm " in files[kernels[2]]
    for name, content in files.items():
        if name.endswith(".ll"):
            llvm.parse_assembly(content, llvm.create_context()).verify()
            assert name.removesuffix("ll") + "s" in files
    assert "phase0:" in files[kernels[4]]
    assert any(name.startswith("library-gemm_") for name in names)
    assert "step 1: reduce" in files["plan-batch=4.txt"] and "code: 2 of 2" in files["plan-batch=4.txt"]


def test_machine_code_is_dumped_as_it_is_compiled(tmp_path, monkeypatch):
    """What kernels have around their loops is compiled as it stands; its loops, and functions of the library, well."""
    made = []
    machine = dump.target_machine
    monkeypatch.setattr(dump, "target_machine", lambda host, plain: made.append(plain) or machine(host, plain=plain))
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    x, g = gc.Variable(np.ones((4, 16, 14, 14), np.float32)), gc.Variable(np.ones((4, 32, 14, 14), np.float32))
    gradient = conv_weight_grad(x, g, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1, kernel=(3, 3))
    with gc.Session(threads=1) as session:
        session.run(gradient * 2.0)
    files = dumped(tmp_path)
    (kernel,) = [name.removesuffix(".ll") for name in files if name.startswith("kernel") and name.endswith(".ll")]
    loops = set(hot_loops.names(files[f"{kernel}.ll"]))
    assert loops and all(f"\n{loop}:" in files[f"{kernel}.s"] for loop in loops)
    assert made[: 1 + len(loops)] == [True] + [False] * len(loops) and not any(made[1:])


def test_equal_kernels_are_dumped_once_and_sizes_apart(tmp_path, monkeypatch):
    x = gc.placeholder("x", ("n", 8))
    w = gc.placeholder("w", (8, 8))
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    y = gc.tanh(gc.tanh(gc.tanh(x @ w) @ w) @ w)
    with gc.Session() as session:
        for n in (2, 3):
            session.run(y, {x: np.ones((n, 8)), w: np.ones((8, 8))})
        assert len(session.plan(y, {x: np.ones((2, 8)), w: np.ones((8, 8))}).kernels) == 3
    files = dumped(tmp_path)
    assert sum(name.startswith("kernel-") and name.endswith(".txt") for name in files) == 1
    assert [name for name in files if name.startswith("plan")] == ["plan-n=2.txt", "plan-n=3.txt"]
    assert "  as in step 0" in files["plan-n=2.txt"]


def test_what_has_no_code_is_dumped_as_kernel_ir_alone(tmp_path, monkeypatch, no_code):
    no_code(sin)
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    with gc.Session() as session:
        session.run(gc.sin(variable(3)))
    files = dumped(tmp_path)
    assert [name for name in files if name.startswith("kernel")] == ["kernel-000-pointwise-sin.txt"]
    assert files["kernel-000-pointwise-sin.txt"].rstrip().endswith("# runs in NumPy")


def test_nothing_is_dumped_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("GRAPHC_DUMP", raising=False)
    monkeypatch.chdir(tmp_path)
    with gc.Session() as session:
        session.run(gc.exp(variable(3)))
    assert list(tmp_path.iterdir()) == []


# --- the cache of compiled code


def test_compiled_code_is_counted_and_cleared(tmp_path, monkeypatch):
    objects = ObjectCache(tmp_path / "graphc")
    for module in (cache, jit):
        monkeypatch.setattr(module, "object_cache", lambda: objects)
    before = gc.cache_info()
    assert (before.entries, before.bytes, before.hits) == (0, 0, 0)
    x = gc.placeholder("x", (12345,))
    with gc.Session() as session:
        session.run(gc.exp(x) * 0.12345, {x: np.zeros(12345)})
    after = gc.cache_info()
    assert after.entries >= 1 and after.bytes > 0 and after.misses >= 1
    assert after.directory == str(tmp_path / "graphc") and after.disabled is None
    gc.clear_cache()
    assert gc.cache_info().entries == 0
    with gc.Session() as session:
        assert session.run(gc.exp(x).sum(), {x: np.zeros(12345)}) == 12345
