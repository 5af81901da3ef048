"""The benchmarks measure what they say: every workload and op builds and runs, and what they print follows."""

import inspect
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkout import ROOT
from cuda_driver import Foreign, on_host

import graphc as gc
from benchmarks import charts, gpu, load, memory, op_cases, ops, peers, threads, worker
from benchmarks.__main__ import parsed
from benchmarks.op_cases import CASES, WITHOUT_CASE, WITHOUT_GRADIENT
from benchmarks.options import Options
from benchmarks.running import Worker, WorkerError
from benchmarks.systems import (
    COPY,
    GPU_SYSTEMS,
    PRECISIONS,
    SYSTEMS,
    WITHOUT_CUDNN,
    Prepared,
    graphc_eager,
    graphc_ops,
    graphc_session,
    on_gpu,
)
from benchmarks.workloads import EAGER, GPU, WORKLOADS, Scale
from graphc.ops import REGISTRY
from graphc.runtime.cpu.driver import PARALLEL_NS, CommandList
from graphc.runtime.cpu.pool import Pool

TINY = Scale(batch=2, side=32, elements=64, nodes=40)
STEP, RUN = (graphc_session.prepare(variant, 1) for variant in ("step", "run"))
REPEATED = [name for name, workload in WORKLOADS.items() if not workload.fresh]


def results(table, name, steps=2):
    """What the first steps of a workload give at tiny sizes."""
    workload = WORKLOADS[name]
    prepared = table[name](workload.weights(), workload.data(TINY))
    return [np.asarray(prepared.read(prepared.step())) for _ in range(steps)]


# --- workloads


@pytest.mark.parametrize("name", REPEATED)
def test_a_workload_takes_steps(name):
    first, second = results(STEP, name)
    assert np.all(np.isfinite(first))
    assert first.shape == second.shape
    assert np.array_equal(first, second) != (first.shape == ()), "what trains has a scalar loss, which changes"


@pytest.mark.parametrize("name", [name for name in GPU if name not in WORKLOADS])
def test_what_is_measured_on_a_gpu_alone_takes_steps(name):
    prepared = STEP[name]({}, GPU[name].data(TINY))
    assert np.all(np.isfinite(prepared.read(prepared.step())))


def test_on_a_gpu_every_system_has_its_precisions_and_graphc_every_workload():
    assert set(GPU) <= set(STEP)
    for precision in PRECISIONS:
        names = [name for name, system in GPU_SYSTEMS.items() if on_gpu(system.variant) == precision]
        known = ("graphc", WITHOUT_CUDNN, COPY, "torch", "torch.compile", "jax")
        assert names == [f"{name} cuda {precision}" for name in known]
    assert all(on_gpu(system.variant) is None for system in SYSTEMS.values())


@pytest.mark.parametrize("name", [name for name in GPU if name != "resnet18"])  # which takes NumPy half a minute
def test_what_is_measured_on_a_gpu_computes_what_the_cpu_does(name, monkeypatch):
    drivers = on_host(monkeypatch)
    device = SimpleNamespace(synchronize=lambda: drivers[-1].synchronise())
    monkeypatch.setitem(
        sys.modules, "cupy", SimpleNamespace(asarray=Foreign, cuda=SimpleNamespace(Device=lambda: device))
    )
    table = graphc_session.prepare(GPU_SYSTEMS["graphc cuda float32"].variant, 1)
    prepared = table[name](GPU[name].weights(), GPU[name].data(TINY))
    wanted = STEP[name](GPU[name].weights(), GPU[name].data(TINY))
    for _ in range(3):  # launched, captured, replayed
        found, expected = (np.asarray(each.read(each.step())) for each in (prepared, wanted))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def test_without_a_gpu_one_line_says_that_nothing_is_measured_there(capsys, monkeypatch):
    def refuse(**options):
        raise gc.DeviceError("there is no driver")

    monkeypatch.setattr(gc, "Session", refuse)
    assert gpu.compare(Options())
    assert capsys.readouterr().out == "nothing is measured on a GPU: there is no driver\n"


def test_the_first_step_from_scratch_gives_the_loss_of_a_step():
    table = {"mlp": graphc_session.Ways("step", 1).first_step(graphc_session.models.mlp, gc.optim.Adam())}
    assert results(table, "mlp", steps=1) == results(STEP, "mlp", steps=1)


def test_no_more_is_put_aside_than_a_first_step_takes():
    workload = WORKLOADS["mlp"]
    prepare = graphc_session.Ways("step", 1).first_step(graphc_session.models.mlp, gc.optim.Adam())
    prepared = prepare(workload.weights(), workload.data(TINY))
    assert prepared.aside() == 0
    taken = worker.timed(prepared, 1, 0.0)
    assert 0 < taken["aside"] == prepared.aside() < taken["seconds"]


def test_the_chain_gives_the_gradient_of_its_weights():
    x, w = WORKLOADS["chain"].data(TINY)
    (gradient,) = results({"chain": lambda weights, data: STEP["chain"](weights, data, nodes=4)}, "chain", steps=1)
    assert gradient == pytest.approx(0.5 * x.T @ (1 - np.tanh(x @ w) ** 2), rel=1e-4)


@pytest.mark.parametrize("name", ["linreg", "mlp", "matmul"])
def test_running_and_stepping_compute_the_same(name):
    assert np.array_equal(results(STEP, name), results(RUN, name))


@pytest.mark.parametrize("name", [name for name in EAGER if name in WORKLOADS])
def test_eager_steps_have_the_losses_of_sessions(name):
    found = results(graphc_eager.prepare("", 1), name, steps=3)
    np.testing.assert_allclose(found, results(STEP, name, steps=3), rtol=1e-5)


def test_the_eager_addition_is_on_the_tape():
    a, b = EAGER["tracked_add"].data(TINY)
    prepared = graphc_eager.prepare("", 1)["tracked_add"]({}, (a, b))
    assert prepared.step().requires_grad
    assert np.array_equal(prepared.read(prepared.step()), a + b)


def test_linear_regression_starts_as_it_is_known_to():
    losses = [float(loss) for loss in results(STEP, "linreg", steps=2)]
    assert losses == pytest.approx([80.3643, 37.5749], rel=1e-5)


def test_exact_convolutions_are_measured_where_sessions_know_them():
    known = "conv_precision" in inspect.signature(gc.Session).parameters
    assert list(graphc_session.prepare("exact", 1)) == (list(graphc_session.CONVOLUTIONS) if known else [])


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet18", "gpt"])
def test_weights_are_those_of_the_model(name):
    model = getattr(graphc_session.models, name)(graphc_session.LIBRARY)
    weights = WORKLOADS[name].weights()
    assert {k: (v.shape, v.dtype) for k, v in weights.items()} == {
        k: (tuple(v.shape), v.dtype) for k, v in model.state_dict().items()
    }


# --- ops


def test_every_op_is_measured_or_there_is_a_reason_why_not():
    assert set(CASES) | set(WITHOUT_CASE) == set(REGISTRY)
    assert not set(CASES) & set(WITHOUT_CASE)
    assert set(WITHOUT_GRADIENT) <= set(CASES)


@pytest.mark.parametrize("op", CASES)
def test_an_op_runs_with_its_gradient(op):
    direction = "forward" if op in WITHOUT_GRADIENT else "gradient"
    name = op_cases.label(op, 0, direction)
    prepared = graphc_ops.prepare("", 1)[name]({}, op_cases.workload(name).data(TINY))
    assert np.asarray(prepared.read(prepared.step())).size


# --- what is printed


def measured(seconds, values=(1.0,)):
    return peers.Measured("1.0", list(values), [seconds])


def test_the_goal_is_a_ratio_to_the_best_peer(capsys):
    workload = WORKLOADS["mlp"]._replace(goal=2.0)
    assert peers.show(workload, {"graphc": measured(1e-3), "torch": measured(9e-3), "jax": measured(2e-3)}, {})
    assert "2.00x as fast as the best peer, jax, goal 2.0x: met" in capsys.readouterr().out
    assert not peers.show(workload, {"graphc": measured(1.1e-3), "jax": measured(2e-3)}, {})
    assert "MISSED" in capsys.readouterr().out


def test_without_peers_there_is_no_goal(capsys):
    assert peers.show(WORKLOADS["mlp"], {"graphc": measured(1e-3)}, {"torch": "not installed: no module"})
    assert "MISSED" not in capsys.readouterr().out


def test_a_figure_that_is_missing_misses_the_goal(capsys):
    assert not peers.show(WORKLOADS["mlp"], {"torch": measured(1e-3)}, {"graphc": "ValueError: a reason"})
    assert "graphc               failed: ValueError: a reason" in capsys.readouterr().out


def test_a_system_that_computes_something_else_is_named():
    values = {"graphc": measured(1, [1.0, 2.0]), "near": measured(1, [1.001, 2.001]), "far": measured(1, [1.0, 2.1])}
    assert peers.differing({**values, "short": measured(1, [1.0])}) == ["far", "short"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.1, "100 ms"), (1.23456e-3, "1.23 ms"), (4e-6, "4 µs"), (3e-10, "0.3 ns")]
)
def test_durations_have_three_digits(seconds, text):
    assert peers.duration(seconds) == text


def test_ops_are_listed_worst_first(capsys):
    samples = [ops.Sample(f"{op}/0/forward", ours, 1e-6, True) for op, ours in (("add", 1e-6), ("exp", 3e-6))]
    ops.show(samples, {"sort/0/forward": "a reason"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["exp", "add"]
    assert lines[-1] == "2 measured, 2 beyond 1.2x, different or failed"


def test_what_torch_takes_where_it_returns_views_is_shown_too(capsys):
    ops.show([ops.Sample("add/0/gradient", 3e-6, 3e-6, True, 1e-6)], {})
    assert "1.00x  (3.00x of 1 µs, where torch returns views)" in capsys.readouterr().out


# --- charts


def turns(*seconds):
    return peers.Measured("1.0", [1.0], list(seconds))


def test_ratios_are_those_of_turns_of_one_round():
    """Everything took ten times as long in the second round; the ratio didn't."""
    assert charts.ratios(turns(1.0, 10.0, 1.0), turns(2.0, 20.0, 4.0)) == (2.0, 2.0, 3.0)


def test_peers_are_compared_with_graphc_alone():
    results = {"graphc": turns(1.0), "graphc run": turns(3.0), "torch": turns(5.0)}
    assert charts.compared(results) == {"torch": (5.0, 5.0, 5.0)}
    assert charts.compared({"torch": turns(5.0)}) == {}


def test_charts_are_files_that_name_what_was_measured(tmp_path):
    everything = {
        "mlp": {"graphc": turns(1.0, 1.1), "torch": turns(2.0, 2.2), "jax": turns(3.0, 3.3)},
        "chain": {"graphc": turns(1.0)},
        "gpt": {},
    }
    files = charts.draw(everything, tmp_path / "new")
    assert [file.name for file in files] == ["ratios.svg", "mlp.svg", "chain.svg"]
    ratios, mlp, _ = (file.read_text(encoding="utf-8") for file in files)
    assert "torch 2.00x" in ratios and "jax 3.00x" in ratios and "chain" not in ratios
    assert "1.05 s" in mlp and "2.1 s" in mlp


# --- the command line, and the process


def test_arguments_are_checked(capsys):
    names, options = parsed(["peers", "--only", "mlp,lenet", "--systems", "torch", "--rounds", "5", "--threads", "2"])
    assert names == ["peers"]
    assert (options.only, options.systems, options.rounds, options.threads) == (("mlp", "lenet"), ("torch",), 5, 2)
    for wrong in (["pears"], ["peers", "--only", "mpl"], ["peers", "--systems", "torhc"]):
        with pytest.raises(SystemExit, match="2"):
            parsed(wrong)
        assert "there are" in capsys.readouterr().err


def test_a_worker_answers_and_survives_what_it_can_not_do():
    _, options = parsed(["--threads", "1"])
    with Worker("graphc", options) as process:
        assert process.answer() == {"version": gc.__version__}
        process.ask("prepare", workload="linreg")
        assert len(process.ask("values")["values"]) == 3
        with pytest.raises(WorkerError, match="TypeError"):
            process.ask("time", stepz=1)
        assert process.ask("time", steps=2, turn=0.0)["steps"] == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
def test_the_peak_is_that_of_the_steps():
    size = 64 << 20
    prepared = Prepared(lambda: np.ones(size, np.uint8))
    assert 0.9 * size < (found := worker.peak(prepared, steps=2))["peak"] - found["idle"] < 1.5 * size


@pytest.mark.parametrize(("later", "reached"), [(90, True), (131, False)])
def test_memory_is_that_of_a_process_that_finds_the_step_compiled_and_the_other_is_told(monkeypatch, later, reached):
    started = []

    class Process:
        def __init__(self, system, options, caches):
            started.append(caches)

        __enter__, __exit__, answer = lambda self: self, lambda *_: None, lambda _: {}

        def ask(self, what, **given):
            peak = [150, later][len(started) - 1]
            return {"prepare": {}, "peak": {"idle": 200 * memory.MIB, "peak": (200 + peak) * memory.MIB}}[what]

    monkeypatch.setattr(memory, "Worker", Process)
    rows = [*memory.rows("graphc run", Options(), limit=130)]
    assert started[0] == started[1] and len(started) == 2
    assert [row.measured for row in rows] == [f"{later} MiB", "200 MiB", "150 MiB"]
    assert [row.reached for row in rows] == [reached, True, True]


def test_a_system_that_is_not_installed_says_so():
    code = "import sys; sys.modules['jax'] = None; from benchmarks import worker; worker.main('jax', 1)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(said.stdout)["missing"].startswith("not installed")


def test_runs_beside_a_busy_process_are_timed_one_by_one():
    with load.busy_process():
        many, one = load.durations("tiny", (2, 1), runs=2 * load.BLOCK)
    assert len(many) == len(one) == 2 * load.BLOCK
    assert min(many + one) > 0


def test_the_95th_percentile_beside_a_busy_process_is_compared_with_that_of_one_thread(monkeypatch):
    monkeypatch.setattr(load, "durations", lambda name, threads: [[1e-6] * 90 + [n * 1e-3] * 10 for n in threads])
    rows = list(load.percentiles(Options(only=("matmul",), threads=2)))
    assert [row.reached for row in rows] == [True, False]
    assert rows[0].measured == "2 ms, 1 thread 1 ms"
    assert rows[1].measured == "2.00x"


def test_every_threshold_for_threads_is_set_against_what_was_measured():
    rows = list(threads.thresholds(Options(rounds=1, threads=2)))
    names = ("TICKET_NS", "PARALLEL_NS", "SPIN_NS", "WAKE_NS", "SHORT_NS")
    assert {name for row in rows for name in names if name in row.wanted} == set(names)
    divided = {row.what.split(" of ")[0]: bool(row.wanted) for row in rows if row.what.endswith("divided")}
    assert divided == {peers.duration(k / 4 * PARALLEL_NS * 1e-9): k >= 4 for k in (1, 2, 4, 8, 16)}


def test_one_thread_divides_nothing_and_still_has_pythons_lock():
    rows = list(threads.thresholds(Options(rounds=1, threads=1)))
    assert ["SHORT_NS" in row.wanted for row in rows] == [False, True]


def test_a_phase_that_meets_needs_all_that_it_waits_for():
    with closing(Pool(2)) as pool:
        assert threads.typical(3, CommandList([threads.command("meet", 2, 2, threads.DIVIDED)]), pool) > 0
        assert pool.workers == 1


@pytest.mark.parametrize("name", EAGER)
def test_workloads_of_eager_execution_can_be_asked_for(name):
    assert parsed(["eager", "--only", name])[1].only == (name,)


class Steady:
    """A worker whose steps always take as long, but those of workloads with some text in their names."""

    def __init__(self, seconds, slow=""):
        self.seconds, self.slow, self.workload = seconds, slow, ""
        self.asked = []

    def ask(self, what, **given):
        self.asked.append(what)
        self.workload = given.get("workload", self.workload)
        seconds = self.seconds * (8 if self.slow and self.slow in self.workload else 1)
        return {"prepare": {}, "values": {"values": [1.0]}, "time": {"steps": 3, "seconds": seconds}}[what]


@pytest.mark.parametrize("name", EAGER)
def test_eager_workloads_are_timed_like_ops_of_one_size(name):
    found = ops.sampled(name, (Steady(2e-6), Steady(4e-6)), Options(rounds=1, turn=0))
    assert found.ratio == 0.5 and found.same and found.views is None


@pytest.mark.parametrize(("ours", "turns"), [(2e-6, 5), (4e-6, 5), (4.3e-6, 15), (9e-6, 15)])
def test_what_is_near_the_limit_or_beyond_is_timed_in_all_rounds(ours, turns):
    """And prepared anew every five rounds: one more time, to find how many steps a turn has."""
    workers = Steady(ours), Steady(4e-6)
    ops.sampled("add/0/forward", workers, Options(rounds=15, turn=0))
    asked = ["prepare", "values", "time", *["time"] * 5] * (turns // 5)
    assert [worker.asked for worker in workers] == [asked, asked]
    few = Steady(ours), Steady(4e-6)
    ops.sampled("add/0/forward", few, Options(rounds=3, turn=0))
    assert few[0].asked.count("time") - 1 == 3


def test_gradients_that_torch_returns_as_views_are_timed_both_ways():
    workers = (Steady(2e-6), Steady(4e-6, slow=ops.VIEWS))
    found = ops.sampled_op("add/0/gradient", workers, Options(rounds=1, turn=0))
    assert found.theirs == 4e-6 and found.views == 8 * 4e-6
    assert ops.sampled_op("add/0/forward", workers, Options(rounds=1, turn=0)).views is None
