"""What may be fetched, in which form, and what may be fed: any tensor, and any array that fits."""

import collections
import dataclasses
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from state_testing import variable

import graphc as gc

# --- forms of fetches


class Pair(NamedTuple):
    """Two values."""

    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Record:
    """Two values, and one that isn't given."""

    value: Any
    rest: Any = None
    count: int = dataclasses.field(default=3, init=False)


@pytest.fixture
def tensors():
    """Three constants: 1, 2 and 3."""
    return [gc.constant(float(k)) for k in (1, 2, 3)]


def test_results_have_the_form_of_what_is_fetched(session, tensors):
    a, b, c = tensors
    forms = [
        (a, 1),
        ([a, (b, [c])], [1, (2, [3])]),
        ((a,), (1,)),
        (Pair(a, [b]), Pair(1, [2])),
        ({"x": a, 1: b, (2, 3): {None: c}}, {"x": 1, 1: 2, (2, 3): {None: 3}}),
        (collections.OrderedDict(q=a, p=b), {"q": 1, "p": 2}),
        ([Record(a, {"r": b}), c], [Record(1, {"r": 2}), 3]),
        ([], []),
        ({}, {}),
        ((), ()),
        ([[], {"a": ()}, a], [[], {"a": ()}, 1]),
        ([a, a, a], [1, 1, 1]),
    ]
    for fetches, expected in forms:
        for found in (session.run(fetches), session.compile(fetches)()):
            assert (found == expected and type(found) is type(expected)) or fetches is a
    assert list(session.run({"z": a, "y": b})) == ["z", "y"]
    assert type(session.run(Pair(a, b))) is Pair and type(session.run(Record(a, b))) is Record


def test_a_key_may_be_a_tensor_and_a_leaf_a_name(session):
    w = variable([1.0], "encoder")
    found = session.run({w: "encoder", "twice": [w, "encoder"]})
    assert found[w].tolist() == [1] and [v.tolist() for v in found["twice"]] == [[1], [1]]


def test_updates_stand_anywhere_in_a_form_and_give_none(session, tensors):
    w = variable(0.0)
    bump = w.assign_add(1.0)
    assert session.run({"a": bump, "b": [tensors[0], bump], "c": Record(bump, tensors[1])}) == {
        "a": None,
        "b": [1, None],
        "c": Record(None, 2),
    }
    assert float(session[w]) == 1
    assert session.run(bump) is None and float(session[w]) == 2


def itself():
    fetches: list[Any] = []
    fetches.append(fetches)
    return fetches


NO_FETCHES = {
    "a generator": (lambda a: (t for t in [a]), "can't fetch generator"),
    "a map": (lambda a: map(id, [a]), "can't fetch map"),
    "values of a dict": (lambda a: {"a": a}.values(), "can't fetch dict_values"),
    "a dataclass itself": (lambda a: Record, "can't fetch type"),
    "a function": (lambda a: len, "can't fetch builtin"),
    "a truth": (lambda a: True, "can't fetch bool"),
    "a list in itself": (lambda a: itself(), "does a list contain itself?"),
    "a node with several results": (lambda a: pair_node(a), "has several results"),
}


@gc.composite
def both(x):
    return x + 1, x * 2


def pair_node(x):
    return both(x)[0].inputs[0]


@pytest.mark.parametrize("case", NO_FETCHES)
def test_what_can_not_be_fetched_is_refused_and_said(session, case):
    make, says = NO_FETCHES[case]
    w = variable([1.0])
    for wrong in (make(w), [w, make(w)]):
        with pytest.raises(gc.FetchError, match=says.replace("?", r"\?")):
            session.run(wrong)
        with pytest.raises(gc.FetchError, match=says.replace("?", r"\?")):
            session.compile(wrong)
    assert session.run(w).tolist() == [1]


@pytest.mark.parametrize(
    ("feeds", "says"),
    [(3.0, "takes tensors or their names, got float"), (["x", "x"], "'x' is fed twice"), ([3], "3 is no tensor")],
)
def test_what_a_step_can_not_be_fed_is_refused(session, feeds, says):
    x = gc.placeholder("x", shape=())
    with pytest.raises(gc.GraphcError, match=says):
        session.compile(x, feeds=feeds)


# --- which arrays fit


BASE = np.arange(48, dtype="float32").reshape(4, 12)
LAYOUTS = {
    "as it is": BASE[:2, :3].copy(),
    "read-only": BASE[:2, :3].copy(),
    "strided": BASE[::2, ::4],
    "backwards": BASE[1::-1, 2::-1],
    "Fortran": np.asfortranarray(BASE[:2, :3]),
    "transposed": BASE[:3, :2].T,
    "repeated by a stride of 0": np.broadcast_to(BASE[0, :3], (2, 3)),
    "unaligned": np.frombuffer(b"\0" + BASE[:2, :3].tobytes(), "float32", offset=1).reshape(2, 3),
    "other byte order": BASE[:2, :3].astype(BASE.dtype.newbyteorder()),
    "float64": BASE[:2, :3].astype("float64"),
    "bfloat16": BASE[:2, :3].astype(ml_dtypes.bfloat16),
    "integers": BASE[:2, :3].astype("int64"),
    "lists": BASE[:2, :3].tolist(),
    "a matrix": BASE[:2, :3].copy().view(np.matrix),
    "a buffer": memoryview(BASE[:2, :3].copy()),
    "empty": BASE[:0, :3],
}
LAYOUTS["read-only"].setflags(write=False)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout_can_be_fed(session, layout):
    x = gc.placeholder("x", shape=("n", 3))
    value = LAYOUTS[layout]
    plain = np.array(value, "float32")
    w = variable(np.zeros(3))
    found = session.run([x, x * 2, x.T, x.sum(axis=0), gc.exp(x - x), w.assign(x.sum(axis=0))], {x: value})
    expected = [plain, plain * 2, plain.T, plain.sum(axis=0), np.ones_like(plain)]
    for a, b in zip(found, expected, strict=False):
        assert a.dtype == np.float32 and a.shape == b.shape and (a == b).all()
        assert not isinstance(value, np.ndarray) or not np.shares_memory(a, value)
    assert (session[w] == expected[3]).all()
    assert (np.array(value, "float32") == plain).all()


def test_numbers_can_be_fed_to_scalars_and_an_array_of_no_dimensions(session):
    x = gc.placeholder("x", shape=(), dtype="int8")
    for value in (5, np.int64(5), np.array(5), np.array(5, "int8"), np.array([5], "int8")[0], True + 4):
        found = session.run(x + 1, {x: value})
        assert found == 6 and found.shape == () and found.dtype == np.int8
    for value in (128, 5.0, [5], "5", None):
        with pytest.raises(gc.FeedError):
            session.run(x, {x: value})


def test_a_masked_array_is_refused(session):
    x = gc.placeholder("x", shape=("n",))
    with pytest.raises(gc.FeedError, match="masked array, whose mask would be lost"):
        session.run(x, {x: np.ma.masked_array([1.0, 2.0], [True, False])})


# --- what may be fed instead of being computed


@pytest.fixture
def chain():
    """x (n, 3) times w is h; exp(h) is y; y plus noise is z."""
    x = gc.placeholder("x", shape=("n", 3))
    w = variable([1.0, 2.0, 3.0])
    noise = gc.random.uniform((3,), name="noise")
    h = x * w
    y = gc.exp(h)
    return x, w, noise, h, y, y + noise


ONES, ZEROS = np.ones((2, 3), "float32"), np.zeros((2, 3), "float32")


def test_a_feed_that_nothing_needs_is_allowed(session, chain):
    x, w, *_ = chain
    unused = gc.placeholder("unused", shape=("m", "k"))
    assert session.run(w * 2, {x: ONES, unused: [[1.0]]}).tolist() == [2, 4, 6]
    assert session.compile(w * 2, [unused])([[1.0, 2.0]]).tolist() == [2, 4, 6]


def test_an_intermediate_that_is_fed_needs_nothing_before_it(session, chain):
    *_, h, y, _ = chain
    assert (session.run(y, {h: ZEROS}) == 1).all()
    assert (session.run([h, y], {h: ZEROS})[0] == 0).all()
    assert (session.run([h, y, h], {y: ZEROS, h: ONES})[1] == 0).all()


def test_a_fetched_tensor_that_is_fed_is_what_was_fed(session, chain):
    for tensor in chain:
        value = np.full(tuple(2 if dim == chain[0].shape[0] else dim for dim in tensor.shape), 7, "float32")
        found = session.run(tensor, {tensor: value})
        assert (found == 7).all() and not np.shares_memory(found, value)


def test_a_tensor_and_one_that_it_is_computed_from_may_both_be_fed(session, chain):
    x, w, noise, h, y, z = chain
    found = session.run([x, h, y, z], {x: ONES * 9, h: ZEROS, w: [0, 0, 0], noise: [1, 1, 1]})
    assert [float(value[0, 0]) for value in found] == [9, 0, 1, 2]
    found = session.run([y, z], {z: ZEROS, x: ZEROS})
    assert (found[0] == 1).all() and (found[1] == 0).all()


def test_the_result_of_a_composite_can_be_fed(session):
    x = gc.placeholder("x", shape=("n", 3))
    y = gc.softmax(x)
    assert (session.run(y * 2, {y: ONES}) == 2).all()
    a, b = both(x)
    found = session.run([a, b, a + b], {x: ONES, a: ZEROS})
    assert [float(value[0, 0]) for value in found] == [0, 2, 2]
    with pytest.raises(gc.FetchError, match="has several results"):
        session.run(a, {pair_node(x): ONES})


def test_a_constant_can_be_fed(session):
    c = gc.constant(np.float32(2))
    w = variable([1.0, 2.0])
    assert session.run(c * w, {c: 5.0}).tolist() == [5, 10]
    assert session.run(c * w).tolist() == [2, 4]


def test_sizes_may_come_from_what_is_fed_instead_of_a_placeholder(session, chain):
    x, _, _, h, *_ = chain
    ones = gc.ones((x.shape[0],)) + h.sum(axis=1)
    assert session.run(ones, {h: np.ones((5, 3))}).tolist() == [4] * 5
    with pytest.raises(gc.FeedError, match=r"n = 2 from feed 'x' .*, but 5 from feed 'multiply'"):
        session.run(ones, {h: np.ones((5, 3)), x: ONES})


def test_a_dimension_that_only_a_fed_tensor_has_is_known_from_it(session):
    n = gc.placeholder("n", shape=("n",))
    w = variable(np.ones(3))
    grown = gc.concat([n, w])
    assert session.run(grown * 2, {grown: np.ones(8)}).tolist() == [2] * 8
    with pytest.raises(gc.FeedError, match=r"expected n \+ 3"):
        session.run(grown * 2, {grown: np.ones(2)})


def test_an_update_can_be_computed_from_what_is_fed(session, chain):
    _, w, _, h, y, _ = chain
    session.run(w.assign(y.sum(axis=0)), {h: ZEROS})
    assert session[w].tolist() == [2, 2, 2]
    loss = (h * h).sum()
    train = gc.optim.SGD(lr=1.0).minimize(loss)
    session.run(train, {train[w]: [4, 5, 6]})
    assert session[w].tolist() == [4, 5, 6]


# --- sessions and graphs


def test_a_failed_first_run_binds_the_session_to_no_graph():
    with gc.Graph("one"):
        a = variable([1.0], "a")
        missing = gc.placeholder("missing", shape=())
    with gc.Graph("two"):
        b = variable([2.0], "b")
    with gc.Session() as session:
        for wrong in ([a, b], [a, missing], [a, 3.0]):
            with pytest.raises(gc.GraphcError):
                session.run(wrong)
        assert session.run(b).tolist() == [2]
        with pytest.raises(gc.GraphError, match="'a' belongs to graph 'one', this session runs 'two'"):
            session.run(b, {a: [1.0]})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"graph": "plan"}, "must be a Graph, got 'plan'"),
        ({"device": "plna"}, "did you mean 'plan'"),
        ({"seed": -1}, "seed must be an int"),
        ({"seed": 1.5}, "seed must be an int"),
        ({"threads": 0}, "threads must be a positive int"),
        ({"disable": "fuze"}, "called 'fuze'; did you mean 'fuse'"),
    ],
)
def test_wrong_arguments_of_a_session_are_told(arguments, says):
    with pytest.raises(gc.ArgumentError, match=says):
        gc.Session(**arguments)


def test_a_session_takes_numpys_integers_and_the_name_of_one_switch():
    with gc.Graph(), gc.Session(seed=np.int64(3), disable="fuse") as session, gc.Session(seed=3) as other:
        draw = gc.random.uniform((3,))
        assert session.run(draw).tolist() == other.run(draw).tolist()
