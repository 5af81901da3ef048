"""The tape of `graphc.eager`: gradients as torch's accumulate, are seen by hooks, have gradients, and are given up."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref

import numpy as np
import pytest
from eager_testing import Exp, Parts, Scaled, forget_calls, leaf

import graphc as gc
from graphc import eager as ge
from graphc.eager.modes import KNOWN
from graphc.errors import ArgumentError, DTypeError, GradientError, GraphcError, ShapeError

pytestmark = pytest.mark.usefixtures("as_a_thread_begins")


# --------------------------------------------------------------------------------------------- tensors


def test_a_tensor_has_numpys_value_and_graphcs_dtype():
    assert ge.tensor([1, 2]).dtype == "int64"
    assert ge.tensor([1.0, 2.0]).dtype == "float32"
    assert ge.tensor(np.ones(2)).dtype == "float64"
    assert ge.tensor([1, 2], dtype="float16").dtype == "float16"
    t = ge.tensor(np.arange(6).reshape(2, 3))
    assert (t.shape, t.ndim, t.size, len(t)) == ((2, 3), 2, 6, 2)
    assert t.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [row.tolist() for row in t] == t.tolist()
    assert np.asarray(t).tolist() == t.tolist()


def test_a_tensor_shares_no_memory_with_what_it_was_made_of():
    array = np.zeros(3, "float32")
    t = ge.tensor(array)
    array[0] = 1
    assert t.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        t.numpy()[0] = 1


def test_leaves_are_copied_and_pickled():
    w = copy.deepcopy(leaf())
    assert w.tolist() == [1, 2, 3] and w.requires_grad
    assert pickle.loads(pickle.dumps(w)).requires_grad
    with pytest.raises(ArgumentError, match="detach"):
        copy.copy(w * 2)


def test_a_tensor_is_fed_to_a_session():
    x = gc.placeholder("x", (3,))
    with gc.Session() as session:
        assert session.run(x * 2, {x: leaf()}).tolist() == [2, 4, 6]


def test_an_index_out_of_range_is_told():
    with pytest.raises(GraphcError, match="3"):
        gc.take(leaf(), ge.tensor([0, 3]))


def test_one_element_is_a_python_number():
    t = ge.tensor(2.5)
    assert (t.item(), float(t), int(t)) == (2.5, 2.5, 2)
    assert [10, 20, 30][ge.tensor(1)] == 20
    assert f"{t:.2f}" == "2.50"
    with pytest.raises(ShapeError, match="isn't one number"):
        ge.tensor([1.0, 2.0]).item()


def test_python_control_flow_follows_values():
    t, steps = ge.tensor(100.0), 0
    while t > 1:
        t = t / 2 if t != 25 else t - 1
        steps += 1
    assert steps == 8
    assert not ge.tensor(0.0)
    assert 2.0 in ge.tensor([1.0, 2.0])
    assert (ge.tensor([1, 2]) == ge.tensor([1, 3])).tolist() == [True, False]
    assert (t == None) is False and (t != "one") is True  # noqa: E711 - elements are compared with numbers only
    with pytest.raises(ShapeError, match=r"(?s)neither true nor false.*any\(\)"):
        bool(ge.tensor([1.0, 2.0]) > 0)


def test_a_tensor_is_printed_with_its_value_and_what_it_came_by():
    w = leaf()
    assert repr(w) == "tensor([1., 2., 3.], requires_grad=True)"
    assert repr(w * w) == "tensor([1., 4., 9.], grad_fn=<MultiplyBackward>)"
    assert repr(ge.tensor(np.ones(1))) == "tensor([1.], dtype=float64)"


def test_functions_without_operands_and_of_plain_ones_are_here_too():
    assert ge.zeros((2,)).tolist() == [0, 0]
    assert ge.exp(0.0).item() == 1
    assert isinstance(ge.zeros_like(ge.tensor([1.0])), ge.Tensor)
    assert [part.tolist() for part in ge.split([1, 2, 3, 4], 2)] == [[1, 2], [3, 4]]
    with pytest.raises(AttributeError, match="did you mean 'softmax'"):
        ge.softmaks  # noqa: B018 - reading it is the test


@pytest.mark.parametrize("number", [2, 2.5, -1, True])
def test_numbers_are_weak_beside_every_dtype(number):
    for dtype in ("float16", "float32", "float64", "int32", "bool"):
        t = ge.tensor([1, 0, 1], dtype=dtype)
        x = gc.placeholder("x", (3,), dtype)
        for op in (gc.add, gc.multiply, gc.divide, gc.less, gc.maximum):
            found, meant = op(t, number), op(x, number)
            assert (found.dtype, found.shape) == (meant.dtype, meant.shape)


def test_an_integer_that_does_not_fit_is_refused():
    with pytest.raises(DTypeError, match="uint8"):
        ge.tensor([1], dtype="uint8") + 300


def test_a_changing_number_compiles_nothing_new(monkeypatch):
    forget_calls(monkeypatch)
    t = ge.tensor([1.0, 2.0])
    _ = t * 0.5
    before = len(KNOWN[True])
    assert [(t * k).tolist() for k in (1.5, 2, -0.0)] == [[1.5, 3], [2, 4], [0, 0]]
    assert [str(t[0] * k) for k in (0.0, -0.0, 0.0, 0)] == ["tensor(0.)", "tensor(-0.)", "tensor(0.)", "tensor(0.)"]
    _ = t * np.float64(0.5)
    assert len(KNOWN[True]) == before + 3, "an index, a product of a number, and one with a number of NumPy's own dtype"
    assert (t * np.float64(0.25)).dtype == (gc.placeholder("x", (2,)) * np.float64(0.25)).dtype
    assert len(KNOWN[True]) == before + 3


# --------------------------------------------------------------------------------------------- gradients


def test_gradients_accumulate_in_leaves():
    w = leaf()
    (w * w).sum().backward()
    assert w.grad.tolist() == [2, 4, 6]
    w.sum().backward()
    assert w.grad.tolist() == [3, 5, 7]
    w.grad = None
    w.sum().backward()
    assert w.grad.tolist() == [1, 1, 1]


def test_a_tensor_that_is_used_twice_gets_both_gradients():
    w = leaf(2.0)
    y = w * w
    (y * y + y).backward()
    assert w.grad.item() == 4 * 2**3 + 2 * 2


def test_weights_of_the_elements_are_given_to_backward():
    w = leaf()
    (w * 2).backward(ge.tensor([1.0, 0.0, -1.0]))
    assert w.grad.tolist() == [2, 0, -2]
    with pytest.raises(ShapeError, match="expected a scalar"):
        (w * 2).backward()


def test_the_gradient_of_a_tensor_in_between_is_asked_for():
    w = leaf(3.0)
    y = w * w
    z = y * 2
    assert [g.item() for g in ge.grad(z, [y, w])] == [2, 12]
    assert w.grad is None
    other = leaf(1.0)
    with pytest.raises(GradientError, match="allow_unused=True"):
        ge.grad(w * w, [w, other])
    assert ge.grad(w * w, [w, other], allow_unused=True)[1] is None
    first, second = gc.split(leaf([1.0, 2.0]), 2)  # results of one call
    with pytest.raises(GradientError, match="allow_unused=True"):
        ge.grad(first.sum(), second)
    assert ge.grad(first.sum(), second, allow_unused=True) == (None,)


def test_gradients_have_gradients():
    x = leaf(2.0)
    (g,) = ge.grad(x**4, x, create_graph=True)
    (h,) = ge.grad(g, x, create_graph=True)
    (k,) = ge.grad(h, x)
    assert [t.item() for t in (g, h, k)] == [32, 48, 48]
    assert not k.requires_grad


def test_a_pass_on_the_tape_leaves_gradients_that_have_some():
    w = leaf(2.0)
    (w**3).backward(create_graph=True)
    first, w.grad = w.grad, None
    assert first.requires_grad
    first.backward()
    assert (first.item(), w.grad.item()) == (12, 12)


SECOND_ORDER = {
    "tanh": lambda x: gc.tanh(x),
    "softmax": lambda x: gc.softmax(x) * x,
    "matmul": lambda x: (x @ x).tanh(),
    "norm": lambda x: gc.layer_norm(x, 3),
    "chosen": lambda x: gc.where(x > 0, x * x, gc.exp(x)),
    "pooled": lambda x: gc.logsumexp(x, axis=1) ** 3,
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_are_those_of_the_graph(name):
    value = np.random.default_rng(1).standard_normal((3, 3))
    vector = np.random.default_rng(2).standard_normal((3, 3))
    x = gc.placeholder("x", (3, 3), "float64")
    product = gc.hvp(SECOND_ORDER[name](x).sum(), x, vector)
    with gc.Session(device="reference") as session:
        wanted = session.run(product, {x: value})
    t = ge.tensor(value, requires_grad=True)
    (g,) = ge.grad(SECOND_ORDER[name](t).sum(), t, create_graph=True)
    (found,) = ge.grad(g, t, ge.tensor(vector))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_a_tape_of_a_hundred_thousand_calls_goes_back():
    w = leaf(1.0)
    y = w
    for _ in range(100_000):
        y = y + w
    y.backward()
    assert w.grad.item() == 100_001
    del y


# --------------------------------------------------------------------------------------------- without a tape


def test_nothing_is_taped_without_grad():
    w = leaf()
    with ge.no_grad():
        assert not (w * w).requires_grad
        with ge.enable_grad():
            assert (w * w).requires_grad
    assert (w * w).requires_grad
    with ge.set_grad_enabled(False):
        assert not ge.is_grad_enabled()
    assert ge.is_grad_enabled()
    assert not (w > 0).requires_grad
    assert not gc.floor(w).requires_grad


def test_no_grad_decorates_functions_that_call_themselves():
    w = leaf(2.0)

    @ge.no_grad()
    def power(n):
        return w if n == 1 else power(n - 1) * w

    assert power(3).item() == 8 and not power(3).requires_grad
    assert ge.is_grad_enabled()


def test_the_mode_belongs_to_the_thread():
    found = []
    with ge.no_grad():
        thread = threading.Thread(target=lambda: found.append(ge.is_grad_enabled()))
        thread.start()
        thread.join()
    assert found == [True]


def test_detach_cuts_the_tape():
    w = leaf(3.0)
    y = w * w.detach()
    y.backward()
    assert w.grad.item() == 3
    assert w.detach().is_leaf and not w.detach().requires_grad
    copied = w.clone()
    assert copied is not w and copied.item() == 3 and copied.grad_fn.name == "IdentityBackward"


def test_leaves_begin_and_end_to_require_a_gradient():
    t = ge.tensor(1.0)
    assert t.requires_grad_() is t and t.requires_grad and t.is_leaf and t.grad_fn is None
    assert not t.requires_grad_(False).requires_grad
    y = leaf(1.0) * 2
    assert not y.is_leaf and y.grad_fn.name == "MultiplyBackward"
    with pytest.raises(GradientError, match="detach"):
        y.requires_grad_(False)
    with pytest.raises(GradientError, match="only floats"):
        ge.tensor([1, 2], requires_grad=True)


def test_a_leaf_that_is_frozen_gives_up_its_gradient_so_that_no_optimizer_moves_it():
    w, b = leaf(3.0), leaf(1.0)
    optimizer = ge.optimizer(gc.optim.SGD(lr=1.0), [w, b])
    (w * b).backward()
    w.requires_grad_(False)
    assert w.grad is None
    optimizer.step()
    assert (w.item(), b.item()) == (3, -2)
    w.requires_grad_()
    assert w.grad is None
    (w * b).backward()
    optimizer.step()
    assert (w.item(), b.item()) == (5, -8)


# --------------------------------------------------------------------------------------------- what the tape keeps


def test_values_are_given_up_after_a_pass():
    w = leaf()
    y = gc.exp(w)
    value = weakref.ref(y._array)
    loss = (y * y).sum()
    del y
    assert value() is not None
    loss.backward()
    assert value() is None


def test_values_live_as_long_as_the_tape_is_retained():
    w = leaf()
    loss = gc.exp(w).sum()
    loss.backward(retain_graph=True)
    first = w.grad
    loss.backward()
    np.testing.assert_array_equal(w.grad.numpy(), 2 * first.numpy())


def test_only_what_a_gradient_needs_is_kept():
    a, b = leaf(), leaf()
    total = a + b
    value = weakref.ref(total._array)
    loss = total.sum()
    del total
    assert value() is None
    loss.backward()


def test_a_second_pass_names_the_line_of_the_first():
    w = leaf(2.0)
    loss = w * w
    loss.backward()  # the first pass
    with pytest.raises(GradientError, match=r"(?s)MultiplyBackward.*the first pass.*retain_graph=True"):
        loss.backward()


def test_a_second_pass_is_refused_only_where_values_were_given_up():
    w = leaf(2.0)
    shifted = w + 1
    for count in (1, 2):
        w.grad = None
        shifted.backward()
        assert w.grad.item() == 1, f"pass {count}"
    total = Parts.apply(w, w)[0]
    total.backward()
    with pytest.raises(GradientError, match="PartsBackward"):
        total.backward()
    y = Scaled.apply(w, 3)
    y.backward()
    y.backward()


def test_a_tensor_without_a_tape_has_no_backward():
    with pytest.raises(GradientError, match="requires no gradient"):
        ge.tensor(1.0).backward()


# --------------------------------------------------------------------------------------------- values that change


def test_elements_are_not_changed_in_place():
    w = leaf()
    with pytest.raises(ArgumentError, match=r"gc\.where"):
        w[0] = 1.0
    with pytest.raises(ArgumentError, match=r"no_grad"):
        w += 1.0
    with pytest.raises(AttributeError, match=r"t\.multiply"):
        w.multiply_(2)
    total = ge.tensor(0.0)
    total += w.sum()
    total += w.sum()
    assert total.item() == 12


def test_a_leaf_is_given_another_value():
    w = leaf()
    loss = (w * w).sum()
    assert w.assign(w.detach() * 10) is w
    assert w.tolist() == [10, 20, 30]
    loss.backward()
    assert w.grad.tolist() == [2, 4, 6], "the gradient is that at the old value"
    with pytest.raises(ShapeError, match=r"float32\[3\]"):
        w.assign([1.0])
    with pytest.raises(ArgumentError, match="only a leaf"):
        (w * 2).assign([1.0, 2.0, 3.0])


# --------------------------------------------------------------------------------------------- graphs and tensors


def test_a_tensor_meets_no_graph_without_values():
    x = gc.placeholder("signal", (3,))
    with pytest.raises(ArgumentError, match=r"(?s)the graph of signal.*sess\.run"):
        leaf() + x
    np.testing.assert_array_equal((leaf() + gc.constant([1.0, 1.0, 1.0])).numpy(), [2, 3, 4])


def test_wrong_operands_are_told_as_for_graphs():
    with pytest.raises(ShapeError, match=r"(?s)matmul.*test_eager_tape.py"):
        leaf() @ leaf((1.0, 2.0))
    with pytest.raises(ShapeError, match="axis 1 doesn't exist"):
        leaf().sum(axis=1)


def test_draws_are_those_of_the_seed():
    first = [ge.random.normal((3,)).tolist(), gc.dropout(ge.ones((8,)), 0.5).tolist()]
    assert ge.random.normal((3,)).tolist() != first[0]
    ge.manual_seed(0)
    assert [ge.random.normal((3,)).tolist(), gc.dropout(ge.ones((8,)), 0.5).tolist()] == first
    with ge.set_training(False):
        assert gc.dropout(ge.ones((8,)), 0.5).tolist() == [1] * 8


def test_dropout_passes_gradients_where_it_passed_values():
    t = ge.tensor(np.ones(64, "float32"), requires_grad=True)
    y = gc.dropout(t, 0.5)
    y.sum().backward()
    assert set(y.tolist()) == {0, 2}
    np.testing.assert_array_equal(t.grad.numpy(), y.numpy())


def test_own_ops_draw_anew_with_each_call_and_compile_nothing_new():
    @gc.composite
    def dropped(x):
        return gc.dropout(gc.exp(x), 0.5)

    t = ge.tensor(np.zeros(64, "float32"), requires_grad=True)
    y = dropped(t)
    y.sum().backward()
    np.testing.assert_array_equal(t.grad.numpy(), y.numpy())
    before = len(KNOWN[True])
    assert dropped(t).tolist() != y.tolist()
    assert len(KNOWN[True]) == before


def test_the_tape_is_drawn():
    w = leaf()
    loss = (gc.tanh(Exp.apply(w)) * 2).sum()
    picture = str(gc.render(loss))
    for name in ("leaf", "Exp", "tanh", "multiply"):
        assert name in picture
    loss.backward()
    assert "tanh" in str(gc.render(loss)), "the tape can be drawn when its values are gone"


def test_an_array_may_change_after_the_call():
    x = ge.tensor([1.0, 2.0], requires_grad=True)
    batch = np.array([3.0, 3.0], "float32")
    y = (x * batch).sum()
    batch[:] = 0
    y.backward()
    assert x.grad.numpy().tolist() == [3.0, 3.0]


def test_a_hook_gives_a_gradient_of_the_same_type():
    x = ge.tensor([1.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: np.ones(3, "float32"))
    with pytest.raises(gc.ShapeError, match=r"a hook returned float32\[3\] for the gradient of float32\[2\]"):
        (x * 2).sum().backward()


def test_operators_are_named_in_errors_as_the_op():
    with pytest.raises(gc.ShapeError, match=r"^add: "):
        ge.tensor([1.0, 2.0]) + ge.tensor([1.0, 2.0, 3.0])
