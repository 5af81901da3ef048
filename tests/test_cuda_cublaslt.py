"""Products with epilogues by cublasLt: which are, what it is told, and that results are those without it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import fake_cublaslt
import numpy as np
import pytest
from fake_cublaslt import FakeCublasLt

import graphc as gc
from graphc.dims import symbol
from graphc.ir import Node
from graphc.runtime.cuda import cublaslt
from graphc.runtime.cuda.cupy_driver import CupyDriver
from graphc.runtime.cuda.driver import Matrices, Product
from graphc.runtime.cuda.kernels import INFO, cuda_kernel
from graphc.runtime.cuda.launches import Fused, Precision
from graphc.types import np_dtype
from tests.cuda_cores import plan_kernels, prepared
from tests.cuda_driver import HostDriver, on_host
from tests.cuda_host import needs_compiler
from tests.fake_cupy import FakeCupy
from tests.test_cuda_gemm import heads

M, K, N = 130, 300, 140


def leaf(name: str, *shape: Any, dtype: str = "float32") -> Any:
    """A placeholder."""
    return gc.placeholder(name, shape, dtype)


def fused_of(output: Node, precision: Precision = "float32", libraries: Sequence[str] = ("cublaslt",)) -> list[Fused]:
    """The products of a program that cublasLt is asked for, with what follows."""
    steps = plan_kernels(prepared([output], info=INFO), INFO).steps
    kernels = [cuda_kernel(step.kernel, precision=precision, libraries=libraries) for step in steps]
    return [command for kernel in kernels for command in kernel.commands if isinstance(command, Fused)]  # type: ignore[union-attr]


def tanh_gelu(x: Any) -> Any:
    return gc.gelu(x, approximate="tanh")


# Of a product and a bias: the program, and the epilogue for float32, and for halves.
EPILOGUES: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "bias": (lambda y, b: y + b, "BIAS", "BIAS"),
    "bias first": (lambda y, b: b + y, "BIAS", "BIAS"),
    "relu": (lambda y, b: gc.relu(y), "RELU", "RELU"),
    "maximum": (lambda y, b: gc.maximum(0, y), "RELU", "RELU"),
    "relu of bias": (lambda y, b: gc.relu(y + b), "RELU_BIAS", "RELU_BIAS"),
    "gelu": (lambda y, b: tanh_gelu(y), "", "GELU"),
    "gelu of bias": (lambda y, b: tanh_gelu(b + y), "", "GELU_BIAS"),
    "exact gelu": (lambda y, b: gc.gelu(y + b), "", ""),
    "product alone": (lambda y, b: y, "", ""),
    "scaled": (lambda y, b: y * b, "", ""),
    "difference": (lambda y, b: y - b, "", ""),
    "relu, then bias": (lambda y, b: gc.relu(y) + b, "", ""),
    "another bound": (lambda y, b: gc.maximum(y + b, 1), "", ""),
    "of a row": (lambda y, b: y + gc.expand_dims(b, 0), "BIAS", "BIAS"),
    "cast": (lambda y, b: gc.cast(y + b, "float64"), "", ""),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_only_what_an_epilogue_means_becomes_one(name: str) -> None:
    made, exact, rounded = EPILOGUES[name]
    for dtype, precision, wanted in (
        ("float32", "float32", exact),
        ("float32", "tf32", rounded),
        ("float16", "float32", rounded),
        ("bfloat16", "float32", rounded),
        ("float64", "float32", ""),
    ):
        y = leaf("x", M, K, dtype=dtype) @ leaf("w", K, N, dtype=dtype)
        found = fused_of(made(y, leaf("b", N, dtype=dtype)), precision)
        assert [each.epilogue for each in found] == ([wanted] if wanted else []), (dtype, precision)


def test_a_bias_has_one_number_for_each_column() -> None:
    x, w = leaf("x", M, K), leaf("w", K, N)
    assert fused_of(x @ w + leaf("b", N)) and not fused_of(gc.transpose(x @ w + leaf("b", N)))
    assert not fused_of(x @ w + leaf("b", M, 1)) and not fused_of(x @ w + leaf("b", M, N))
    assert not fused_of(x @ w + leaf("b")) and not fused_of(x @ w + leaf("b", 2 * N)[::2])
    assert fused_of(gc.transpose(x @ w) + leaf("b", M))  # the transposed product, whose columns these are
    assert not fused_of(leaf("u", 3, M, K) @ leaf("v", 3, K, N) + leaf("b", 3, 1, N))


def test_it_is_asked_for_what_pays_and_where_it_is_there() -> None:
    x, w, b = leaf("x", M, K), leaf("w", K, N), leaf("b", N)
    assert not fused_of(x @ w + b, libraries=()) and not fused_of(x @ w + b, libraries=("cudnn",))
    assert not fused_of(leaf("s", 20, 30) @ leaf("t", 30, N) + b)
    assert not fused_of(leaf("r", 1, K) @ w + b)
    assert fused_of(leaf("o", 3000, 40) @ leaf("p", 40, N) + b)  # short sums, too: nothing is read back
    (one,) = fused_of(leaf("c", 4, M, K) @ w + b)
    assert one.gemm.batch == 1 and one.gemm.m == 4 * M  # all matrices with the same weight are one
    (step,) = plan_kernels(prepared([gc.relu(x @ w + b)], info=INFO), INFO).steps
    kernel, without = (cuda_kernel(step.kernel, libraries=some) for some in (["cublaslt"], []))
    assert kernel is not None and without is not None
    (command,) = kernel.commands
    assert isinstance(command, Fused) and command.instead == without.commands
    assert command.name == "cublaslt with relu of bias" and kernel.notes == without.notes


# --- what is computed


def numbers(shape: Sequence[int], dtype: str, seed: int) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) / 8).astype(np_dtype(dtype))


def programs(dtype: str) -> dict[str, tuple[list[Any], Any]]:
    """Products in all ways in which operands and results may lie: placeholders, and what is computed of them."""

    def given(*shapes: tuple[int, ...]) -> list[Any]:
        return [leaf(f"a{k}", *shape, dtype=dtype) for k, shape in enumerate(shapes)]

    found: dict[str, tuple[list[Any], Any]] = {}
    x, w, b = plain = given((M, K), (K, N), (N,))
    found["plain"] = plain, gc.relu(x @ w + b)
    x, w, b = turned = given((M, K), (N, K), (N,))
    found["B transposed"] = turned, x @ gc.transpose(w) + b
    x, w, b = both = given((K, M), (N, K), (N,))
    found["both transposed"] = both, gc.relu(gc.transpose(x) @ gc.transpose(w) + b)
    x, w, b = out = given((M, K), (K, N), (M,))
    found["result transposed"] = out, gc.relu(gc.transpose(x @ w) + b)
    x, w, b = parts = given((M, K + 20), (K, 2 * N), (N,))
    found["parts of matrices"] = parts, gc.relu(x[:, 20:] @ w[:, :N] + b)
    x, w, b = batches = given((3, M, K), (3, K, N), (N,))
    found["batches"] = batches, gc.relu(x @ w + b)
    x, w, b = shared = given((3, M, K), (K, N), (N,))
    found["a shared weight"] = shared, gc.relu(x @ w + b)
    q, k = attended = given((2, M, 3 * 32), (2, M, 3 * 32))
    found["heads"] = attended, gc.relu(heads(q, 3) @ gc.matrix_transpose(heads(k, 3)))
    x, w, b = rounded = given((M, K), (K, N), (N,))
    found["gelu"] = rounded, tanh_gelu(x @ w + b)
    x, w, b, v = two = given((M, K), (K, N), (N,), (N, N))
    found["two layers"] = two, gc.relu(gc.relu(x @ w + b) @ v + b)
    return found


def ran(
    places: Sequence[Any], output: Any, dtype: str, monkeypatch: pytest.MonkeyPatch, libraries: Sequence[str]
) -> Any:
    """What a session gives three times over, and its driver: launched, captured, and replayed."""
    drivers = on_host(monkeypatch, printed=True)
    monkeypatch.setattr(HostDriver, "libraries", libraries)
    feeds = {place: numbers(place.shape, dtype, k) for k, place in enumerate(places)}
    with gc.Session(device="cuda") as session:
        found = [session.run(output, feeds) for _ in range(3)]
    assert len({value.tobytes() for value in found}) == 1
    return found[0], drivers[-1]


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", programs("float32"))
def test_results_are_those_without_it(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with gc.Graph():
        places, output = programs(dtype)[name]
        wanted, _ = ran(places, output, dtype, monkeypatch, ())
        found, driver = ran(places, output, dtype, monkeypatch, ("cublaslt",))
    is_served = name != "heads" and (name != "gelu" or dtype != "float32")
    assert ("fused" in driver.asked) == is_served
    assert not is_served or "multiplication" not in driver.asked
    bound = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    np.testing.assert_allclose(found.astype("f8"), wanted.astype("f8"), rtol=bound, atol=bound)


@needs_compiler
def test_sizes_may_be_symbols_and_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = on_host(monkeypatch, printed=True)
    monkeypatch.setattr(HostDriver, "libraries", ["cublaslt"])
    with gc.Graph(), gc.Session(device="cuda") as session:
        x, w, b = leaf("x", symbol("m"), symbol("k")), leaf("w", symbol("k"), 600), leaf("b", 600)
        y = gc.relu(x @ w + b)
        for m, k in ((150, 200), (3, 1), (0, 5), (4, 0)):
            feeds = {
                x: numbers((m, k), "float32", 1),
                w: numbers((k, 600), "float32", 2),
                b: numbers((600,), "float32", 3),
            }
            wanted = np.maximum(feeds[x].astype("f8") @ feeds[w] + feeds[b], 0)
            np.testing.assert_allclose(session.run(y, feeds), wanted, rtol=1e-5, atol=1e-5)
    assert drivers[-1].asked["fused"] == 2  # of the others, nothing is multiplied


@needs_compiler
@pytest.mark.parametrize("options", [dict(keeps_nan=False), dict(refused=("RELU_BIAS",)), dict()])
def test_what_it_can_not_do_rightly_is_done_without(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeCublasLt] = []

    def bindings(do: Any) -> FakeCublasLt:
        made.append(FakeCublasLt(do, **options))
        return made[-1]

    monkeypatch.setattr("tests.cuda_driver.FakeCublasLt", bindings)
    on_host(monkeypatch, printed=True)
    monkeypatch.setattr(HostDriver, "libraries", ["cublaslt"])
    with gc.Graph(), gc.Session(device="cuda") as session:
        x, w, v, b = places = [leaf("x", M, K), leaf("w", K, N), leaf("v", K, N), leaf("b", N)]
        feeds = {place: numbers(place.shape, "float32", k) for k, place in enumerate(places)}
        feeds[x][7, 11] = np.nan
        for _ in range(2):
            found = session.run([gc.relu(x @ w + b), gc.relu(x @ v + b)], feeds)
            assert all(np.isnan(value[7]).all() and not np.isnan(np.delete(value, 7, 0)).any() for value in found)
        plan = session.plan([gc.relu(x @ w + b)], feeds)
        assert plan.made[0].how.startswith("cublaslt with relu of bias where it can, which the first run shows; else")
        session.run([gc.relu(x @ w + b)], feeds)
        (how,) = [made.how for made in session.plan([gc.relu(x @ w + b)], feeds).made]
        why = {"keeps_nan": "isn't seen to keep nan", "refused": "has no algorithm for it: CUBLAS_STATUS_NOT_SUPPORTED"}
        told = [f"as cublaslt with relu of bias {why[option]}" for option in options]
        assert how.endswith(told[0]) if told else how == "cublaslt with relu of bias"
    (one,) = made
    assert one.asked == 1  # both products are of one kind
    trials = 0 if "refused" in options else 1
    assert one.products == trials + (0 if options else 5)


# --- the driver, and the bindings


def test_the_driver_gives_its_stream_and_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy()
    bindings = FakeCublasLt(cupy._do)
    monkeypatch.setattr(cublaslt, "installed", lambda: None)
    assert "cublaslt" not in CupyDriver(FakeCupy()).libraries
    monkeypatch.setattr(cublaslt, "installed", lambda: bindings)
    driver = CupyDriver(cupy)
    assert "cublaslt" in driver.libraries
    a, w, b = (numbers(shape, "float32", k) for k, shape in enumerate([(5, 8), (8, 4), (4,)]))
    where = {}
    for name, array in (("a", a), ("w", w), ("b", b), ("c", np.zeros((5, 4), np.float32))):
        where[name] = driver.allocate(array.nbytes)
        driver.upload(where[name].address, array)
    sides = [Matrices(where[name].address, (0, step, 1), "float32") for name, step in (("a", 8), ("w", 4), ("c", 4))]
    run = driver.fused(Product(*sides, 1, 5, 4, 8, "float32"), "RELU_BIAS", where["b"].address)
    assert callable(run)
    with driver.capture() as graphs:
        run()
    driver.replay(graphs[0])
    found = np.empty((5, 4), np.float32)
    driver.download(found, where["c"].address)
    np.testing.assert_allclose(found, np.maximum(a @ w + b, 0), rtol=1e-5, atol=1e-6)
    kept = len(bindings.things)
    del run
    assert len(bindings.things) == kept - 4  # the operation and its three layouts


def test_bindings_that_can_not_be_loaded_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise OSError("libcublasLt.so.13: cannot open shared object file")

    monkeypatch.setattr(cublaslt, "importlib", SimpleNamespace(import_module=fail, util=SimpleNamespace()))
    cublaslt.importlib.util.find_spec = lambda name: object()  # type: ignore[assignment]
    assert cublaslt.installed() is None
    cublaslt.importlib.util.find_spec = lambda name: None  # type: ignore[assignment]
    assert cublaslt.installed() is None


def test_the_stand_in_is_like_the_bindings() -> None:
    real = pytest.importorskip("nvmath.bindings.cublasLt")
    for name in ("Epilogue", "MatmulDescAttribute", "MatrixLayoutAttribute", "MatmulPreferenceAttribute"):
        for each in getattr(fake_cublaslt, name):
            assert getattr(real, name)[each.name] == each
    types = {
        "matmul_desc": fake_cublaslt.TYPES,
        "matrix_layout": fake_cublaslt.LAYOUT_TYPES,
        "matmul_preference": fake_cublaslt.PREFERENCE_TYPES,
    }
    for what, known in types.items():
        for attribute, type in known.items():
            assert np.dtype(getattr(real, f"get_{what}_attribute_dtype")(attribute)) == type
    assert real.matmul_heuristic_result_dtype == FakeCublasLt.matmul_heuristic_result_dtype
    for name, function in inspect.getmembers(FakeCublasLt, inspect.isfunction):
        if not name.startswith(("_", "get_")) and function.__name__ == name:
            (told,) = re.findall(rf"^{name}\((.*)\)", getattr(real, name).__doc__, re.MULTILINE)
            names = [each.split()[-1] for each in told.split(",") if each.strip()]
            assert names == list(inspect.signature(function).parameters)[1:], name
