"""Convolutions by cuDNN: what it is asked for, that it is passed over where it can't, and that results are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.runtime.cuda import cudnn
from graphc.runtime.cuda.cudnn import WORKSPACE_BYTES, Cudnn, CudnnError
from graphc.runtime.cuda.cupy_driver import CupyDriver
from graphc.runtime.cuda.driver import Convolved, Tensor
from graphc.runtime.cuda.kernels import INFO, cuda_kernel
from graphc.runtime.cuda.launches import Convolution, Launch
from tests.cuda_cores import plan_kernels, prepared
from tests.cuda_driver import HostDriver, on_host
from tests.cuda_host import needs_compiler
from tests.fake_cupy import FakeCupy

X = Tensor(1000, (2, 6, 9, 8), (432, 72, 8, 1), "float32")
W = Tensor(2000, (4, 3, 3, 3), (27, 9, 3, 1), "float32")
Y = Tensor(3000, (2, 4, 5, 8), (160, 40, 8, 1), "float32")


class Part:
    """A tensor or a graph of the frontend, which notes what it is told."""

    def __init__(self, frontend: Frontend, **told: Any) -> None:
        self.frontend, self.told = frontend, told

    def __getattr__(self, name: str) -> Any:
        def tell(*args: Any, **kwargs: Any) -> Any:
            self.frontend.calls.append((name, args, kwargs))
            if name in self.frontend.failing:
                raise self.frontend.UnsupportedError(self.frontend.said or name)
            if name in ("tensor", "conv_fprop", "conv_dgrad", "conv_wgrad"):
                return Part(self.frontend, operation=name, **kwargs)
            if name == "get_uid":
                return self.told.get("name", self.told["operation"])
            return self

        return tell


class Names:
    """An enumeration, whose members are their names."""

    def __getattr__(self, name: str) -> str:
        return name


class Frontend:
    """What `cudnn` would be."""

    class UnsupportedError(Exception):
        """There is no plan."""

    data_type = heur_mode = numerical_note = Names()

    def __init__(self, *failing: str) -> None:
        self.failing, self.said = failing, ""
        self.calls: list[tuple[str, Any, Any]] = []

    def create_handle(self) -> str:
        return "handle"

    def set_stream(self, **told: Any) -> None:
        self.calls.append(("set_stream", (), told))

    def pygraph(self, **told: Any) -> Part:
        self.calls.append(("pygraph", (), told))
        return Part(self, operation="graph")

    def told(self, name: str) -> Any:
        """The arguments of the one call of this name."""
        ((args, kwargs),) = [call[1:] for call in self.calls if call[0] == name]
        return kwargs or args


def problem(direction: Any, compute: str = "float32", **tensors: Tensor) -> Convolved:
    """A convolution with a stride of 2 along its first axis, in two groups."""
    given = {"x": X, "w": W, "y": Y, **tensors}
    return Convolved(direction, given["x"], given["w"], given["y"], (2, 1), (1, 1), ((1, 1), (1, 1)), compute)


@pytest.mark.parametrize(
    ("direction", "operation", "operands"),
    [("forward", "conv_fprop", "xw"), ("data", "conv_dgrad", "yw"), ("weight", "conv_wgrad", "xy")],
)
def test_each_direction_is_asked_for(direction: str, operation: str, operands: str) -> None:
    frontend = Frontend()
    run = Cudnn(frontend, 77, 5000).convolution(problem(direction))
    assert callable(run)
    assert frontend.told("set_stream") == {"handle": "handle", "stream": 77}
    told = frontend.told(operation)
    assert {part.told["name"] for part in told.values() if isinstance(part, Part)} == set(operands)
    assert told["stride"] == [2, 1] and told["pre_padding"] == told["post_padding"] == [1, 1]
    result = {"forward": Y, "data": X, "weight": W}[direction]
    assert frontend.told("set_dim") == (list(result.shape),)
    assert frontend.told("set_stride") == (list(result.strides),)
    run()
    addresses, workspace = next(args for name, args, _ in frontend.calls if name == "execute")
    assert sorted(addresses.values()) == [1000, 2000, 3000] and workspace == 5000


def test_only_what_is_deterministic_and_as_exact_as_wanted_is_taken() -> None:
    for compute, notes in (
        ("float32", ["NONDETERMINISTIC", "TENSOR_CORE"]),
        ("tf32", ["NONDETERMINISTIC"]),
        ("bfloat16", ["NONDETERMINISTIC"]),
    ):
        frontend = Frontend()
        assert callable(Cudnn(frontend, 0, 0).convolution(problem("forward", compute)))
        assert frontend.told("deselect_numeric_notes") == (notes,)
        assert frontend.told("deselect_workspace_greater_than") == (WORKSPACE_BYTES,)
    halves = {name: tensor._replace(dtype="float16") for name, tensor in (("x", X), ("w", W), ("y", Y))}
    frontend = Frontend()
    assert callable(Cudnn(frontend, 0, 0).convolution(problem("forward", **halves)))
    assert frontend.told("deselect_numeric_notes") == (["NONDETERMINISTIC"],)


@pytest.mark.parametrize("step", ["conv_fprop", "validate", "create_execution_plans", "check_support", "build_plans"])
def test_what_it_can_not_do_is_passed_over(step: str) -> None:
    assert Cudnn(Frontend(step), 0, 0).convolution(problem("forward")) == f"has no plan for it: {step}"


def test_what_it_does_not_know_is_not_asked() -> None:
    frontend = Frontend()
    empty = problem("forward", x=X._replace(shape=(0, 6, 9, 8)))
    assert Cudnn(frontend, 0, 0).convolution(empty) == "doesn't take what has no elements"
    assert not any(name == "pygraph" for name, _, _ in frontend.calls)


def test_a_frontend_that_can_not_be_loaded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(cudnn.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cudnn.importlib, "import_module", fail)
    assert cudnn.installed() is None


def test_a_kernel_has_both_ways() -> None:
    x, w = gc.placeholder("x", (2, 6, 9, 8)), gc.placeholder("w", (4, 6, 3, 3))
    for output, following in ((gc.conv2d(x, w), 0), (gc.relu(gc.conv2d(x, w)), 1)):
        (step,) = plan_kernels(prepared([output], info=INFO), INFO).steps
        with_library, without = (cuda_kernel(step.kernel, libraries=known) for known in (["cudnn"], []))
        assert with_library is not None and without is not None
        (command,) = with_library.commands
        assert isinstance(command, Convolution)
        assert len(command.then) == following and len(command.instead) == len(without.commands) == 1
        assert all(isinstance(each, Launch) for each in without.commands)
    double = [gc.conv2d(gc.placeholder("d", x.shape, "float64"), gc.placeholder("e", w.shape, "float64"))]
    (step,) = plan_kernels(prepared(double, info=INFO), INFO).steps
    kernel = cuda_kernel(step.kernel, libraries=["cudnn"])
    assert kernel is not None and kernel.notes[-1] == "not by cudnn, which takes no float64"
    one_axis = gc.conv1d(gc.placeholder("s", (2, 6, 9)), gc.placeholder("v", (4, 6, 3)))
    (step,) = plan_kernels(prepared([one_axis], info=INFO), INFO).steps
    kernel = cuda_kernel(step.kernel, libraries=["cudnn"])
    assert kernel is not None and not any(isinstance(command, Convolution) for command in kernel.commands)
    assert kernel.notes[-1] == "not by cudnn, which takes two or three axes"


@needs_compiler
def test_runs_give_the_same_whichever_convolves(monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = on_host(monkeypatch, printed=True)
    rng = np.random.default_rng(0)
    found = []
    for known in (False, True):
        monkeypatch.setattr(HostDriver, "libraries", ["cudnn"] if known else [])
        with gc.Graph(), gc.Session(device="cuda") as session:
            x, w = gc.placeholder("x", (2, 3, 9, 8)), gc.placeholder("w", (4, 3, 3, 3))
            b = gc.placeholder("b", (4, 1, 1))
            y = gc.relu(gc.conv2d(x, w, stride=(2, 1), padding=1) + b)
            outputs = [y, *gc.gradients(gc.sum(y * y), [x, w, b])]
            rng = np.random.default_rng(0)
            feeds = {place: rng.standard_normal(place.shape).astype(np.float32) for place in (x, w, b)}
            for _ in range(3):
                found.append(session.run(outputs, feeds))
        assert ("convolution" in drivers[-1].asked) == known
    for values in found[1:]:
        for value, wanted in zip(values, found[0], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)


def test_the_driver_has_one_handle_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = Frontend()
    monkeypatch.setattr(cudnn, "installed", lambda: None)
    assert "cudnn" not in CupyDriver(FakeCupy()).libraries
    monkeypatch.setattr(cudnn, "installed", lambda: frontend)
    driver = CupyDriver(FakeCupy())
    assert "cudnn" in driver.libraries
    runs = [driver.convolution(problem(direction)) for direction in ("forward", "data")]
    assert frontend.told("set_stream")["stream"] == driver._stream.ptr
    for run in runs:
        assert callable(run)
        run()
    places = {args[1] for name, args, _ in frontend.calls if name == "execute"}
    assert len(places) == 1 and min(places) > 0


@pytest.mark.parametrize(
    ("said", "kind"), [("CUDNN_STATUS_EXECUTION_FAILED", CudnnError), ("no ALLOC_FAILED", MemoryError)]
)
def test_what_fails_when_it_is_executed_is_told(said: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = Frontend("execute")
    frontend.said = said
    monkeypatch.setattr(cudnn, "installed", lambda: frontend)
    driver = CupyDriver(FakeCupy())
    run = driver.convolution(problem("forward"))
    assert callable(run) and CudnnError in driver.failures
    with pytest.raises(kind, match=said):
        run()


def test_a_library_that_can_not_be_opened_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")

    frontend = Frontend()
    monkeypatch.setattr(frontend, "create_handle", fail)
    monkeypatch.setattr(cudnn, "installed", lambda: frontend)
    driver = CupyDriver(FakeCupy())
    for _ in range(2):
        assert driver.convolution(problem("forward")) == "can't be opened: CUDNN_STATUS_NOT_INITIALIZED"


@needs_compiler
@pytest.mark.parametrize("used", [True, False])
def test_reports_say_which_of_both_ways_was_taken_and_why(used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch, printed=True)
    monkeypatch.setattr(HostDriver, "libraries", ["cudnn"])
    with gc.Graph(), gc.Session(device="cuda", disable=() if used else "cudnn") as session:
        x, w = gc.placeholder("x", (2, 3, 9, 8)), gc.placeholder("w", (4, 3, 3, 3))
        y = gc.conv2d(x, w)
        outputs = [y, *gc.gradients(gc.sum(y * y), [w])]
        feeds = {place: np.ones(place.shape, np.float32) for place in (x, w)}

        def ways() -> list[str]:
            made = zip(session.plan(outputs, feeds).kernels, session.plan(outputs, feeds).made, strict=True)
            return [how.how for step, how in made if step.kernel.core is not None]

        own = "tiles of 16x64x16"
        later = f"cudnn where it can, which the first run shows; else {own}"
        assert [way.startswith(later if used else own) for way in ways()] == [True, True]
        session.run(outputs, feeds)
        forward, weight = ways()
        alone = f"{own}, not by cudnn, which isn't there"
        assert forward == ("cudnn" if used else alone)
        assert weight == (f"{own}, as cudnn has no plan for it" if used else alone)
        assert session.profile(outputs, feeds, runs=1).kernels


def test_a_plan_serves_all_addresses() -> None:
    frontend = Frontend()
    handle = Cudnn(frontend, 0, 0)
    for address in (1000, 9000):
        run = handle.convolution(problem("forward", x=X._replace(address=address)))
        assert callable(run)
        run()
    given = [max(args[0].values()) for name, args, _ in frontend.calls if name == "execute"]
    assert given == [3000, 9000]
    assert frontend.told("pygraph")
