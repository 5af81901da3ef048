"""How eager calls find their programs: functions whole, moves by NumPy, and everything else an op at a time."""

from __future__ import annotations

import tracemalloc
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
from eager_testing import forget_calls

import graphc as gc
from graphc import eager as ge
from graphc.eager import taking
from graphc.eager.calls import CALLS
from graphc.eager.counting import counted
from graphc.eager.modes import KNOWN
from graphc.errors import ArgumentError, GraphcError, ShapeError
from graphc.operators import METHODS

NUMBERS = (0.5, -1.0, 2.0, 3.0, -0.0, 1.0)


pytestmark = pytest.mark.usefixtures("as_a_thread_begins")


def leaf(shape=(2, 3), dtype="float32"):
    return ge.tensor(np.reshape(NUMBERS, shape).astype(dtype), requires_grad=True)


# --------------------------------------------------------------------------------------------- functions as one program

WHOLE = {
    "mean": lambda x: x.mean(),
    "sum, axis": lambda x: gc.sum(x, axis=0, keepdims=True),
    "var": lambda x: x.var(axis=-1),
    "mse_loss": lambda x: gc.losses.mse_loss(x, np.ones((2, 3), "float32")),
    "cross_entropy": lambda x: gc.losses.cross_entropy(x, ge.tensor([2, 0])),
    "power": lambda x: x**2,
    "getitem": lambda x: x[:, np.array([0, 2])],
    "stack": lambda x: gc.stack([x, x.detach()], axis=1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_public_function_is_one_program_forward_and_one_back(name):
    x = leaf()
    WHOLE[name](x).sum().backward()
    assert counted(lambda: WHOLE[name](x)).launches == 1
    y = WHOLE[name](x)
    weights = ge.ones(y.shape)
    assert counted(lambda: y.backward(weights)).launches <= 2, "the gradient, and adding it to x.grad"


@pytest.mark.parametrize("name", WHOLE)
def test_a_function_as_one_program_gives_what_its_ops_give(name, monkeypatch):
    values = {}
    for way in ("whole", "op by op"):
        if way == "op by op":
            monkeypatch.setattr(taking, "_whole", lambda *given: taking.IN_PYTHON)
            forget_calls(monkeypatch)
        x = leaf()
        y = WHOLE[name](x)
        y.backward(ge.ones(y.shape))
        values[way] = [y.numpy(), x.grad.numpy()]
    for found, expected in zip(values["whole"], values["op by op"], strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_tape_names_the_function():
    x = leaf()
    assert x.sum().grad_fn.name == "SumBackward"
    assert gc.losses.mse_loss(x, x * 2).grad_fn.name == "MseLossBackward"
    assert x[0].grad_fn.name == "GetitemBackward"


def test_a_float_argument_that_changes_compiles_no_more_than_a_few_programs(monkeypatch):
    forget_calls(monkeypatch)
    monkeypatch.setattr(taking, "floats_of", defaultdict(set))
    x = leaf()
    bounds = np.linspace(0.25, 2.25, 65)
    for allowed in (2 * taking.MAX_FLOATS + 4, 0):  # of the function and what it consists of; and nothing later
        before = set(CALLS)
        for bound in map(float, bounds):
            assert x.clip(-bound, bound).tolist() == np.clip(x.numpy(), np.float32(-bound), np.float32(bound)).tolist()
        assert len(set(CALLS) - before) <= allowed
        bounds = bounds + 1 / 64


def test_steady_float_arguments_are_part_of_a_program():
    norm, dropout = ge.module(gc.nn.BatchNorm1d(3)), ge.module(gc.nn.Dropout(0.25))
    for layer, launches in ((norm, 2), (dropout, 0)):  # the other one of the norm adds 1 to the count of batches
        layer(leaf())
        with ge.set_training(False):
            layer(leaf())
            assert counted(partial(layer, leaf())).launches == launches
    before = norm.running_mean.tolist()
    norm(leaf())
    assert norm.running_mean.tolist() != before


def test_evaluation_draws_nothing():
    dropout, x = ge.module(gc.nn.Dropout(0.5)), leaf()
    ge.manual_seed(1)
    expected = dropout(x).tolist()
    ge.manual_seed(1)
    with ge.set_training(False):
        assert dropout(x).tolist() == x.tolist()
    assert dropout(x).tolist() == expected


def test_a_mask_is_drawn_for_each_call_and_shared_with_the_gradient():
    dropout, x = ge.module(gc.nn.Dropout(0.5)), ge.tensor(np.ones(64, "float32"), requires_grad=True)
    masks = []
    for _ in range(3):
        x.grad = None
        y = dropout(x)
        y.sum().backward()
        assert set(y.tolist()) == {0, 2} and x.grad.tolist() == y.tolist()
        masks.append(str(y.tolist()))
    assert len(set(masks)) == 3


def test_an_index_of_numbers_that_changes_compiles_nothing_new():
    x = leaf()
    x[:, [0, 1]]
    before = len(CALLS)
    assert [x[:, [k, 2]].tolist() for k in range(3)] == [x.numpy()[:, [k, 2]].tolist() for k in range(3)]
    assert len(CALLS) == before


def test_arguments_of_equal_value_and_other_classes_are_told_apart():
    x = leaf(dtype="float64")
    assert x.sum(axis=0).shape == (3,) and x.sum(axis=1).shape == (2,)
    assert x.sum(axis=0, keepdims=False).shape == (3,) and x.sum(axis=0, keepdims=True).shape == (1, 3)
    with pytest.raises(GraphcError, match="False"):
        x.sum(axis=False)


def test_draws_of_a_function_are_new_with_each_call():
    x = ge.ones((64,))
    assert gc.dropout(x, 0.5).tolist() != gc.dropout(x, 0.5).tolist()


def test_errors_are_those_of_the_function_with_the_users_line():
    x = leaf()
    for _ in range(2):
        with pytest.raises(ShapeError, match=r"(?s)matmul.*test_eager_calls\.py"):
            x @ x
        with pytest.raises(ShapeError, match=r"reshape.*is not a shape"):
            x.reshape(2.5)
        with pytest.raises(ArgumentError, match=r"sum\(.*unexpected keyword argument 'axes'"):
            x.sum(axes=0)


def test_an_error_of_a_run_names_its_own_line_only():
    x = leaf()
    calls = (lambda k: gc.take(x, ge.tensor([k]), axis=1), lambda k: gc.losses.cross_entropy(x, ge.tensor([0, k])))
    for call in calls:
        call(1)  # a line that is innocent
        with pytest.raises(GraphcError, match=r"index 7 is out of range") as told:
            call(7)
        lines = [line for line in str(told.value).splitlines() if "test_eager_calls.py" in line]
        assert len(lines) == 1 and "calls = " in lines[0]


def test_a_function_in_evaluation_is_another_program():
    norm = ge.module(gc.nn.BatchNorm1d(3, affine=False))
    x = leaf()
    assert abs(norm(x).mean().item()) < 1e-6
    with ge.set_training(False):
        assert abs(norm(x).mean().item()) > 0.1


def test_functions_that_make_no_tensors_take_tensors_too():
    x = leaf()
    assert [part.tolist() for part in gc.split(x, 3, axis=1)] == x.numpy().T.reshape(3, 2, 1).tolist()
    assert "leaf" in str(gc.render(x))


def test_every_method_is_a_method_of_the_class():
    x = leaf()
    assert sorted(set(METHODS) - set(dir(x))) == []
    assert ge.Tensor.sum.__name__ == "sum" and "axis" in ge.Tensor.sum.__doc__
    np.testing.assert_array_equal(x.T.numpy(), x.numpy().T)
    np.testing.assert_array_equal((-abs(x)).numpy(), -np.abs(x.numpy()))
    assert (~(x > 0)).tolist() == (~(x.numpy() > 0)).tolist()


def test_what_is_made_of_numbers_is_made_once_if_it_is_small_and_nothing_is_drawn():
    assert np.shares_memory(ge.zeros((3,)).numpy(), ge.zeros((3,)).numpy())
    assert ge.full((2,), 1.0).dtype == "float32" and ge.full((2,), 1).dtype == "int64"
    assert str(ge.full((), -0.0)) != str(ge.full((), 0.0))
    w = ge.zeros((3,)).requires_grad_()
    assert not ge.zeros((3,)).requires_grad
    w.assign(np.ones(3))
    assert ge.zeros((3,)).tolist() == [0, 0, 0]
    assert not np.shares_memory(ge.zeros((10_000,)).numpy(), ge.zeros((10_000,)).numpy())
    assert len({ge.dropout(2.0, 0.5).item() for _ in range(64)}) == 2
    assert len({ge.random.normal((2,)).tolist()[0] for _ in range(4)}) == 4


# --------------------------------------------------------------------------------------------- moves

MOVES = {
    "row": lambda x: x[1],
    "element": lambda x: x[1, 2],
    "column": lambda x: x[:, 1],
    "every other": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1],
    "a new axis": lambda x: x[None, ..., None],
    "nothing": lambda x: x[2:],
    "reshape": lambda x: x.reshape(3, 2),
    "transpose": lambda x: x.T,
    "flatten, then a part": lambda x: x.flatten()[1:5],
    "broadcast_to": lambda x: gc.broadcast_to(x, (2, 2, 3)),
    "pad": lambda x: gc.pad(x, ((1, 0), (0, 2))),
    "concat": lambda x: gc.concat([x, x[:1]], axis=0),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", MOVES)
def test_moves_have_the_bits_and_gradients_of_compiled_ones(name, dtype, monkeypatch):
    found = []
    for _ in range(2):
        x = leaf(dtype=dtype)
        y = MOVES[name](x)
        y.backward(gc.cast(ge.tensor(np.arange(1.0, y.size + 1).reshape(y.shape)), dtype))
        found.append([y.numpy(), x.grad.numpy()])
        monkeypatch.setattr("graphc.eager.calls.moved", lambda *given: None)  # the second time, by native code
        forget_calls(monkeypatch)
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        assert a.flags.c_contiguous


def test_a_new_index_needs_no_native_code(monkeypatch):
    forget_calls(monkeypatch)
    x = ge.tensor(np.ones((2, 3, 5, 7)))
    assert all(found.moves for found in _made(lambda: [x[k] for k in range(2)]))
    assert not any(found.moves for found in _made(lambda: gc.tanh(x)))


def _made(work):
    before = set(CALLS)
    work()
    made = set(CALLS) - before
    assert made
    return made


def test_what_lies_in_memory_already_is_no_copy():
    x = ge.tensor(np.zeros((1000, 100), "float32"))
    for y in (x[10:20], x[7], x.reshape(100, 1000), x[None]):
        assert np.shares_memory(y.numpy(), x.numpy())
    assert counted(lambda: x[7]).nbytes == 0
    assert not np.shares_memory(x.T.numpy(), x.numpy())


def test_a_part_keeps_the_memory_of_a_large_result_that_is_gone():
    x = ge.tensor(np.ones((4096, 1100), "float32"))  # large enough for its memory to be used again
    rows = [(x * float(k))[3] for k in range(5)]
    assert [np.unique(row.numpy()).tolist() for row in rows] == [[k] for k in range(5)]


def test_few_elements_of_a_large_tensor_take_no_more_than_their_own_memory():
    x = ge.tensor(np.zeros((4000, 500), "float32"))
    x[:, 1:3]  # imports and caches of the first call
    tracemalloc.start()
    try:
        found = [x[::1000, 3], x[5, ::100], x[::2000].T]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [y.size for y in found] == [4, 5, 1000]
    assert most < x.numpy().nbytes * 1.5, "a blank of which nothing is read, and no index"


def test_what_has_to_be_made_room_for_is_what_is_made_again_easily(monkeypatch):
    forget_calls(monkeypatch)
    monkeypatch.setattr(taking, "MAX_CALLS", 16)
    x = ge.tensor(np.arange(64.0))
    gc.tanh(x)
    compiled = [found for found in KNOWN[True].values() if not found.moves]
    assert [x[k].item() for k in range(64)] == list(range(64))
    assert len(KNOWN[True]) <= 16 and [*compiled] == [found for found in KNOWN[True].values() if not found.moves]
