"""Memory of large pages for the values of variables: arrays that share nothing, and belong to their session alone."""

from __future__ import annotations

import os

import numpy as np
import pytest

import graphc as gc
from graphc.runtime import pages
from graphc.runtime.pages import HUGE, LEAST, Pages
from graphc.runtime.results import is_own
from graphc.runtime.strided import ALIGN
from graphc.runtime.variables import materialise
from graphc.types import TensorType

LARGE = [("float32", (1000, 1000)), ("int8", (3, 5)), ("float64", (0, 7)), ("bfloat16", (257,)), ("bool", ())]


def types(*more: tuple[str, tuple[int, ...]]) -> list[TensorType]:
    return [TensorType(dtype, shape) for dtype, shape in [*LARGE, *more]]


@pytest.mark.parametrize("more", [[], [("int64", (LEAST // 8,))]], ids=["small", "large"])
def test_arrays_are_zeros_that_share_nothing(more: list[tuple[str, tuple[int, ...]]]) -> None:
    wanted = types(*more)
    found = pages.zeros(wanted)
    assert [(str(a.dtype), a.shape) for a in found] == [(t.dtype, t.shape) for t in wanted]
    assert all(is_own(a) and not a.any() for a in found)
    assert [isinstance(a.base, Pages) for a in found] == [bool(more)] * len(found)
    for k, array in enumerate(found):
        array[...] = 1
        assert not any(other.any() for other in found[k + 1 :])
        assert all(other.all() for other in found[:k])
    assert not more or all(a.ctypes.data % ALIGN == 0 for a in found)
    assert not more or found[0].ctypes.data % HUGE == 0


@pytest.mark.parametrize("nbytes", [1, ALIGN, LEAST - 1, LEAST, LEAST + 3])
def test_memory_is_aligned_and_much_of_it_to_a_large_page(nbytes: int) -> None:
    found = pages.aligned_memory(nbytes)
    assert (found.dtype, found.shape, found.strides) == (np.uint8, (nbytes,), (1,))
    assert found.ctypes.data % (HUGE if nbytes >= LEAST else ALIGN) == 0
    found[:] = 1


def test_copies_are_in_order_and_their_own() -> None:
    given = [np.arange(LEAST // 4, dtype=np.int32).reshape(2, -1).T, np.arange(6.0)[::2], np.array(3)]
    found = pages.copies(given)
    for new, old in zip(found, given, strict=True):
        assert np.array_equal(new, old) and new.dtype == old.dtype
        assert is_own(new) and not np.may_share_memory(new, old)


def test_a_view_is_nobodys_own() -> None:
    (array,) = pages.zeros([TensorType("int64", (LEAST // 8,))])
    assert is_own(array)
    assert not is_own(np.zeros(3)[1:])
    assert not is_own(array.reshape(2, -1).T)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system doesn't fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_memory_of_its_own() -> None:
    (array,) = pages.zeros([TensorType("int64", (LEAST // 8,))])
    child = os.fork()
    if not child:
        array[:] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert not array.any()


def test_zeros_of_another_class_are_asked() -> None:
    class nearly(gc.nn.init.zeros):
        def __call__(self, seed: int, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
            return super().__call__(seed, name, shape, dtype) + 1

    with gc.Graph():
        variables = [
            gc.Variable(initial, name, shape=(2,)) for initial, name in ((gc.nn.init.zeros(), "a"), (nearly(), "b"))
        ]
        found = materialise(variables, {}, 0)
    assert [found[v].tolist() for v in variables] == [[0, 0], [1, 1]]


def test_training_in_large_pages_computes_the_same(session: gc.Session) -> None:
    start = np.linspace(-1, 1, LEAST // 4, dtype=np.float32)
    w = gc.Variable(start, name="w")
    x = gc.placeholder("x", (LEAST // 4,))
    optimizer = gc.optim.SGD(lr=0.5, momentum=0.5)
    train = optimizer.minimize(gc.sum(w * x))
    x_value = np.ones(LEAST // 4, np.float32)
    first = session.run([w, train], {x: x_value})[0]
    second = session.run([w, train], {x: x_value})[0]
    assert first.tobytes() == start.tobytes(), "a result is the caller's"
    assert np.array_equal(second, start - np.float32(0.5))
    assert np.array_equal(session[w], second - np.float32(0.75))
    assert np.array_equal(w.initial, start), "other sessions begin with it"
