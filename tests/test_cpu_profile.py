"""Profiles: a recorded run computes what a plain run does, and says when, where and how fast each part of it was."""

import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc.runtime.cpu import peak, profile
from graphc.runtime.cpu.builder import Module
from graphc.runtime.cpu.driver import TICKET_NS, Command, CommandList, Scratch, tickets_of
from graphc.runtime.cpu.host import HOSTS, this_host
from graphc.runtime.cpu.jit import compiled, load
from graphc.runtime.cpu.phases import PARAMETERS
from graphc.runtime.cpu.pool import shared_pool
from graphc.runtime.cpu.values import I64, constant
from graphc.runtime.profile import Description, Peak, Profile, Recorder, Span
from graphc.runtime.work import Work, live_bytes, work_of, work_of_node

DEVICES = ("cpu", "plan", "reference")


@pytest.fixture(autouse=True)
def graph():
    with gc.Graph() as made:
        yield made


def network():
    """A training step with dropout, with its feeds."""
    x = gc.placeholder("x", ("batch", 12))
    labels = gc.placeholder("labels", ("batch",), "int64")
    with gc.scope("model"):
        hidden = gc.nn.Dropout(0.5)(gc.relu(gc.nn.Linear(12, 16)(x)))
        logits = gc.nn.Linear(16, 3)(hidden)
    loss = gc.losses.cross_entropy(logits, labels)
    rng = np.random.default_rng(0)
    feeds = {x: rng.standard_normal((8, 12), np.float32), labels: rng.integers(0, 3, 8)}
    return loss, gc.optim.Adam(lr=0.1).minimize(loss), feeds


def events(path, kind="X"):
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == kind]


# --- the run


@pytest.mark.parametrize("device", DEVICES)
def test_a_recorded_run_is_a_run(device, tmp_path):
    loss, train, feeds = network()
    found = []
    for options in ({}, {"profile": tmp_path / "trace.json"}):
        with gc.Session(device=device, seed=3) as session:
            values = [session.run([loss, train], feeds, **options) for _ in range(4)]
            variables = {node.name: session[node] for node in gc.current_graph().variables()}
            found.append(([float(value) for value, _ in values], variables))
    (plain, before), (recorded, after) = found
    assert plain == recorded and len(set(plain)) == 4
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_recorded_and_plain_runs_can_alternate(tmp_path):
    """The plain ones are bound to memory of the session, which recording leaves where it is."""
    x = gc.placeholder("x", (1000,))
    y = gc.exp(x).sum()
    data = np.linspace(0, 1, 1000, dtype="float32")
    with gc.Session() as session:
        paths = [None, None, tmp_path / "trace.json"] * 3
        values = {float(session.run(y, {x: data}, profile=path)) for path in paths}
    assert len(values) == 1


def test_a_run_that_fails_writes_no_trace_and_changes_nothing(tmp_path):
    table, index = gc.Variable(np.ones((3, 2), "float32"), name="table"), gc.placeholder("index", (), "int64")
    update = table.assign(table + gc.take(table, index, axis=0))
    with gc.Session() as session:
        with pytest.raises(gc.GraphcError, match="index"):
            session.run(update, {index: 7}, profile=tmp_path / "trace.json")
        assert np.array_equal(session[table], np.ones((3, 2)))
    assert list(tmp_path.iterdir()) == []


def test_where_no_trace_can_be_written_nothing_runs(tmp_path):
    count = gc.Variable(0, name="count")
    with gc.Session() as session:
        for path in (tmp_path / "missing" / "trace.json", tmp_path, 5):
            with pytest.raises(gc.ArgumentError):
                session.run(count.assign_add(1), profile=path)
        assert session[count] == 0
        with pytest.raises(gc.ArgumentError, match="runs must be a positive int, got 0"):
            session.profile(count, runs=0)


# --- the trace


def test_the_trace_of_a_native_run(tmp_path):
    loss, train, feeds = network()
    path = tmp_path / "trace.json"
    with gc.Session(threads=2) as session:
        session.run([loss, train], feeds, profile=path)
        plan = session.plan([loss, train], feeds)
    spans = events(path)
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in spans)
    kernels = [event for event in spans if event["cat"] != "session"]
    assert {event["args"]["step"] for event in kernels} == set(range(len(plan.kernels)))
    lines = {event["args"]["line"].partition(":")[0] for event in kernels}
    assert lines == {"test_cpu_profile.py"}
    assert any(event["args"]["node"].startswith("model/") for event in kernels)
    matmul = next(event["args"] for event in kernels if "matmul" in event["name"])
    assert matmul["code"].startswith("gemm") and "float32[8, 12]" in matmul["reads"]
    parts = [event["name"] for event in spans if event["cat"] == "session"]
    assert parts[:3] == ["find or make the plan", "feeds", "prepare"] and parts[-1] == "results"
    names = {event["tid"]: event["args"]["name"] for event in events(path, "M") if event["name"] == "thread_name"}
    assert names[0] == "caller" and {event["tid"] for event in spans} <= set(names)


@pytest.mark.parametrize("device", DEVICES)
def test_the_counter_of_temporaries_reaches_the_planned_peak_and_ends_at_nothing(device, tmp_path):
    loss, train, feeds = network()
    path = tmp_path / "trace.json"
    with gc.Session(device=device) as session:
        session.run([loss, train], feeds, profile=path)
        plan = session.plan([loss, train], feeds)
    counter = [event["args"]["live bytes"] for event in events(path, "C")]
    assert counter[-1] == 0
    if device != "reference":
        assert max(counter) == plan.lower_bound_bytes == max(live_bytes(plan))
    assert max(counter) > 0


def test_parts_of_a_run_lie_inside_of_it_and_kernels_do_not_overlap():
    loss, train, feeds = network()
    with gc.Session(threads=2) as session:
        before = time.perf_counter_ns()
        (run,) = session.profile([loss, train], feeds, runs=1).runs
        after = time.perf_counter_ns()
    slack = 1_000_000  # of two clocks
    assert all(before - slack <= span.start <= span.end <= after + slack for span in run.spans)
    bounds = {}
    for span in run.spans:
        if span.step is not None:
            low, high = bounds.get((span.step, span.phase), (span.start, span.end))
            bounds[span.step, span.phase] = min(low, span.start), max(high, span.end)
    ordered = [bounds[key] for key in sorted(bounds)]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered))


@pytest.mark.parametrize("threads", [1, 3])
def test_each_piece_of_work_is_recorded_once(threads):
    """A phase that adds its units to a sum of its worker."""
    module = Module()
    f = module.function("phase0", PARAMETERS, I64)
    at = f.parameter(4)
    f.store(f.add(f.load(I64, at, 8), f.sub(f.parameter(3), f.parameter(2))), at, 8)
    f.ret(constant(I64, 0))
    code = load([module.text()], [["phase0"]])[0]
    cost = 40 * TICKET_NS
    command = Command(code.address("phase0"), np.zeros(1, np.int64), 100, cost, "add")
    timed = profile.Timed(CommandList([command, command]))
    scratch, pool = Scratch(threads, profile.PAGE), shared_pool(threads)
    scratch.memory[:] = 0
    scratch.memory[:8].view(np.int64)[0] = profile.PAGE
    assert profile.run(timed, 0, scratch, pool) == 0
    calls = timed.calls(scratch)
    assert {call.command for call in calls} == {0, 1}
    assert {call.worker for call in calls} <= set(range(threads))
    expected = 2 * (tickets_of(100, cost)[1] if threads > 1 else 1)
    assert sum(call.tickets for call in calls) == expected


@pytest.mark.parametrize("host", [this_host(), *HOSTS.values()], ids=lambda host: host.cpu)
def test_the_clock_and_the_measurements_can_be_assembled(host):
    for assembly in (profile.assembly(host), peak.assembly(host)):
        assert compiled(assembly, host)


# --- what was achieved


def test_the_table_has_the_kernels_that_take_longest_first():
    loss, train, feeds = network()
    with gc.Session(threads=1) as session:
        found = session.profile([loss, train], feeds, runs=3)
    lines = [line for line in str(found).splitlines() if not line.startswith("something else kept")]
    head, parts, peaks, titles, *rows = lines
    assert head.startswith("3 runs on 'cpu', 1 thread: ")
    assert f" in {len(found.kernels)} kernels, " in parts
    assert re.search(r"GFLOP/s float32, [\d.]+ GFLOP/s float64, [\d.]+ GB/s read and written", peaks)
    assert titles.split()[:2] == ["share", "time"]
    shares = [float(row.split()[0]) for row in rows]
    assert len(rows) == len(found.kernels) and shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 1
    assert all(kernel.ns > 0 and 0 < kernel.busy <= 1.001 and kernel.of_peak > 0 for kernel in found.kernels)


def test_times_are_of_kernels_between_and_around_them():
    """Two kernels in 300 ns: the first on two threads, for 100 and 50 ns of 100; the second 20 ns later, on one."""
    works = [
        Work("a", "reduce", "a", "", (), (), 800, 200, "float32"),
        Work("b", "pointwise", "b", "", (), (), 0, 0, ""),
    ]
    spans = [
        Span("feeds", -50, 0),
        Span("", 0, 100, step=0),
        Span("", 50, 100, thread=1, step=0),
        Span("", 120, 220, step=1),
        Span("results", 220, 250),
    ]
    run = Recorder()
    run.describe = lambda: Description(works, (64, 0), 2, lambda: Peak({"float32": 4.0, "float64": 2.0}, 20.0))
    run.did_all(lambda: spans)
    found = Profile("cpu", [run])
    first, second = found.kernels
    assert (first.ns, first.busy, second.ns, second.busy) == (100, 0.75, 100, 0.5)
    assert (first.gflops, first.gbytes) == (2.0, 8.0)
    assert (first.bound, first.of_peak) == ("compute", 0.5)  # 50 ns of arithmetic, 40 of memory
    assert (second.bound, second.of_peak) == ("", None)
    assert (found.total_ns, found.kernels_ns, found.between_ns, found.around_ns) == (300, 200, 20, 80)
    assert "something else kept this machine busy" not in found.summary
    slow = Recorder()
    slow.did_all(lambda: [Span("", 0, 1000, step=0), Span("", 1000, 1100, step=1)])
    slower = Recorder()
    slower.did_all(lambda: [Span("", 0, 100, step=0), Span("", 100, 1100, step=1)])
    assert "the kernels take 200 ns" in Profile("cpu", [run, slow, slower]).summary


def test_a_profile_of_the_reference_has_no_peak():
    loss, _, feeds = network()
    with gc.Session(device="reference") as session:
        found = session.profile(loss, feeds)
    assert found.peak is None and "of peak" not in found.summary
    assert found.kernels[0].ns > 0


def test_the_peak_is_that_of_vectors():
    """Others may keep the machine busy through all of one kind's measurements, but not each time."""
    assert peak.measured_peak(1) is peak.measured_peak(1)
    several = (peak.measured_peak.__wrapped__(1) for _ in range(50))
    assert any(found.flops["float32"] > 1.5 * found.flops["float64"] > 0.1 and found.bytes > 0.1 for found in several)


def test_work_is_counted_by_the_definition():
    x, w = gc.placeholder("x", ("n", 5)), gc.placeholder("w", (5, 7))
    image, taps = gc.placeholder("image", (2, 4, 9, 9)), gc.placeholder("taps", (6, 2, 3, 3))
    table, index = gc.placeholder("table", (1000, 4)), gc.placeholder("index", (3,), "int64")
    y = gc.conv2d(image, taps, groups=2)
    (by_image, by_taps) = gc.gradients(y.sum(), [image, taps])
    cases = {
        "product": (gc.relu(x @ w), 2 * 3 * 5 * 7 + 3 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7)),
        "convolution": (y, 2 * (2 * 6 * 7 * 7) * (2 * 3 * 3), 4 * (2 * 4 * 81 + 6 * 18 + 2 * 6 * 49)),
        "picked": (gc.take(table, index, axis=0), 0, 4 * 3 * 4 + 8 * 3 + 4 * 3 * 4),
    }
    for name, (node, flops, nbytes) in cases.items():
        with gc.Session() as session:
            feeds = {n: np.zeros([3 if dim == "n" else dim for dim in map(_size, n.shape)], n.dtype)
                     for n in (x, w, image, taps, table, index)}  # fmt: skip
            plan = session.plan(node, {n: feeds[n] for n in feeds if n in _needed(node)})
        (step,) = plan.kernels
        work = work_of(step, plan)
        assert (work.flops, work.nbytes) == (flops, nbytes), name
    products = cases["convolution"][1]
    nodes = gc.Program((), (by_image, by_taps)).nodes()
    grads = [work_of_node(node, {}).flops for node in nodes if node.op.kind == "conv"]
    assert grads == [products, products]


@pytest.mark.parametrize(("is_causal", "pairs"), [(False, 20 * 30), (True, 20 * 21 // 2)])
def test_attention_counts_its_products_for_the_keys_that_are_seen(is_causal, pairs):
    shapes = ((2, 20, 7), (2, 20, 5), (2, 30, 5), (2, 30, 7))
    g, q, k, v = (gc.placeholder(name, shape) for name, shape in zip("gqkv", shapes, strict=True))
    whole = gc.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    outputs = {whole: 5 + 7, gc.vjp(whole, [q], g)[0]: 3 * 5 + 2 * 7}
    for output, products in outputs.items():
        with gc.Session() as session:
            plan = session.plan(output, {x: np.zeros(x.shape, x.dtype) for x in (g, q, k, v) if x in _needed(output)})
        (step,) = plan.kernels
        assert work_of(step, plan).flops == 2 * 2 * pairs * products


def _size(dim):
    return dim if isinstance(dim, int) else str(dim)


def _needed(node):
    return set(gc.Program((), (node,)).nodes())


def test_a_recorded_step_is_named_by_the_users_scope_and_line():
    with gc.scope("encoder"):
        y = gc.exp(gc.placeholder("x", (4,)))
    with gc.Session() as session:
        (kernel,) = session.profile(y, {"encoder/x": np.zeros(4)}, runs=1).kernels
    assert kernel.work.node == "encoder/exp"
    assert kernel.work.line == f"{Path(__file__).name}:{_line_of('y = gc.exp(gc.placeholder')}"


def _line_of(code):
    return 1 + next(k for k, line in enumerate(Path(__file__).read_text().splitlines()) if code in line)
