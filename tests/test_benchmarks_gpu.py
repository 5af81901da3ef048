"""The comparison on a GPU: what is measured with what, how goals are judged, and what is printed, without a GPU."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
from cuda_driver import Foreign, HostDriver, on_host

import graphc as gc
from benchmarks import gpu, peers, worker
from benchmarks.gpu import BY_CUDNN, BY_MEMORY, BY_OWN_KERNELS, BY_PRODUCTS, SMALL, systems_of
from benchmarks.measured import Measured
from benchmarks.options import Options
from benchmarks.running import WorkerError
from benchmarks.systems import COPY, PRECISIONS, WITHOUT_CUDNN, device_copy, system_of
from benchmarks.workloads import COPIED_BYTES, GIGA, GPU, Scale
from graphc.runtime.cuda import cudnn

TINY = Scale(batch=2, side=32, elements=64, nodes=40)
ROUNDING = ("mlp", "lenet", "resnet18", "gpt", "matmul")


def took(**seconds):
    """Results of systems, whose names have spaces for underscores."""
    return {name.replace("_", " "): Measured("1.0", [1.0], [each]) for name, each in seconds.items()}


# --- what is measured


def test_workloads_have_the_sizes_of_a_gpu():
    shapes = {key: [array.shape for array in GPU[key].data(Scale(batch=None))] for key in ("mlp", "lenet")}
    assert shapes == {"mlp": [(4096, 784), (4096,)], "lenet": [(4096, 3, 32, 32), (4096,)]}
    assert "256x3x224x224" in GPU["resnet18"].title and "12 layers, width 768, batch 8x1024" in GPU["gpt"].title
    assert GPU["elementwise"].nbytes == 12 * GIGA and "1 G floats" in GPU["elementwise"].title
    assert [(key, precision) for key, precision in gpu.rows_of(Options()) if key in ROUNDING] == [
        (key, precision) for key in ROUNDING for precision in PRECISIONS
    ]
    assert all(precision == "float32" for key, precision in gpu.rows_of(Options()) if key not in ROUNDING)


def test_every_workload_has_a_goal_of_its_kind():
    goals = {key: gpu.goals_of(key, frontend=True) for key in GPU}
    assert goals["tiny"] == goals["linreg"] == {"graphc": SMALL} and SMALL == ("torch", 3.0)
    assert goals["gpt"] == goals["mlp"] == {"graphc": BY_PRODUCTS} and BY_PRODUCTS == ("the best peer", 0.95)
    assert goals["sum"] == goals["elementwise"] == {"graphc": BY_MEMORY} and BY_MEMORY == ("copies", 0.85)
    assert all(GPU[key].nbytes for key, found in goals.items() if BY_MEMORY in found.values())
    assert goals["lenet"] == goals["resnet18"] == {"graphc": BY_CUDNN, WITHOUT_CUDNN: BY_OWN_KERNELS}
    assert (BY_CUDNN, BY_OWN_KERNELS) == (("torch", 1.0), ("torch", 0.6))
    assert gpu.goals_of("lenet", frontend=False) == {"graphc": BY_OWN_KERNELS}


def test_systems_are_those_that_a_goal_needs_and_the_peers_that_are_asked_for():
    everything = ["torch", "torch.compile", "jax"]
    assert systems_of("gpt", "tf32", Options(), frontend=True) == ["graphc", *everything]
    assert systems_of("sum", "float32", Options(), frontend=True) == ["graphc", COPY, *everything]
    assert systems_of("lenet", "tf32", Options(), frontend=True) == ["graphc", WITHOUT_CUDNN, *everything]
    assert systems_of("lenet", "tf32", Options(systems=("jax",)), frontend=False) == ["graphc", "jax"]


# --- how it is judged

ROWS = {  # a workload, what systems took, what is told, and whether that is met
    "small graphs beside torch alone": (
        "tiny",
        took(graphc=1e-5, torch=3e-5, jax=1e-6),
        {"graphc": "goal 3.0x torch: 3.00x torch, met"},
    ),
    "a small graph that isn't fast enough": (
        "tiny",
        took(graphc=1e-5, torch=2.9e-5),
        {"graphc": "goal 3.0x torch: 2.90x torch, MISSED"},
    ),
    "products beside the best peer": (
        "gpt",
        took(graphc=1.0, torch=0.98, jax=0.96),
        {"graphc": "goal 0.95x the best peer: 0.96x jax, met"},
    ),
    "memory beside copies": (
        "sum",
        took(graphc=1.0, torch=0.1, device_copy=1.8),
        {"graphc": "goal 85% of the rate of copies: 90.0%, met"},
    ),
    "memory that moves too slowly": (
        "elementwise",
        took(graphc=2.0, device_copy=1.0),
        {"graphc": "goal 85% of the rate of copies: 75.0%, MISSED"},
    ),
    "convolutions with cuDNN and without": (
        "lenet",
        took(graphc=1.0, graphc_without_cudnn=2.0, torch=1.1, jax=0.1),
        {"graphc": "goal 1.0x torch: 1.10x torch, met", WITHOUT_CUDNN: "goal 0.6x torch: 0.55x torch, MISSED"},
    ),
    "nothing to compare with": ("gpt", took(graphc=1.0), {"graphc": "nothing to compare with, not judged"}),
    "small graphs without torch": (
        "tiny",
        took(graphc=1.0, jax=1.0),
        {"graphc": "nothing to compare with, not judged"},
    ),
    "no figure": ("sum", took(device_copy=1.0), {"graphc": "goal 85% of the rate of copies: no figure, MISSED"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_goals_are_judged(name, capsys):
    key, results, told = ROWS[name]
    reached = gpu.show(key, GPU[key], results, {}, "float32", frontend=True)
    lines = capsys.readouterr().out.splitlines()
    for system, words in told.items():
        (line,) = [line for line in lines if line.strip().startswith(f"{system}: ")]
        assert line.endswith(words)
    assert reached == ("MISSED" not in " ".join(told.values()))


def test_copies_are_told_with_everyones_share_and_are_no_system(capsys):
    results = took(graphc=2.0, torch=4.0, device_copy=COPIED_BYTES / 3e12)
    workload = GPU["elementwise"]._replace(nbytes=3e12)
    results[COPY] = results[COPY]._replace(values=[7.0])  # they compute nothing that could agree
    gpu.show("elementwise", workload, results, {}, "float32", frontend=False)
    out = capsys.readouterr().out
    assert "of the 3000 GB/s of copies within the device's memory: graphc 50%, torch 25%" in out
    assert "DIFFERENT" not in out and "device copy   " not in out


def test_different_results_are_told_as_far_as_a_precision_rounds(capsys):
    results = took(graphc=1.0, torch=9.0)
    results["torch"] = results["torch"]._replace(values=[1.02])
    assert gpu.show("matmul", GPU["matmul"], results, {}, "bfloat16", frontend=False)
    assert not gpu.show("matmul", GPU["matmul"], results, {}, "tf32", frontend=False)
    assert "DIFFERENT RESULTS: torch" in capsys.readouterr().out


# --- the whole, over a driver of the host's


class Here:
    """A worker in this process, at tiny sizes; peers aren't installed.

    Attributes:
        open: how many there are; memory: how many have it at once, before others fail.
    """

    open, memory = 0, 99
    missing = "not installed: no module"

    def __init__(self, name, options):
        self.system, self.ready = system_of(name), []
        Here.open += 1

    def answer(self):
        if self.system.package != "graphc":
            raise WorkerError(self.missing)
        module = importlib.import_module(f"benchmarks.systems.{self.system.module}")
        self.table = module.prepare(self.system.variant, 1)
        return {"version": gc.__version__}

    def ask(self, what, **request):
        if what == "prepare" and Here.open > Here.memory:
            raise WorkerError("OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB")
        return worker.answered(self.table, self.ready, what, **request)

    def close(self):
        Here.open -= 1


@pytest.fixture
def here(monkeypatch):
    """Workers in this process, over drivers of the host's that know cuDNN."""
    drivers = on_host(monkeypatch)
    device = SimpleNamespace(synchronize=lambda: drivers[-1].synchronise())
    cupy = SimpleNamespace(asarray=Foreign, cuda=SimpleNamespace(Device=lambda: device))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(HostDriver, "libraries", ["cudnn"])
    monkeypatch.setattr(peers, "Worker", Here)
    monkeypatch.setattr(worker, "FULL", TINY)
    monkeypatch.setattr(worker, "workload_of", GPU.get)
    monkeypatch.setattr(device_copy, "COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(cudnn, "installed", lambda: object())
    monkeypatch.setattr(Here, "memory", 99)
    return drivers


def test_rows_are_measured_with_all_that_they_are_judged_by(here, capsys, tmp_path):
    file = tmp_path / "figures.json"
    options = Options(only=("tiny", "lenet", "sum"), rounds=2, turn=0.0, json=str(file))
    gpu.compare(options)
    report = json.loads(file.read_text())
    assert [(row["workload"], row["precision"]) for row in report] == [
        ("tiny", "float32"),
        *[("lenet", precision) for precision in PRECISIONS],
        ("sum", "float32"),
    ]
    assert [list(row["systems"]) for row in report] == [["graphc"], *[["graphc", WITHOUT_CUDNN]] * 3, ["graphc", COPY]]
    assert report[-1]["goals"][0]["ratio"] > 0 and report[0]["goals"][0]["ratio"] is None
    assert all(len(each["samples"]) == 2 for row in report for each in row["systems"].values())
    out = capsys.readouterr().out
    assert (
        "GB/s of copies within the device's memory" in out and "not judged" in out and "one after the other" not in out
    )
    used = [session for session in here if session.asked.get("launch")]
    assert len(used) == 8 and Here.open == 0  # and one that only copies, and one that only looks for a GPU


def test_what_does_not_fit_together_is_measured_one_after_the_other(here, capsys, monkeypatch):
    monkeypatch.setattr(Here, "memory", 1)
    assert gpu.compare(Options(only=("tiny",), systems=("none",), rounds=1, turn=0.0))
    assert "one after the other" not in capsys.readouterr().out  # there is only graphc
    gpu.compare(Options(only=("sum",), systems=("none",), rounds=1, turn=0.0))
    out = capsys.readouterr().out
    assert "2 processes don't fit on the device together: one after the other" in out
    assert "failed" not in out and "of copies within the device's memory: graphc" in out


@pytest.mark.parametrize(
    ("why", "lacks"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB", True),
        ("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4294967296 bytes", True),
        ("ResourceError: this run needs 12 GB of memory, and the device has 3 GB for it; the largest", True),
        ("ResourceError: memory lacks for what is there beside a run's 4 KB, such as code", True),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", False),
        ("not installed: No module named 'torch'", False),
    ],
)
def test_a_lack_of_memory_is_known_by_what_systems_say(why, lacks):
    assert gpu.lacks_memory(why) == lacks


def test_without_the_frontend_of_cudnn_a_line_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr(cudnn, "installed", lambda: None)
    gpu.compare(Options(only=("lenet",), systems=("none",), rounds=1, turn=0.0))
    out = capsys.readouterr().out
    assert "cuDNN's frontend isn't installed" in out and WITHOUT_CUDNN not in out and "goal 0.6x torch" in out
