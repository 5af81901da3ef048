"""What a PyTorch or NumPy user types first works in eager execution, or is told what to type instead."""

from __future__ import annotations

import operator
import pickle

import numpy as np
import pytest

import graphc as gc
from graphc import eager as ge
from graphc.eager import elsewhere
from graphc.errors import ArgumentError, GradientError, ShapeError

pytestmark = pytest.mark.usefixtures("as_a_thread_begins")


def leaf(value=(1.0, 2.0, 3.0)):
    return ge.tensor(list(value) if isinstance(value, tuple) else value, requires_grad=True)


# --------------------------------------------------------------------------------------------- modes


def test_no_grad_decorates_without_parentheses_too():
    w = leaf()

    @ge.no_grad
    def plain(x):
        """Doubled."""
        return x * 2

    @ge.no_grad
    def taped(x):
        return ge.enable_grad(plain.__wrapped__)(x)

    assert not plain(w).requires_grad and plain.__doc__ == "Doubled."
    assert taped(w).requires_grad and ge.is_grad_enabled()


@pytest.mark.parametrize("mode", [ge.set_grad_enabled, ge.set_training])
def test_a_mode_that_decorates_holds_within_calls_only(mode):
    w = leaf()
    read = {ge.set_grad_enabled: lambda: (w * 1).requires_grad, ge.set_training: lambda: bool(gc.by_mode(w, -w)[0] > 0)}

    @mode(False)
    def inside():
        return read[mode]()

    assert read[mode](), "decorating has set nothing"
    assert inside() is False
    assert read[mode]()


def test_the_mode_is_restored_when_a_decorated_function_fails():
    @ge.set_grad_enabled(False)
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert ge.is_grad_enabled()


# --------------------------------------------------------------------------------------------- training by hand


def test_parameters_are_changed_in_place_without_a_tape():
    w = same = leaf()
    (w * w).sum().backward()
    with ge.no_grad():
        w -= 0.5 * w.grad
    assert w is same and w.requires_grad and w.is_leaf and w.tolist() == [0, 0, 0]
    with pytest.raises(ArgumentError, match=r"no_grad\(\): w -= step"):
        w -= 1


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"])
def test_every_operator_in_place_leaves_a_parameter_what_it_is(name):
    w = ge.tensor([[5.0, 1.0], [2.0, 3.0]], requires_grad=True)
    by = np.array([[2.0, 1.0], [1.0, 2.0]], "float32")
    change, expected = getattr(operator, name), getattr(operator, name[1:])(w.numpy(), by)
    with ge.no_grad():
        assert change(w, by) is w
    assert w.requires_grad and w.is_leaf
    np.testing.assert_allclose(w.numpy(), expected)
    with pytest.raises(ArgumentError, match="in place while there is a tape"):
        change(w, by)


def test_data_is_the_value_without_the_tape_and_can_be_assigned():
    w = same = leaf()
    (w * w).sum().backward()
    assert not w.data.requires_grad
    w.data -= 0.25 * w.grad
    assert w is same and w.requires_grad and w.tolist() == [0.5, 1, 1.5]
    w.data = np.zeros(3)
    assert w.tolist() == [0, 0, 0]


def test_a_value_is_taken_to_the_host_as_in_pytorch():
    assert (leaf() * 2).detach().cpu().numpy().tolist() == [2, 4, 6]


def test_gradients_are_set_to_none_or_to_zeros():
    w = leaf()
    optimizer = ge.optimizer(gc.optim.SGD(lr=1.0), [w])
    for to_none, expected in ((True, None), (False, [0, 0, 0])):
        w.sum().backward()
        optimizer.zero_grad(set_to_none=to_none)
        assert (w.grad if w.grad is None else w.grad.tolist()) == expected


def trained(model, optimizer, steps=1):
    """The losses of some steps."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(np.ones((2, 3), "float32")) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def grouped(model):
    """The twin of Adam, with the weight and the bias in groups of their own."""
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.3}]
    return ge.optimizer(gc.optim.Adam(lr=0.1), groups)


def test_training_goes_on_from_what_was_saved():
    model = ge.module(gc.nn.Linear(3, 1))
    optimizer = grouped(model)
    trained(model, optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.2
    saved = pickle.loads(pickle.dumps([{k: v.numpy() for k, v in model.state_dict().items()}, optimizer.state_dict()]))
    assert saved[1]["param_groups"][1]["params"] == [1] and saved[1]["state"][0]["step"] == 3
    again = ge.module(gc.nn.Linear(3, 1), seed=5)
    again.load_state_dict(saved[0])
    other = grouped(again)
    other.load_state_dict(saved[1])
    assert trained(again, other, 3) == trained(model, optimizer, 3)


def test_what_was_saved_of_another_optimizer_is_refused_and_changes_nothing():
    model, wider = ge.module(gc.nn.Linear(3, 1)), ge.module(gc.nn.Linear(4, 1))
    optimizer, other = grouped(model), ge.optimizer(gc.optim.Adam(), model)
    trained(model, optimizer)
    before = optimizer.state_dict()
    with pytest.raises(ArgumentError, match=r"\[1, 1\] tensors, and those that were saved \[2\]"):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ShapeError, match=r"float32\[1, 4\] can't be assigned the shape \[1, 3\]"):
        grouped(wider).load_state_dict(before)
    assert str(optimizer.state_dict()) == str(before)


def test_entries_know_those_before_them():
    w = leaf()
    y = (w * 2).sum()
    ((multiply, slot),) = y.grad_fn.next_functions
    assert multiply.name == "MultiplyBackward" and slot == 0
    assert [(entry and entry.name) for entry, _ in multiply.next_functions] == ["AccumulateGrad", None]


def test_the_tape_of_a_model_has_the_names_of_its_parameters():
    model = ge.module(gc.nn.Sequential(gc.nn.Linear(3, 2), gc.nn.BatchNorm1d(2)))
    shift = leaf((1.0, 2.0)).named("shift")
    picture = str(gc.render((model(np.ones((4, 3), "float32")) + shift).sum()))
    for name in ("0/weight", "0/bias", "1/weight", "shift"):
        assert name in picture
    assert gc.text(shift * 2).splitlines()[-2:] == ["%1: float32[2] = multiply(shift, %0)", "return %1"]


# --------------------------------------------------------------------------------------------- NumPy's functions

OF_NUMPY = {
    "exp": lambda x: np.exp(x),
    "abs": lambda x: np.abs(x),
    "sum": lambda x: np.sum(x, axis=0),
    "mean": lambda x: np.mean(x, keepdims=True),
    "max": lambda x: np.max(x),
    "dot": lambda x: np.dot(x, x),
    "where": lambda x: np.where(x > 1, x, 0.0),
    "concatenate": lambda x: np.concatenate([x, x]),
    "add, an array first": lambda x: np.ones(3, "float32") + x,
    "power of an array": lambda x: np.full(3, 2, "float32") ** x,
    "array @": lambda x: np.ones((2, 3), "float32") @ x,
    "a number of NumPy's first": lambda x: np.float32(2) * x,
}


@pytest.mark.parametrize("name", OF_NUMPY)
def test_numpys_functions_are_on_the_tape(name):
    x = leaf()
    y = OF_NUMPY[name](x)
    assert isinstance(y, ge.Tensor) and y.requires_grad
    np.testing.assert_allclose(y.numpy(), OF_NUMPY[name](x.numpy()), rtol=1e-6)


def test_functions_that_graphc_lacks_take_values_but_leave_no_tape_unseen():
    x, w = ge.tensor([3.0, 1.0]), leaf((3.0, 1.0))
    assert np.median(x) == 2 and np.add.reduce(x) == 4
    for wrong in (lambda: np.median(w), lambda: np.add.reduce(w), lambda: np.vstack([x, w])):
        with pytest.raises(GradientError, match=r"(?s)np\..* has no gradient.*t\.numpy\(\)"):
            wrong()
    assert np.allclose(w, x) and np.array_equal(w, x) and np.shape(w) == (2,)
    with ge.no_grad():
        assert np.median(w) == 2


# --------------------------------------------------------------------------------------------- other names


@pytest.mark.parametrize("name", [*elsewhere.METHOD, *elsewhere.IN_PLACE])
def test_a_name_of_pytorchs_tensors_tells_what_to_type(name):
    with pytest.raises(AttributeError, match=name) as told:
        getattr(leaf(), name)
    assert "did you mean" not in str(told.value) and len(str(told.value)) < 200


@pytest.mark.parametrize("name", elsewhere.ROOM)
def test_a_name_of_pytorchs_tells_what_to_type(name):
    with pytest.raises(AttributeError, match=f"no '{name}': "):
        getattr(ge, name)


def test_a_misspelt_name_is_guessed_once():
    with pytest.raises(AttributeError, match=r"did you mean 'softmax' or 'log_softmax'\?$"):
        leaf().softmaks  # noqa: B018 - reading it is the test
    with pytest.raises(AttributeError, match=r"'zero_grad'\?$"):
        ge.optimizer(gc.optim.SGD(lr=1.0), [leaf()]).zero_gad()


def test_tensors_are_made_by_functions():
    with pytest.raises(ArgumentError, match=r"ge\.tensor\(data\)"):
        ge.Tensor([1.0, 2.0])
