"""What only a GPU can show: every op, gradient, random program and example computed there, as the reference says.

`make test-gpu` runs this and all else that is marked `gpu`. Of the random programs, some are run in every test, by the
same runtime over the host's memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from cuda_driver import GPU, PrintedDriver, on_host
from native_ops import program_of
from op_testing import FLOATS, INTEGERS, Call, call, retyped, samples_of
from random_checks import disagreement
from random_graphs import SEED, Builder, Case, cases
from random_starts import with_gradients
from test_ops import differentiable, each_op
from test_ops_cpu import GRADIENT_ULPS, ROUNDED, calls_of, check, gradients_of
from test_random_graphs import expected_results, for_random

import graphc as gc
from graphc.ir import Graph, Node
from graphc.op import Array
from graphc.passes import fuse
from graphc.passes.pipeline import run_pipeline, switches
from graphc.runtime.cuda import report
from graphc.runtime.cuda.kernels import INFO
from graphc.runtime.cuda.target import CudaTarget, on_gpu
from graphc.runtime.devices import SWITCHES

# Where all kernels are wanted, the CUDA C of all ops runs on the CPU, through the same runtime.
PRINTED = ["printed"] if os.environ.get("GRAPHC_TEST_CUDA") == "all" else []

# Elementary functions are CUDA's: within a few units in the last place, more of them than NumPy's.
ULPS = 2
BY_NUMPY = dict.fromkeys(  # of what dtypes there is no code
    ("scaled_dot_product_attention", "scaled_dot_product_attention_grad"), frozenset({*INTEGERS, "uint8", "bool"})
)
CONTRACTIONS = {"tf32": 2e-3, "bfloat16": 2e-2}  # of the largest value of a product of 64 normal numbers


@pytest.fixture(scope="module", params=[GPU, *PRINTED])
def gpu(request: pytest.FixtureRequest) -> CudaTarget:
    """A target that all tests share, so that it makes each kernel once."""
    return CudaTarget(PrintedDriver()) if request.param == "printed" else on_gpu((), "float32", "numpy")


def device_values(
    target: CudaTarget, calls: Sequence[Call], roots: Sequence[Sequence[Node]]
) -> tuple[Iterator[Array], frozenset[str]]:
    """The values of roots by one program, and the dtypes of what NumPy computed with; graphs give the same bits."""
    feeds = {leaf: value for made in calls for leaf, value in made.feeds.items()}
    executable = target.compile(program_of(calls, roots, INFO))
    by_numpy = [step for step in executable.symbolic.steps if step.kernel not in executable.kernels]
    first, again, captured = (executable.run(feeds, {}, {})[0] for _ in range(3))
    assert [value.tobytes() for value in first] == [value.tobytes() for value in again]
    assert [value.tobytes() for value in first] == [value.tobytes() for value in captured]
    return iter(first), frozenset(operand.dtype for step in by_numpy for operand in step.nodes[-1].inputs)


@each_op()
def test_values_are_those_of_the_reference(op, gpu):
    calls = list(calls_of(op))
    roots = [made.results for made in calls]
    ulps = ULPS + ROUNDED.get(op.name, 0)
    by_numpy = check(op.name, calls, roots, ulps, lambda *given: device_values(gpu, *given))
    assert by_numpy == BY_NUMPY.get(op.name, frozenset())


@each_op(lambda op: any(differentiable(op, sample) for sample in samples_of(op)))
def test_gradients_are_those_of_the_reference(op, gpu):
    graph = Graph()
    samples = [sample for sample in samples_of(op) if differentiable(op, sample)]
    calls = [call(op, retyped(sample, dtype), graph=graph) for dtype in FLOATS for sample in samples]
    roots = [gradients_of(made) for made in calls]
    assert not check(op.name, calls, roots, ULPS + GRADIENT_ULPS, lambda *given: device_values(gpu, *given))


# --- random programs


@pytest.fixture(params=["played", GPU])
def opened(request, monkeypatch):
    """What makes targets of a GPU, and of the same over the host's memory."""
    if request.param == "played":
        on_host(monkeypatch)
    return on_gpu


@pytest.fixture
def target(opened):
    """The target that sessions have."""
    return opened((), "float32", "numpy")


def agrees(target: CudaTarget, case: Case) -> None:
    """Assert that a case means what the reference says, the first time as later."""
    disable = frozenset(target.disable)
    program = run_pipeline(case.program, target.info, training=case.training, disable=disable & switches())
    executable = target.compile(program)
    runs = [executable.run(case.values, case.dims, case.draws) for _ in range(3)]
    outputs, _ = runs[0]
    assert all([a.tobytes() for a in outputs] == [b.tobytes() for b in again] for again, _ in runs)
    keys: list[int | Node] = [*range(len(outputs)), *[variable for variable, _ in program.updates]]
    for outputs, news in runs[-1:]:
        found = dict(zip(keys, [*outputs, *map(np.asarray, news)], strict=True))
        for key, (root, value) in expected_results(case).items():
            wrong = disagreement(found[key], case, root, value)
            assert not wrong, wrong


@pytest.mark.parametrize(("number", "finish"), [(0, Builder.case), (1, with_gradients)])
def test_random_programs_agree(target, number, finish):
    for_random(cases(12, finish), SEED + number, lambda case: agrees(target, case))


@pytest.mark.parametrize("technique", sorted(SWITCHES - {"commands", "entry"}))
def test_random_programs_agree_without_any_one_technique(opened, technique):
    target = opened((technique,), "float32", "numpy")
    for_random(cases(8, with_gradients), sum(map(ord, technique)), lambda case: agrees(target, case))


def test_random_programs_agree_wherever_their_nodes_are_computed(target, monkeypatch):
    for room in (fuse, report):
        monkeypatch.setattr(room, "on_host", lambda node: node.serial % 3 == 0)
    for_random(cases(12, with_gradients), SEED + 2, lambda case: agrees(target, case))


# --- what the host can't play


@pytest.mark.gpu
@pytest.mark.parametrize("precision", CONTRACTIONS)
def test_products_round_as_far_as_was_asked(precision):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(512, 512)).astype("float32") for _ in range(2))
    exact = a.astype("float64") @ b.astype("float64")
    errors: Mapping[str, float] = {}
    for each in ("float32", precision):
        with gc.Graph(), gc.Session(device="cuda", matmul_precision=each) as session:
            found = session.run(gc.placeholder("a", shape=(512, 512)) @ gc.constant(b), {"a": a})
        errors = {**errors, each: float(np.abs(found - exact).max() / np.abs(exact).max())}
    assert errors["float32"] < 1e-6 < errors[precision] < CONTRACTIONS[precision]


@pytest.mark.gpu
def test_torch_and_cupy_share_arrays_without_the_host():
    torch, cupy = pytest.importorskip("torch"), pytest.importorskip("cupy")
    with gc.Graph(), gc.Session(device="cuda", results="device") as session:
        x = gc.placeholder("x", shape=("n", 3))
        y = x * 2
        for fed in (cupy.arange(12, dtype="float32").reshape(4, 3), cupy.arange(12, dtype="float32").reshape(3, 4).T):
            found = session.run(y, {x: fed})
            assert (cupy.from_dlpack(found) == fed * 2).all() and (np.asarray(found) == fed.get() * 2).all()
        if torch.cuda.is_available():
            fed = torch.arange(12, dtype=torch.float32, device="cuda").reshape(4, 3)
            assert torch.equal(torch.from_dlpack(session.run(y, {x: fed})), fed * 2)
