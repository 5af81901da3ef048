"""Arguments of every wrong kind, given to every public function: no bare exception comes out of graphc."""

from __future__ import annotations

import inspect
import itertools
import traceback

import numpy as np
import pytest
from error_testing import check_form

import graphc as gc
from graphc.op import Op

ROOMS = {"gc": gc, "gc.nn": gc.nn, "gc.nn.init": gc.nn.init, "gc.losses": gc.losses, "gc.metrics": gc.metrics}
ROOMS |= {"gc.optim": gc.optim, "gc.random": gc.random}

# Names that aren't called by users, or that do something with what they are given.
NOT_CALLED = {"Node", "Op", "Placeholder", "Program", "Updates", "Initializer", "render", "export_onnx", "summary"}

JUNK = {
    "None": None,
    "text": "abc",
    "bytes": b"abc",
    "object": object(),
    "int": 3,
    "negative": -1,
    "large": 10_000,
    "float": 2.5,
    "nan": float("nan"),
    "bool": True,
    "complex": 1j,
    "empty list": [],
    "mixed list": [1, "a"],
    "tuple": (1, 2),
    "dict": {},
    "array": np.ones((2, 3)),
    "array of text": np.array(["a"]),
    "function": lambda: 0,
    "class": gc.nn.Linear,
    "graph": gc.Graph(),
}


def callables():
    for room, module in ROOMS.items():
        for name in module.__all__:
            value = getattr(module, name)
            error = inspect.isclass(value) and issubclass(value, BaseException)
            if callable(value) and name not in NOT_CALLED and not error:
                yield pytest.param(value, id=f"{room}.{name}")


def calls(x, y):
    """Arguments, each with one or two that make no sense."""
    tensors = {"float tensor": x, "int tensor": y, "scalar": x[0, 0]}
    yield ()
    for (first, a), (second, b) in itertools.product({**JUNK, **tensors}.items(), repeat=2):
        if first == second:
            yield (a,)
            yield (x, a, a)
        if first in tensors or second in tensors:
            yield (a, b)


def check_call(function, *args):
    """Call it: what it raises must be an error of graphc that names the line, or Python's own about the call itself."""
    try:
        function(*args)
        return
    except Exception as caught:
        error = caught
    if isinstance(error, gc.GraphcError):
        check_form(str(error))
        assert not isinstance(error, gc.InternalError)
        assert "test_errors_misuse.py:" in str(error)
    else:
        assert isinstance(error, TypeError)
        assert traceback.extract_tb(error.__traceback__)[-1].filename == __file__, repr(error)


@pytest.mark.parametrize("function", list(callables()))
def test_no_bare_exception_comes_out_of_functions(function):
    with gc.Graph():
        x, y = gc.placeholder("x", shape=(2, 3)), gc.placeholder("y", shape=("n",), dtype="int64")
        for args in calls(x, y):
            check_call(function, *args)


METHODS = ("reshape", "transpose", "sum", "mean", "max", "split", "squeeze", "flatten", "repeat", "take", "var", "flip")
OPERATORS = ("add", "sub", "mul", "truediv", "pow", "matmul", "lt", "and", "getitem")


@pytest.mark.parametrize("junk", JUNK)
def test_no_bare_exception_comes_out_of_methods_and_operators(junk):
    with gc.Graph():
        x = gc.placeholder("x", shape=(2, 3))
        operators = [f"__{side}{name}__" for name in OPERATORS for side in ("", "r")]
        for name in (*METHODS, *filter(vars(type(x).__mro__[-2]).__contains__, operators)):
            check_call(getattr(x, name), JUNK[junk])
            check_call(getattr(x, name), JUNK[junk], x)


def test_the_call_the_usage_and_the_cause_are_told():
    with gc.Graph():
        x = gc.placeholder("x", shape=(2, 3))
    with pytest.raises(gc.ArgumentError) as caught:
        gc.dropout(x, "0.5")
    text = str(caught.value)
    check_form(text)
    assert text.startswith("dropout(<x: float32[2, 3]>, '0.5'): ")
    assert "hint: dropout(x, p=0.5, training=None)" in text
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_misspelt_keyword_is_told_with_the_usage():
    with pytest.raises(gc.ArgumentError, match=r"hint: sum\(x, axis=None, keepdims=False, dtype=None\)"):
        gc.sum(gc.constant([1.0]), axes=0)
    with pytest.raises(gc.ArgumentError, match=r"hint: Linear\(in_features, out_features, bias=True, \*, dtype=None\)"):
        gc.nn.Linear(3, output=2)


@pytest.mark.parametrize("make", [lambda: gc.constant([1.0]), lambda: gc.eager.tensor([1.0])], ids=["graph", "eager"])
def test_keywords_of_pytorch_are_told_by_their_names_here(make):
    x = make()
    with pytest.raises(gc.ArgumentError, match="'dim' is called 'axis' here; 'keepdim' is called 'keepdims' here"):
        x.mean(dim=0, keepdim=True)
    with pytest.raises(gc.ArgumentError, match="'dims' is called 'axes' here"):
        gc.permute_dims(x, dims=(0,))
    with pytest.raises(gc.ArgumentError) as caught:
        gc.relu(x, dim=0)
    assert "here" not in str(caught.value).splitlines()[0], "relu has no axis"


def test_exceptions_of_the_users_own_functions_stay_what_they_are():
    @gc.composite
    def failing(x):
        return x + {}["missing"]

    class Failing(gc.nn.Module):
        def __init__(self):
            super().__init__()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="missing"):
        failing(gc.constant([1.0]))
    with pytest.raises(KeyError, match="mine"):
        Failing()


def test_functions_keep_their_names_and_documentation():
    for name in gc.__all__:
        value = getattr(gc, name)
        if inspect.isfunction(value):
            assert value.__name__ and value.__doc__ and not isinstance(value, Op)
            assert "args" not in inspect.signature(value).parameters or name in ("meshgrid", "where")
