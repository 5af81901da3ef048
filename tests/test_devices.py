"""What a session runs on: native code where the host can run it, else NumPy and a word about it; and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from state_testing import output_of, user_op, variable

import graphc as gc
from graphc.runtime.cpu.host import this_host

# --- hosts that can't run native code

HOSTS = {
    "llvmlite is missing": ("import sys; sys.modules['llvmlite'] = None", "llvmlite"),
    "llvmlite can't be loaded": (
        """
import builtins
def refuse(name, *args, wanted=builtins.__import__):
    if name.startswith("llvmlite"):
        raise OSError("cannot open shared object file")
    return wanted(name, *args)
builtins.__import__ = refuse
""",
        "cannot open shared object file",
    ),
    "code is refused": (
        """
import llvmlite.binding as llvm
def refuse():
    raise OSError("no executable memory")
llvm.check_jit_execution = refuse
""",
        "no executable memory",
    ),
    "code can't be linked": (
        """
import llvmlite.binding as llvm
def refuse(*args):
    raise RuntimeError("Cannot allocate memory")
llvm.JITLibraryBuilder.link = refuse
""",
        "Cannot allocate memory",
    ),
    "an old processor": (
        """
import llvmlite.binding as llvm
llvm.get_process_triple = lambda: "x86_64-unknown-linux-gnu"
llvm.get_host_cpu_features = lambda: {"sse2": True, "avx2": True, "fma": False, "f16c": False}
""",
        "the processor lacks fma, f16c",
    ),
    "another architecture": (
        "import llvmlite.binding as llvm; llvm.get_process_triple = lambda: 'riscv64-unknown-linux-gnu'",
        "riscv64",
    ),
}

SCRIPT = """
import warnings
{host}
import graphc as gc
x = gc.placeholder("x", shape=(2,))
w = gc.Variable([1.0, 2.0], name="w", dtype="float32")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    session = gc.Session({device})  # the user's line
for _ in range(3):
    y, _ = session.run([x * w, w.assign_add(x)], {{x: [1, 2]}})
print(session.device, y.tolist(), session[w].tolist(), len(told))
print(told[0].filename, told[0].message)
print(session.plan(x * w, {{x: [1, 2]}}).report())
"""


@pytest.mark.parametrize("device", ["", "device='cpu'"])
@pytest.mark.parametrize("host", HOSTS)
def test_numpy_takes_over_where_native_code_cannot_run(host, device):
    preparation, reason = HOSTS[host]
    first, second, *report = output_of(SCRIPT.format(host=preparation, device=device)).splitlines()
    assert first == "reference [3.0, 12.0] [4.0, 8.0] 1"
    assert second.startswith("<string> device 'cpu' can't be used here: ") and reason in second
    assert second.endswith("; NumPy runs everything, more slowly")
    assert any("NumPy: " in line and reason in line for line in report)


def test_a_broken_invariant_is_not_hidden_by_numpy(monkeypatch):
    def broken():
        raise gc.InternalError("LLVM refuses generated code")

    monkeypatch.setattr("graphc.runtime.devices.require_code", broken)
    with pytest.raises(gc.InternalError):
        gc.Session(device="cpu")
    gc.Session(device="reference")


def test_the_report_says_what_numpy_runs_and_why(capsys):
    with gc.Graph(), gc.Session(device="cpu") as session:
        flags = gc.placeholder("flags", shape=(4,), dtype="bool")
        y = [gc.exp(gc.cumsum(gc.cast(flags, "float32"))), user_op(lambda x: x)(flags)]
        session.run(y, {flags: [True, False, True, True]})
        report = session.plan(y, {flags: np.ones(4, bool)}).report()
    assert "code: 3 of 4 kernels are native" in report
    assert "NumPy: no code for user_op" in report
    assert capsys.readouterr() == ("", "")


# --- memory that can't be had


def outer(x):
    return gc.reshape(x, (-1, 1)) * x


HUGE = 1 << 24  # whose square no address space holds

PARTS = this_host().vector_bytes // 16  # TB of sums of parts of the columns, which are then joined

# In TB, and the largest of it.
SHORT = {
    "a temporary": (lambda x: gc.softmax(outer(x)).sum(axis=0), 1024 + PARTS, "exp, float32[16777216, 16777216]"),
    "a result": (outer, 1024, "multiply, float32[16777216, 16777216]"),
}


@pytest.mark.parametrize("what", SHORT)
def test_a_run_that_needs_too_much_memory_says_how_much_and_changes_nothing(what):
    make, total, largest = SHORT[what]
    with gc.Graph(), gc.Session(device="cpu") as session:
        x, w = gc.placeholder("x", shape=("n",)), variable([1.0])
        y, bump = make(x), w.assign(w * 2)
        for n in (3, HUGE, 5):
            if n < HUGE:
                session.run([y, bump], {x: np.ones(n, "float32")})
                continue
            with pytest.raises(gc.ResourceError, match=f"this run needs {total} TB of memory") as caught:
                session.run([y, bump], {x: np.zeros(n, "float32")})
            assert f"1024 TB: {largest}" in str(caught.value) and "test_devices.py" in str(caught.value)
            assert "feed fewer samples" in str(caught.value)
            assert session[w].tolist() == [2]
        assert session[w].tolist() == [4]


def test_sizes_beyond_all_numbers_of_bytes_are_refused():
    with gc.Graph(), gc.Session(device="cpu") as session:
        x = gc.placeholder("x", shape=("n", 0))
        n = gc.ones_like(x.sum(axis=1))
        total = gc.softmax(outer(n)).sum()
        assert session.run(total, {x: np.ones((3, 0))}) == 3
        with pytest.raises(gc.ResourceError):
            session.run(total, {x: np.ones((1 << 31, 0))})
        assert session.run(total, {x: np.ones((2, 0))}) == 2


# --- how accurate convolutions are


def convolved(rng, **options):
    with gc.Graph(), gc.Session(device="cpu", **options) as session:
        x = gc.placeholder("x", shape=(2, 32, 24, 24))
        y = gc.conv2d(x, gc.constant(rng.normal(size=(32, 32, 3, 3)).astype("float32")), padding=1)
        feed = rng.normal(size=(2, 32, 24, 24)).astype("float32")
        return session.run(y, {x: feed})


def test_convolutions_are_as_accurate_as_was_asked():
    values = {
        name: convolved(np.random.default_rng(0), **options)
        for name, options in {
            "default": {},
            "winograd4": {"conv_precision": "winograd4"},
            "exact": {"conv_precision": "exact"},
        }.items()
    }
    with gc.Graph(), gc.Session(device="reference") as session:
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(32, 32, 3, 3)).astype("float32").astype("float64")
        x = rng.normal(size=(2, 32, 24, 24)).astype("float32").astype("float64")
        true = session.run(gc.conv2d(gc.constant(x), gc.constant(kernel), padding=1))
    errors = {name: float(np.abs(value - true).max() / np.abs(true).max()) for name, value in values.items()}
    assert (values["default"] == values["winograd4"]).all()
    assert errors["exact"] < 1e-6 < 4e-6 and errors["exact"] < errors["winograd4"] < 1e-5


@pytest.mark.parametrize("wrong", ["winograd", "", None, 4])
def test_a_precision_that_does_not_exist_is_refused(wrong):
    with pytest.raises(gc.ArgumentError, match="conv_precision must be 'winograd4' or 'exact'"):
        gc.Session(conv_precision=wrong)
