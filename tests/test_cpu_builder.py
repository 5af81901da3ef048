"""The builder of LLVM IR: what it remembers, and where it computes what loops don't change."""

import ctypes

import numpy as np
import pytest

from graphc.runtime.cpu.affine import Sum, bytes_of, plus
from graphc.runtime.cpu.builder import Module
from graphc.runtime.cpu.jit import load
from graphc.runtime.cpu.values import I64, PTR, constant

EXTENTS = (3, 4, 5)


def loops_over(f, body, extents=EXTENTS):
    """Loops inside each other, whose body takes their counters."""

    def inside(counters, rest):
        if not rest:
            body(counters)
            return
        f.loop(0, rest[0], 1, lambda i, _: inside([*counters, i], rest[1:]))

    inside([], list(extents))


def lines_of_innermost_loop(text):
    """What a module repeats most often: from the last label of a body to the jump back."""
    return text.rsplit("label %", 3)[0].rsplit(":\n", 1)[1].splitlines()


def filled(offset_of, strides, size):
    """An array in which native code has counted the writes to each element."""
    module = Module()
    f = module.function("fill", [(PTR, "to"), *[(I64, f"stride{k}") for k in range(3)]])
    to, *given = (f.parameter(k) for k in range(4))

    def body(counters):
        at = f.address(to, offset_of(f, counters, given), I64)
        f.store(f.i64(f.add(f.emit(I64, f"load i64, ptr {at.text}"), 1)), at, 8)

    loops_over(f, body)
    f.ret()
    (code,) = load([module.text()], [["fill"]])
    found = np.zeros(size, np.int64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(code.address("fill"))
    call(found.ctypes.data, *strides)
    return found


def dotted(f, counters, strides):
    """The sum of counters times strides, as rooms write it."""
    total = 0
    for i, stride in zip(counters, strides, strict=True):
        total = f.add(total, f.mul(i, stride))
    return total


def expected(strides, size, shift=0):
    found = np.zeros(size, np.int64)
    for index in np.ndindex(EXTENTS):
        found[np.dot(index, strides) + shift] += 1
    return found


@pytest.mark.parametrize("strides", [(20, 5, 1), (1, 3, 12), (0, 5, 1), (7, 7, 7)])
def test_addresses_of_any_strides_are_right(strides):
    size = 1 + np.dot(np.array(EXTENTS) - 1, strides)
    assert np.array_equal(filled(dotted, strides, size), expected(strides, size))


def test_addresses_of_known_strides_are_right():
    found = filled(lambda f, counters, _: f.add(dotted(f, counters, (20, 5, 1)), 2), (0, 0, 0), 62)
    assert np.array_equal(found, expected((20, 5, 1), 62, 2))


def test_what_is_subtracted_again_leaves_no_trace():
    def offset_of(f, counters, strides):
        return f.sub(f.add(dotted(f, counters, strides), f.mul(strides[0], 3)), f.mul(strides[0], 3))

    assert np.array_equal(filled(offset_of, (20, 5, 1), 60), expected((20, 5, 1), 60))


def test_clamped_indices_are_right_where_they_differ_from_step_to_step():
    found = filled(lambda f, counters, _: f.max(1, f.min(counters[2], 3)), (0, 0, 0), 5)
    assert found.tolist() == [0, 24, 12, 24, 0]


def test_a_loop_repeats_only_what_it_changes():
    module = Module()
    f = module.function("copy", [(PTR, "x"), (I64, "row"), (I64, "shift")])
    x, row, shift = (f.parameter(k) for k in range(3))

    def body(counters):
        for k in range(4):
            offset = f.add(f.add(f.mul(counters[0], row), f.min(shift, 9)), f.add(counters[2], k))
            f.store(constant(I64, 0), f.address(x, offset, I64), 8)

    loops_over(f, body)
    f.ret()
    inner = lines_of_innermost_loop(module.text())
    assert sum("store" in line for line in inner) == 4
    assert not any("smin" in line or "%row" in line for line in inner)


def test_what_one_branch_computes_isnt_used_after_it():
    module = Module()
    f = module.function("either", [(PTR, "to"), (I64, "n")], I64)
    to, n = f.parameter(0), f.parameter(1)
    f.if_(f.is_less(0, n), lambda: f.store(f.i64(f.mul(n, 3)), to, 8))
    f.ret(f.i64(f.mul(n, 3)))
    (code,) = load([module.text()], [["either"]])
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(code.address("either"))
    found = np.zeros(1, np.int64)
    assert [call(found.ctypes.data, n) for n in (-2, 5)] == [-6, 15]
    assert found[0] == 15


def test_sums_of_multiples():
    a, b = Sum({"x": 2, "y": 1}, 3), Sum({"x": -1, "z": 4}, 5)
    assert plus(a, b, 2) == Sum({"y": 1, "z": 8}, 13)
    assert plus(a, a, -1) == Sum({}, 0)


@pytest.mark.parametrize(("type", "nbytes"), [("i8", 1), ("ptr", 8), ("half", 2), ("<16 x float>", 64)])
def test_bytes_of_types(type, nbytes):
    assert bytes_of(type) == nbytes


def test_masked_accesses_are_written_as_every_llvm_reads_them():
    module = Module()
    f = module.function("copy", [(PTR, "to"), (PTR, "at"), (I64, "left")])
    to, at, left = (f.parameter(k) for k in range(3))
    mask, offsets = f.mask(left, 4), constant("<4 x i64>", 0)
    f.store(f.load("<4 x float>", at, 4, mask), to, 4, mask)
    f.scatter(f.gather("<4 x float>", f.addresses(at, offsets, "float"), 4), f.addresses(to, offsets, "float"), 4, mask)
    f.ret()
    declared = [line for line in module.text().splitlines() if line.startswith("declare") and ".masked." in line]
    assert len(declared) == 4
    # The alignment is an operand, which LLVM 22 makes an attribute of; LLVM 20 and 21 know no other form, and abort.
    assert all("i32" in line.split("(")[1] for line in declared), declared
    load([module.text()], [["copy"]])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("left", [0, 1, 2, 3])
@pytest.mark.parametrize(("wide", "narrow"), [("i32", "i16"), ("i32", "i8"), ("i64", "i32"), ("i64", "i8")])
def test_a_masked_store_of_narrowed_lanes_writes_those_alone(wide, narrow, left, reverse):
    """LLVM stores a whole register for one lane of a truncated vector, if it knows the mask."""
    module = Module()
    f = module.function("narrow", [(PTR, "to"), (PTR, "at")])
    mask = f.mask(left, 4)
    if reverse:
        mask = f.shuffle(mask, None, [3, 2, 1, 0])
    value = f.load(f"<4 x {wide}>", f.parameter(1), 8)
    f.store(f.convert("trunc", f.binary("add", value, value), f"<4 x {narrow}>"), f.parameter(0), 1, mask)
    f.ret()
    (code,) = load([module.text()], [["narrow"]])
    given = np.arange(1, 5, dtype=f"int{wide[1:]}") * 3
    found = np.full(16, -1, f"int{narrow[1:]}")
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code.address("narrow"))(
        found[4:].ctypes.data, given.ctypes.data
    )
    wanted = np.full(16, -1)
    places = range(4 - left, 4) if reverse else range(left)
    wanted[[4 + k for k in places]] = [6 * (k + 1) for k in places]
    assert found.tolist() == wanted.tolist()
