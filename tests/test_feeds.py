"""Feeds: what is converted, and how a mistake in what is fed is recognised and told."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from error_testing import check_form
from hypothesis import given
from hypothesis import strategies as st

import graphc as gc
from graphc.runtime.feeds import shape_hint

CHANNELS, HEIGHT, WIDTH = 3, 5, 7


class Images:
    """A graph with two placeholders that share a symbol, and a session."""

    def __init__(self):
        with gc.Graph():
            self.images = gc.placeholder("images", shape=("batch", CHANNELS, HEIGHT, WIDTH))
            self.labels = gc.placeholder("labels", shape=("batch",), dtype="int64")
            self.kept = gc.Variable(np.float32(0), name="kept")
            scores = self.images.mean(axis=(1, 2, 3))
            self.loss = (scores * self.labels).sum()
            self.accuracy = gc.cast(scores > 0, "float32").mean()
            self.count = self.kept.assign_add(1.0)
        self.session = gc.Session()

    def feeds(self, batch=4):
        images = np.linspace(-1, 1, batch * CHANNELS * HEIGHT * WIDTH, dtype="float32")
        return {
            self.images: images.reshape(batch, CHANNELS, HEIGHT, WIDTH),
            self.labels: np.arange(batch),
        }

    def told(self, feeds, fetches=None):
        """The message of a run with these feeds, after which the session must be as before."""
        valid = self.feeds()
        before = self.session.run([self.loss, self.kept], valid)
        with pytest.raises(gc.FeedError) as caught:
            self.session.run([self.loss, self.count] if fetches is None else fetches, feeds)
        assert self.session.run([self.loss, self.kept], valid) == before
        check_form(str(caught.value))
        return str(caught.value)


@pytest.fixture(scope="module")
def net():
    return Images()


# --- what is converted

ACCEPTED = [
    ("float64 by accident", np.ones(3), "float32", 1.0),
    ("infinities", np.array([np.inf, -np.inf, 1e38]), "float32", np.float32([np.inf, -np.inf, 1e38])),
    ("float16", np.ones(3, "float16"), "float32", 1.0),
    ("bfloat16", np.ones(3, ml_dtypes.bfloat16), "float32", 1.0),
    ("long double", np.ones(3, "longdouble"), "float32", 1.0),
    ("float32 to float64", np.ones(3, "float32"), "float64", 1.0),
    ("Python floats", [1.0, 1.0, 1.0], "float16", 1.0),
    ("integers to floats", np.arange(3), "float32", [0, 1, 2]),
    ("bools to floats", np.array([True, False, True]), "float32", [1, 0, 1]),
    ("int64 to int8, where they fit", np.array([-128, 0, 127]), "int8", [-128, 0, 127]),
    ("uint16", np.array([0, 1, 65535], "uint16"), "int32", [0, 1, 65535]),
    ("uint32", np.array([0, 1, 2**32 - 1], "uint32"), "int64", [0, 1, 2**32 - 1]),
    ("bools to integers", np.array([True, False, True]), "int64", [1, 0, 1]),
    ("nothing", [], "int64", []),
    ("a tuple", (1, 2, 3), "float32", [1, 2, 3]),
    ("Fortran order", np.ones((3, 1), order="F")[:, 0], "float32", 1.0),
    ("a view with negative strides", np.arange(3)[::-1], "int64", [2, 1, 0]),
    ("big endian", np.arange(3, dtype=">f4"), "float32", [0, 1, 2]),
]


@pytest.mark.parametrize(("value", "dtype", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ACCEPTED])
def test_values_are_converted_where_nothing_is_lost(value, dtype, expected):
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n",), dtype=dtype)
        result = session.run(x, {x: value})
    assert result.dtype == np.dtype(dtype)
    assert (result == np.asarray(expected)).all()


REFUSED = [
    ("floats to integers", np.ones(3), "int64", "fed float64; convert it: value.astype('int64')"),
    ("float64 array to float16", np.ones(3), "float16", "fed float64; convert it: value.astype('float16')"),
    ("float32 array to bfloat16", np.ones(3, "float32"), "bfloat16", "convert it: value.astype('bfloat16')"),
    ("numbers to bools", np.ones(3), "bool", "convert it: value.astype('bool')"),
    ("integers to bools", [1, 0, 1], "bool", "convert it: value.astype('bool')"),
    ("an integer out of range", [0, 1, 128], "int8", "int64 values that don't fit int8 exactly"),
    ("a negative integer to unsigned", [-1, 0, 1], "uint8", "int64 values that don't fit uint8 exactly"),
    ("unsigned that would wrap", np.array([0, 1, 255], "uint8"), "int8", "uint8 values that don't fit int8 exactly"),
    ("uint64 that would wrap", np.array([0, 1, 2**64 - 1], "uint64"), "int64", "don't fit int64 exactly"),
    ("an integer that float32 rounds", [0, 1, 2**24 + 1], "float32", "int64 values that don't fit float32 exactly"),
    ("an integer that float64 rounds", [0, 1, 2**53 + 1], "float64", "int64 values that don't fit float64 exactly"),
    ("an integer beyond int64", [0, 1, 2**70], "int64", "fed list of int"),
    ("a float that is infinite in float32", np.array([0, 1, 1e39]), "float32", "values that are too large for float32"),
    ("a float that is infinite in float16", [0.0, 1.0, 7e4], "float16", "values that are too large for float16"),
    ("text", ["a", "b", "c"], "float32", "fed list of <U1"),
    ("complex numbers", np.ones(3, "complex64"), "float32", "fed ndarray of complex64"),
    ("times", np.zeros(3, "datetime64[s]"), "float32", "fed ndarray of datetime64[s]"),
    ("nothing at all", None, "float32", "fed None"),
    ("a set", {1.0}, "float32", "fed set"),
    ("objects", [object(), None, 1], "float32", "fed list of NoneType, int, object"),
    ("a ragged list", [[1.0], [2.0, 3.0]], "float32", "a ragged list: its rows differ in length"),
]


@pytest.mark.parametrize(("value", "dtype", "says"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_values_that_would_be_changed_are_refused(value, dtype, says):
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n",), dtype=dtype)
        with pytest.raises(gc.FeedError) as caught:
            session.run(x, {x: value})
    check_form(str(caught.value))
    assert f"'x' is {dtype}[n]" in str(caught.value) and says in str(caught.value)


def test_an_object_whose_conversion_fails_is_told_with_its_reason():
    class Tracked:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("it requires a gradient, use detach()")

    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n",))
        with pytest.raises(gc.FeedError, match=r"'x' is float32\[n\], fed Tracked: it requires a gradient"):
            session.run(x, {x: Tracked()})


# --- mistakes, each made in feeds that are otherwise valid

A_NODE = gc.constant(np.ones(4, "float32"))

# What is done to the images, and what the message must say.
MISTAKES = {
    "wrong rank": (lambda x: x[0, 0], "feed 'images' has shape [5, 7] of rank 2, expected [batch, 3, 5, 7]"),
    "transposed": (lambda x: x.T, "it looks transposed: value.T"),
    "channels last": (lambda x: np.moveaxis(x, 1, -1), "channels come last in it"),
    "missing batch axis": (lambda x: x[0], "the batch axis is missing: value[None]"),
    "flattened": (lambda x: x.reshape(len(x), -1), "value.reshape(-1, 3, 5, 7)"),
    "extra axis": (lambda x: x[:, None], "axis 1 of size 1 is too many: value.squeeze(1)"),
    "grey images": (lambda x: x[:, :1], "feed 'images' has 1 on axis 1, expected 3"),
    "empty": (lambda x: np.array([]), "did a file pattern match nothing?"),
    "ragged": (lambda x: [[1.0], [2.0, 3.0]], "'images' is float32[batch, 3, 5, 7], fed a ragged list"),
    "wrong dtype": (lambda x: x.astype("complex64"), "'images' is float32[batch, 3, 5, 7], fed ndarray of complex64"),
    "integers out of range": (lambda x: x.astype("int64") + 2**30 + 1, "don't fit float32 exactly"),
    "another batch": (lambda x: x[:3], "batch = 3 from feed 'images' (axis 0), but 4 from feed 'labels' (axis 0)"),
    "a tensor of the graph": (lambda x: A_NODE, "'images' is fed a tensor of the graph, <constant: float32[4]>"),
    "None": (lambda x: None, "'images' is float32[batch, 3, 5, 7], fed None"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_one_feed_is_recognised(net, mistake):
    change, says = MISTAKES[mistake]
    feeds = net.feeds()
    feeds[net.images] = change(feeds[net.images])
    assert says in net.told(feeds)


@given(st.sampled_from(sorted(MISTAKES)), st.integers(2, 6), st.booleans())
def test_any_mistake_is_told_together_with_a_wrong_label(mistake, batch, by_name):
    net = Images()
    change, _ = MISTAKES[mistake]
    feeds = net.feeds(batch)
    wrong = {"images" if by_name else net.images: change(feeds[net.images]), net.labels: np.full(batch, 0.5)}
    text = net.told(wrong)
    assert "'labels' is int64[batch], fed float64; convert it: value.astype('int64')" in text
    assert mistake == "another batch" or "'images'" in text


def test_labels_in_a_column_and_missing_channels_are_recognised():
    with gc.Graph(), gc.Session() as session:
        labels = gc.placeholder("labels", shape=("batch",), dtype="int64")
        grey = gc.placeholder("grey", shape=("batch", 1, 4, 4))
        flat = gc.placeholder("flat", shape=("batch", 784))
        values = {labels: np.zeros((6, 1), "int64"), grey: np.ones((6, 4, 4)), flat: np.ones((6, 2352))}
        with pytest.raises(gc.FeedError) as caught:
            session.run([labels, grey, flat], values)
    text = str(caught.value)
    assert text.startswith("3 feeds don't fit")
    assert "axis 1 of size 1 is too many: value.squeeze(1)" in text
    assert "axis 1 of size 1 is missing: np.expand_dims(value, 1)" in text
    assert "2352 = 3 * 784: colour images?" in text


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.permutations(range(4)))
def test_a_hint_that_names_a_remedy_is_right(sizes, order):
    declared = ("batch", *sizes)
    value = np.zeros((2, *sizes))
    variants = [value[0], value[None], value.reshape(2, -1), value.T]
    if value.ndim == 4:
        variants.append(value.transpose(order))
    for wrong in variants:
        remedy = shape_hint(declared, wrong.shape).rpartition(": ")[2]
        if wrong.shape[1:] != tuple(sizes) and ("value" in remedy):
            assert eval(remedy, {"value": wrong, "np": np}).shape[1:] == tuple(sizes)


def test_expressions_in_shapes_are_solved_and_told():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n", "2*h + 1"))
        y = gc.placeholder("y", shape=("h",))
        assert session.run(x.sum() + y.sum(), {x: np.ones((2, 7)), y: np.ones(3)}) == 17
        with pytest.raises(gc.FeedError, match=r"feed 'x' has 8 on axis 1, expected 2\*h \+ 1 = 7 \(h = 3\)"):
            session.run(x.sum() + y.sum(), {x: np.ones((2, 8)), y: np.ones(3)})


# --- keys


def test_keys_that_are_no_tensors_are_told_together(net):
    text = net.told({"imgaes": 1, "nothing/like/it": 2, 3: 4})
    assert "3 feeds don't fit" in text
    assert "no node named 'imgaes'; did you mean 'images'?" in text
    assert "no node named 'nothing/like/it'" in text
    assert "3 is no tensor of the graph, but int" in text


def test_a_tensor_fed_twice_and_one_of_another_graph(net):
    with gc.Graph("elsewhere"):
        foreign = gc.placeholder("foreign", shape=())
    assert "'images' is fed twice" in net.told({**net.feeds(), "images": 1})
    with pytest.raises(gc.GraphError, match="'foreign' belongs to graph 'elsewhere'"):
        net.session.run(net.loss, {**net.feeds(), foreign: 1})


@pytest.mark.parametrize("feeds", [[1, 2], "images", 3.0])
def test_feeds_that_are_no_dict(net, feeds):
    assert f"feeds must be a dict from tensors to values, got {type(feeds).__name__}" in net.told(feeds)


# --- missing feeds


def test_a_missing_feed_is_told_with_the_path_that_needs_it(net):
    text = net.told({net.images: net.feeds()[net.images]}, net.loss)
    assert "this run needs a value for the placeholder 'labels'" in text
    assert "'labels', int64[batch], is needed by 'squeeze': squeeze <- reduce_sum <- multiply <- cast <- labels" in text
    assert "hint: sess.run(..., {labels: ...})" in text


def test_a_feed_that_only_one_of_the_fetches_needs_is_told_so(net):
    text = net.told({net.images: net.feeds()[net.images]}, [net.accuracy, net.loss])
    assert "'labels', int64[batch], is needed only by 'squeeze'" in text


def test_all_missing_feeds_are_told_and_so_is_what_else_is_wrong(net):
    assert "values for the placeholders 'images', 'labels'" in net.told({}, net.loss)
    text = net.told({net.images: np.ones((4, 5, 7, 3))}, net.loss)
    assert "a value for the placeholder 'labels', and others don't fit" in text
    assert "channels come last in it" in text


def test_an_update_that_needs_a_feed_is_named():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=())
        w = gc.Variable(np.float32(1), name="w")
        with pytest.raises(gc.FeedError, match="is needed only by 'the update of w'"):
            session.run([w, w.assign(x)])


def test_a_long_path_is_abridged():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=())
        y = x
        for _ in range(50):
            y = gc.sin(y)
        with pytest.raises(gc.FeedError, match=r"sin <- sin <- \.\.\. <- sin <- x"):
            session.run(y)


def test_a_size_that_no_feed_gives_is_told_with_the_placeholder_that_would():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("batch", 3))
        ones = gc.ones((x.shape[0],))
        with pytest.raises(gc.FeedError) as caught:
            session.run(ones)
        assert "no feed gives the size batch" in str(caught.value)
        assert "ones = gc.ones((x.shape[0],))" in str(caught.value)
        assert "hint: feed x" in str(caught.value)
        assert session.run(ones, {x: np.zeros((2, 3))}).tolist() == [1, 1]


# --- what may be fed


def test_any_tensor_may_be_fed_and_fetched(net):
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n",))
        w = gc.Variable(np.ones(3, "float32"), name="w")
        middle = x * w
        y = middle + 1
        assert session.run(y, {middle: [1, 2, 3]}).tolist() == [2, 3, 4]
        assert session.run([x, y], {x: [1, 1, 1], w: [2, 2, 2]})[1].tolist() == [3, 3, 3]
        assert session.run(middle, {middle: [5, 6, 7]}).tolist() == [5, 6, 7]
        assert session.run(w).tolist() == [1, 1, 1]
        with pytest.raises(gc.FeedError, match="feed 'multiply' has shape"):
            session.run(y, {middle: [[1, 2, 3]]})


def test_a_default_counts_when_nothing_is_fed():
    with gc.Graph(), gc.Session() as session:
        rate = gc.placeholder("rate", shape=(), default=0.5)
        assert session.run(rate * 2) == 1.0
        assert session.run(rate * 2, {rate: 2}) == 4.0


def test_a_compiled_step_takes_its_feeds_in_order():
    with gc.Graph(), gc.Session() as session:
        x, y = (gc.placeholder(name, shape=("n",)) for name in "xy")
        step = session.compile(x - y, feeds=[x, "y"])
        assert step([3, 4], [1, 1]).tolist() == [2, 3]
        assert session.compile(x * 2, feeds=x)([1.0]).tolist() == [2]
        with pytest.raises(gc.ArgumentError, match=r"takes 2 values \(x, y\), got 1"):
            step([3, 4])
        with pytest.raises(gc.FeedError, match="n = 2 from feed 'x'"):
            step([3, 4], [1])
        with pytest.raises(gc.FeedError, match="placeholder 'y'"):
            session.compile(x - y, feeds=[x])


def test_the_order_of_feeds_does_not_matter(net):
    results = {float(net.session.run(net.loss, dict(order))) for order in itertools.permutations(net.feeds().items())}
    assert len(results) == 1
