"""Every pointwise op as native code, for every dtype and number of lanes, against its NumPy meaning."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from cpu_pointwise import call_of, loop, run
from op_testing import is_float, same_bits, special_pairs, special_values

import graphc as gc
from graphc.evaluate import stored, widened
from graphc.op import Op
from graphc.operands import ACCEPTS, cast_op
from graphc.ops import REGISTRY
from graphc.ops import math as ops
from graphc.runtime.cpu.host import HOSTS, this_host
from graphc.runtime.cpu.jit import compiled
from graphc.runtime.cpu.pointwise import TABLE, cost
from graphc.types import DTYPES, TensorType, np_dtype
from tests import cpu_cores

Array = np.ndarray[Any, Any]

# How far the results of elementary functions may be from the true ones, in units of the last place of float32 and of
# float64. All other ops give the bits that NumPy gives.
ULPS = {
    ops.exp: (1, 1),
    ops.expm1: (1.5, 2),
    ops.log: (1, 1),
    ops.log1p: (1.5, 1.5),
    ops.log2: (1.3, 1.3),
    ops.log10: (1.2, 1.2),
    ops.sin: (1.6, 1.6),
    ops.cos: (1.6, 1.6),
    ops.tanh: (1.7, 1.7),
    ops.erf: (1.3, 2.5),  # the reference is off by up to 1
    ops.power_op: (0.6, 1.5),
}
EITHER_ZERO = {ops.maximum, ops.minimum, ops.clip_op}  # NumPy's choice among 0.0 and -0.0 depends on the machine
PLACES = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
CASES = [
    pytest.param(op, dtype, id=f"{op.name}-{dtype}")
    for op in TABLE
    if op is not cast_op
    for dtype in sorted(ACCEPTS[op.accepts[-1]])
]
X86 = platform.machine() in ("x86_64", "AMD64")


def dtypes_of(op: Op, dtype: str) -> tuple[str, ...]:
    """The dtypes of the operands, where that of the last one is `dtype`."""
    arity = op.ref.nin if isinstance(op.ref, np.ufunc) else {ops.where: 3, ops.clip_op: 3, ops.power_op: 2}.get(op, 1)
    return ("bool", dtype, dtype) if op is ops.where else (dtype,) * arity


def random(rng: np.random.Generator, dtype: str, count: int) -> Array:
    """Any representation of the dtype, and numbers of usual magnitudes."""
    if dtype == "bool":
        return rng.random(count) < 0.5
    kind = np_dtype(dtype)
    bits = rng.integers(0, 256, count * kind.itemsize, dtype=np.uint8).view(kind)
    with np.errstate(invalid="ignore"):
        bits[bits != bits] = 1  # a nan of any bits may be one that signals; the special values have a quiet one
    if not is_float(dtype):
        return np.concatenate([bits, rng.integers(0, 10, count).astype(kind)])
    usual = rng.standard_normal(count) * 10.0 ** rng.uniform(-4, 2.5, count)
    return np.concatenate([bits, usual.astype(kind), rng.integers(-9, 9, count).astype(kind)])


def operands(op: Op, dtype: str, count: int = 1000) -> list[Array]:
    """Special values in every combination of the first two, and random numbers."""
    rng = np.random.default_rng(5)
    dtypes = dtypes_of(op, dtype)
    special = {1: lambda: [special_values(dtype)], 2: lambda: list(special_pairs(dtype))}
    head = special.get(len(dtypes), list)()
    tail = [random(rng, d, count) for d in dtypes]
    short = min(array.size for array in tail)
    tail = [rng.permutation(array)[:short] for array in tail]
    return [np.concatenate([a, b]) for a, b in zip(head, tail, strict=True)] if head else tail


def meant(op: Op, arrays: list[Array], **attrs: Any) -> Array:
    """What the op is by its NumPy reference, in its dtype."""
    node = call_of(op, tuple(array.dtype.name for array in arrays), **attrs)
    with np.errstate(all="ignore"):
        assert op.ref is not None
        return stored(op.ref(*map(widened, arrays), **attrs), TensorType(node.dtype, arrays[0].shape))


def precise(op: Op, arrays: list[Array]) -> Array:
    """The reference of an elementary function, one format wider than the operands where there is one."""
    wider = np.longdouble if arrays[0].dtype == np.float64 and op is not ops.erf else np.float64
    with np.errstate(all="ignore"):
        assert op.ref is not None
        return np.asarray(op.ref(*[array.astype(wider) for array in arrays]))


def ulps(found: Array, exact: Array) -> Array:
    """The distance from the exact results, in units of the last place that they have in the dtype of `found`."""
    dtype = found.dtype
    with np.errstate(all="ignore"):
        nearest = exact.astype(dtype)
        limits = np.finfo(dtype) if dtype.name in ("float32", "float64", "float16") else None
        tiny = float(limits.tiny) if limits is not None else 2.0**-126
        _, exponent = np.frexp(np.maximum(np.abs(exact), tiny).astype(np.longdouble))
        unit = np.ldexp(np.longdouble(1), exponent - 1 - PLACES[dtype.name])
        distance = np.abs(found.astype(np.longdouble) - exact) / unit
    same = (found == nearest) | (np.isnan(found.astype(np.float64)) & np.isnan(nearest.astype(np.float64)))
    return np.where(same, 0, np.where(np.isnan(distance), np.inf, distance))


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_every_op_means_what_its_reference_means(op: Op, dtype: str) -> None:
    arrays = operands(op, dtype)
    found = run(op, *arrays)
    if op in ULPS and is_float(dtype):
        allowed = {"float32": ULPS[op][0], "float64": ULPS[op][1]}.get(dtype, 1.0)
        exact = precise(op, arrays)
        far = ulps(found, exact)
        worst = int(np.argmax(far))
        assert far[worst] <= allowed, (
            f"{far[worst]} ulp at {[a[worst] for a in arrays]}: {found[worst]}, not {exact[worst]}"
        )
        return
    expected = meant(op, arrays)
    if op in EITHER_ZERO and is_float(dtype):
        found, expected = found + found.dtype.type(0), expected + expected.dtype.type(0)
    wrong = [k for k in range(found.size) if not same_bits(found[k : k + 1], expected[k : k + 1])]
    assert not wrong, [(*(a[k] for a in arrays), found[k], expected[k]) for k in wrong[:5]]


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_casts_are_numpys(source: str, target: str) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([special_values(source), random(rng, source, 2000)])
    if is_float(source) and not is_float(target) and target != "bool":
        x = x[np.abs(x.astype(np.float64)) < 2.0 ** (63 if target == "int64" else 31)]  # the rest is the machine's
        x = x if target != "uint8" or X86 else np.abs(x)
    found, expected = run(cast_op, x, dtype=target), meant(cast_op, [x], dtype=target)
    wrong = [k for k in range(x.size) if not same_bits(found[k : k + 1], expected[k : k + 1])]
    assert not wrong, [(x[k], found[k], expected[k]) for k in wrong[:5]]


def test_what_no_integer_is_becomes_the_lowest_integer() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9], np.float32)
    assert (run(cast_op, x, dtype="int32") == -(2**31)).all()
    assert (run(cast_op, np.append(x[:3], np.float32(1e19)), dtype="int64") == -(2**63)).all()


@pytest.mark.parametrize(("op", "dtype"), [c for c in CASES if c.values[1] in ("float32", "int32", "bool", "bfloat16")])
def test_lanes_and_instruction_sets_change_no_bit(op: Op, dtype: str) -> None:
    arrays = operands(op, dtype, 200)
    whole = run(op, *arrays)
    for lanes in (8, 4, 1):
        assert same_bits(run(op, *arrays, lanes=lanes), whole)
    if X86 and this_host().vector_bytes >= 32:
        assert same_bits(run(op, *arrays, lanes=8, host=HOSTS["avx2"]), whole)


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_neon_code_assembles(op: Op, dtype: str) -> None:
    assert compiled(loop(call_of(op, dtypes_of(op, dtype)), 4, HOSTS["neon"]), HOSTS["neon"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logarithms_are_exact_at_powers_of_their_base(dtype: str) -> None:
    twos, tens = np.arange(-126, 127).astype(dtype), np.arange(0, 11 if dtype == "float32" else 23).astype(dtype)
    assert (run(ops.log2, np.exp2(twos)) == twos).all()
    assert (run(ops.log10, np.array([10.0 ** int(k) for k in tens], dtype)) == tens).all()


@pytest.mark.parametrize(("dtype", "range"), [("float32", 126), ("float64", 1022)])
def test_powers_are_accurate_up_to_the_ends_of_the_range(dtype: str, range: int) -> None:
    rng = np.random.default_rng(9)
    for x in (2.0 ** rng.uniform(-range, range, 20_000), 1 + rng.uniform(1e-3, 2e-3, 20_000)):
        base = x.astype(dtype)
        exponent = (rng.uniform(-1.05 * range, range, x.size) / np.log2(base.astype(np.float64))).astype(dtype)
        found = run(ops.power_op, base, exponent)
        assert ulps(found, precise(ops.power_op, [base, exponent])).max() <= ULPS[ops.power_op][dtype == "float64"]


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 152), ("float64", 1080)])
def test_powers_of_2_are_exact_at_integers_and_accurate_between(dtype: str, limit: int) -> None:
    whole = np.arange(-limit, limit).astype(dtype)
    between = np.random.default_rng(0).uniform(-limit, limit, 20_000).astype(dtype)
    x = np.concatenate([whole, between, np.array([-0.0, np.inf, -np.inf, np.nan], dtype)])
    node = gc.placeholder("x", x.shape, dtype)
    (found,) = cpu_cores.run([gc.exp2(node)], {node: x})
    with np.errstate(all="ignore"):
        exact = np.exp2(x.astype(np.longdouble))
        assert (found[: whole.size] == exact[: whole.size].astype(dtype)).all()
        assert ulps(found, exact).max() <= 1


def test_large_angles_are_reduced_as_the_library_does() -> None:
    x = np.array([1e5, 1.1e5, 3e7, 1e22, 3e38, np.inf, 0.5], np.float32)
    for op, ref in ((ops.sin, np.sin), (ops.cos, np.cos)):
        with np.errstate(invalid="ignore"):
            assert ulps(run(op, x), ref(x.astype(np.float64))).max() <= 1.6


def test_a_bound_that_is_known_lets_nan_through() -> None:
    values = np.array([np.nan, -np.inf, -1, 0.5, np.inf] * 9, np.float32)
    with gc.Graph():
        x = gc.placeholder("x", values.shape)
        bounded = [gc.maximum(x, 0.25), gc.minimum(0.25, x), gc.clip(x, -0.5, 0.25), gc.maximum(x, np.float32(np.nan))]
    with gc.Session(device="cpu", graph=x.graph) as session:
        found = session.run(bounded, {x: values})
    expected = [np.maximum(values, 0.25), np.minimum(0.25, values), np.clip(values, -0.5, 0.25), values * np.nan]
    for got, wanted in zip(found, expected, strict=True):
        assert same_bits(got, wanted.astype(np.float32))


def test_the_primitive_pointwise_ops_are_all_there() -> None:
    assert {op for op in REGISTRY.values() if op.kind == "pointwise"} == set(TABLE)


def test_dearer_ops_cost_more() -> None:
    plain, dear = call_of(ops.add, ("float32",) * 2), call_of(ops.power_op, ("float32",) * 2)
    assert 0 < cost(plain) < cost(dear) < cost(call_of(ops.power_op, ("float64",) * 2))


@pytest.mark.skipif(this_host().vector_bytes < 64, reason="has no AVX-512")
@pytest.mark.parametrize("op", [ops.exp, ops.log, ops.log2, ops.log10], ids=lambda op: op.name)
def test_instructions_of_avx512_give_the_bits_of_those_that_they_replace(op: Op) -> None:
    """On floats from all over the range: both signs, subnormals, infinities, nan."""
    single = (np.arange(1 << 18, dtype=np.uint64) * 16411 % (1 << 32)).astype(np.uint32).view(np.float32)
    spread = np.random.default_rng(0).integers(0, 1 << 64, 1 << 16, np.uint64, endpoint=False)
    for x, lanes in ((single, 16), (spread.view(np.float64), 8)):
        assert same_bits(run(op, x, lanes=lanes), run(op, x, lanes=lanes // 4))
