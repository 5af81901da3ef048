"""Modules: the names they give, what they share, and what they hold."""

import copy

import numpy as np
import pytest

from graphc.errors import ArgumentError, GraphError, StateError
from graphc.ir import Graph
from graphc.nn import (
    BatchNorm1d,
    BatchNorm2d,
    Buffer,
    Conv2d,
    Dropout,
    Identity,
    Linear,
    Module,
    ModuleDict,
    ModuleList,
    Parameter,
    ReLU,
    Sequential,
    init,
)
from graphc.occurrences import scope
from graphc.ops.activations import relu
from graphc.ops.reduce import mean
from graphc.ops.state import Variable, placeholder
from graphc.random import normal
from graphc.runtime.session import Session


@pytest.fixture(autouse=True)
def graph():
    with Graph() as graph:
        yield graph


class Block(Module):
    """A residual block as torchvision's, with its names."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(outputs)
        self.relu = ReLU(inplace=True)
        self.downsample = None if inputs == outputs else Sequential(Conv2d(inputs, outputs, 1), BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn1(self.conv1(x)) + shortcut)


class Net(Module):
    """A network of two such blocks."""

    def __init__(self):
        super().__init__()
        self.layer1 = Sequential(Block(1, 2), Block(2, 2))
        self.fc = Linear(2, 3)

    def forward(self, x):
        return self.fc(mean(self.layer1(x), axis=(2, 3)))


def images(name="x"):
    return placeholder(name, ("batch", 1, 4, 4))


def rows(width=3, name="x"):
    return placeholder(name, ("batch", width))


def names(variables):
    return [variable.name for variable in variables]


# ------------------------------------------------------------------------------------------ names


def test_state_dict_has_the_names_and_the_order_of_torch():
    model = Net()
    model(images())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(model.state_dict()) == [
        "layer1.0.conv1.weight",
        *[f"layer1.0.bn1.{name}" for name in norm],
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.0.bias",
        *[f"layer1.0.downsample.1.{name}" for name in norm],
        "layer1.1.conv1.weight",
        *[f"layer1.1.bn1.{name}" for name in norm],
        "fc.weight",
        "fc.bias",
    ]
    assert all(variable.name == name.replace(".", "/") for name, variable in model.state_dict().items())


def test_parameters_are_named_in_the_scope_of_the_first_call():
    model = Sequential(Linear(3, 2))
    with scope("encoder"):
        model(rows())
    with scope("elsewhere"):
        model(rows(name="z"))
    assert names(model.parameters()) == ["encoder/0/weight", "encoder/0/bias"]


def test_a_root_may_have_a_name():
    first, second = Sequential(Linear(3, 2), name="net"), Sequential(Linear(3, 2), name="net")
    first(rows())
    assert names([*first.parameters(), *second.parameters()]) == [
        "net/0/weight",
        "net/0/bias",
        "net_1/0/weight",
        "net_1/0/bias",
    ]


def test_a_tree_whose_names_are_taken_gets_a_prefix_as_a_whole():
    first, second, third = Sequential(Linear(3, 2)), Sequential(Linear(2, 2)), Linear(2, 1)
    third(second(first(rows())))
    assert names(second.parameters()) == ["sequential_1/0/weight", "sequential_1/0/bias"]
    assert names(third.parameters()) == ["weight", "bias"]
    assert list(second.state_dict()) == ["0.weight", "0.bias"]


def test_a_part_that_is_used_first_is_named_as_a_part():
    model = Net()
    assert model.fc.weight.name == "fc/weight"
    other = Sequential(Linear(3, 3), ReLU(), Linear(3, 3), Linear(3, 3))
    other[2:](rows())
    assert names(other.parameters()) == [f"{k}/{name}" for k in (0, 2, 3) for name in ("weight", "bias")]


def test_reading_a_parameter_gives_its_variable():
    model = Linear(3, 2)
    weight = model.weight
    assert isinstance(weight, Variable)
    model(rows())
    assert model.weight is weight


def test_nodes_carry_the_scopes_of_their_modules():
    class Lists(Module):
        def __init__(self):
            super().__init__()
            self.layers = ModuleList([Linear(3, 3), Linear(3, 2)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    with scope("outer"):
        y = Lists()(rows())
    assert y.scope == "outer/layers/1"
    assert y.inputs[0].scope == "outer/layers/0"
    assert y.inputs[1].scope == "outer/layers/1"


def test_messages_say_where_a_layer_was_made():
    layer = Linear(3, 2)  # this line
    layer(rows())
    assert layer.weight.occurrence.site.text.endswith("# this line")


# ------------------------------------------------------------------------------------------ sharing


def test_a_module_called_twice_shares_its_parameters(graph):
    model = Sequential(Linear(3, 2), ReLU())
    first, second = model(rows()), model(rows(name="z"))
    assert first is not second
    assert model(graph["x"]) is first
    assert len(graph.variables()) == 2


def test_tied_weights_are_one_variable_under_two_names():
    class Tied(Module):
        def __init__(self):
            super().__init__()
            self.encoder = Linear(3, 3, bias=False)
            self.decoder = Linear(3, 3, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, x):
            return self.decoder(self.encoder(x))

    inner = Tied()
    outer = Sequential(inner)
    outer(rows())
    assert names(outer.parameters()) == ["0/encoder/weight"]
    assert outer.state_dict()["0.decoder.weight"] is outer.state_dict()["0.encoder.weight"]


def test_weights_can_be_tied_after_they_were_named():
    first, second = Linear(3, 3, bias=False), Linear(3, 3, bias=False)
    second.weight = first.weight
    pair = Sequential(first, second)
    pair(rows())
    assert list(pair.parameters()) == [first.weight]


def test_a_module_lives_in_one_graph():
    model = Linear(3, 2)
    model(rows())
    with Graph("other"):
        x = rows(name="foreign")
        with pytest.raises(GraphError, match=r"foreign.*'other'"):
            model(x)


def test_a_copy_has_parameters_of_its_own():
    first = Linear(3, 3)
    second = copy.deepcopy(first)
    model = Sequential(first, ReLU(), second)
    model(rows())
    assert names(model.parameters()) == ["0/weight", "0/bias", "2/weight", "2/bias"]


def test_a_copied_tree_names_its_own_parts():
    model = Sequential(Sequential(Linear(3, 3)))
    twin = copy.deepcopy(model)
    twin[0](rows())
    assert twin[0][0].weight.name == "0/0/weight"


def test_a_part_can_be_replaced_after_the_first_call():
    model = Sequential(Linear(3, 3), Linear(3, 5))
    model(rows())
    old = model[1].weight
    model[1] = Linear(3, 2)
    assert model(rows(name="z")).shape[1] == 2
    assert model[1].weight.name == "1/weight_1"
    assert old not in set(model.parameters())
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


# ------------------------------------------------------------------------------------------ attributes


def test_what_is_assigned_is_a_part():
    class Parts(Module):
        def __init__(self):
            super().__init__()
            self.scale = Parameter(np.ones(2, np.float32))
            self.drawn = Parameter(normal((2, 2)))
            self.register_buffer("offset", np.zeros(2, np.float32))
            self.made = Variable(1.0, "made")
            self.table = ModuleDict({"a": Linear(2, 2)})
            self.nothing = None

    parts = Parts()
    assert [name for name, _ in parts.named_parameters()] == [
        "scale",
        "drawn",
        "made",
        "table.a.weight",
        "table.a.bias",
    ]
    assert [name for name, _ in parts.named_buffers()] == ["offset"]
    assert [name for name, _ in parts.named_modules()] == ["", "table", "table.a"]
    assert not parts.offset.trainable
    with Session() as sess:
        assert np.ptp(sess[parts.drawn]) > 0


def test_a_part_can_be_taken_out():
    model = Linear(3, 2)
    model.bias = None
    assert names(model.parameters()) == ["weight"]
    del model.weight
    assert names(model.parameters()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: setattr(m, "weight", np.ones(3)),
        lambda m: setattr(m, "a.b", Linear(1, 1)),
        lambda m: m.add_module("itself", m),
        lambda m: m.initialize(wait=init.ones()),
        lambda m: Module()(),
    ],
)
def test_what_cant_be_a_part(wrong):
    with pytest.raises(ArgumentError):
        wrong(Linear(3, 3))


def test_an_unknown_attribute_has_near_names():
    with pytest.raises(AttributeError, match="did you mean 'weight'"):
        Linear(3, 3).wieght  # noqa: B018
    with pytest.raises(AttributeError, match="training=True"):
        Linear(3, 3).eval()


def test_sequential_takes_names_and_slices():
    model = Sequential({"first": Linear(3, 3), "second": ReLU()})
    model.append(Linear(3, 1))
    assert [name for name, _ in model.named_children()] == ["first", "second", "2"]
    assert model["first"] is model[0] is model.first
    assert list(model[1:]) == [model[1], model[2]]
    assert len(model[:-1].append(Identity())) == 3


def test_apply_visits_parts_first():
    seen = []
    model = Sequential(Sequential(ReLU()))
    assert model.apply(seen.append) is model
    assert seen == [model[0][0], model[0], model]


def test_the_printed_tree():
    model = Sequential(Conv2d(1, 2, 3, stride=2), Sequential(ReLU(inplace=True), Dropout(0.2)), Linear(2, 1))
    assert repr(model) == "\n".join(
        [
            "Sequential(",
            "  (0): Conv2d(1, 2, kernel_size=(3, 3), stride=2)",
            "  (1): Sequential(",
            "    (0): ReLU()",
            "    (1): Dropout(p=0.2)",
            "  )",
            "  (2): Linear(in_features=2, out_features=1, bias=True)",
            ")",
        ]
    )


# ------------------------------------------------------------------------------------------ values


def test_initial_values_depend_on_the_name_only():
    def values(before):
        with Graph():
            x = rows()
            for _ in range(before):
                with scope("other"):
                    Linear(3, 3)(normal((2, 3)) + x)
            model = Sequential(Linear(3, 2), ReLU(), Linear(2, 1))
            model(x)
            with Session(seed=5) as sess:
                return sess.run(model.state_dict())

    alone, among = values(0), values(3)
    assert all(np.array_equal(alone[name], among[name]) for name in alone)
    assert not np.array_equal(alone["0.weight"][0], alone["0.weight"][1])


def test_values_load_into_a_session():
    model = Sequential(Linear(2, 1))
    given = {"0.weight": np.array([[1.0, 2.0]], np.float32), "0.bias": np.array([3.0], np.float32)}
    with Session() as sess:
        sess.run(model.state_dict())
        report = model.load_state_dict(given, session=sess)
        assert float(sess.run(model(np.array([[1.0, 1.0]], np.float32)))[0, 0]) == 6
    assert report.loaded == ("0.weight", "0.bias")


def test_values_loaded_without_a_session_are_first_values():
    model = Sequential(Linear(2, 1, bias=False))
    given = {"0.weight": np.array([[1.0, 2.0]], np.float32)}
    model.load_state_dict(given)
    with Session() as sess:
        assert np.array_equal(sess.run(model.state_dict())["0.weight"], given["0.weight"])
    model.load_state_dict({"0.weight": 2 * given["0.weight"]})
    with Session() as sess:
        assert np.array_equal(sess[model[0].weight], 2 * given["0.weight"])


def test_values_that_differ_are_refused_as_a_whole():
    model = Sequential(Linear(2, 1), BatchNorm1d(1))
    given = {name: np.zeros(v.shape, v.dtype) for name, v in model.state_dict().items()}
    given["1.runing_mean"] = given.pop("1.running_mean")
    given["0.weight"] = np.zeros((1, 3), np.float32)
    with Session() as sess:
        before = sess[model[0].bias]
        with pytest.raises(StateError) as caught:
            model.load_state_dict(given, session=sess)
        assert np.array_equal(sess[model[0].bias], before)
        for line in ("missing: 1.running_mean; did you mean '1.runing_mean'?", "0.weight is float32[1, 2]"):
            assert line in str(caught.value)
        report = model.load_state_dict(given, strict=False, session=sess)
        assert report.missing == ("1.running_mean",)
        assert not sess[model[0].bias].any()


def test_frozen_parameters_stay_out_of_training():
    model = Sequential(Linear(2, 2), BatchNorm1d(2))
    model[0].freeze()
    assert [v.trainable for v in model.parameters()] == [False, False, True, True]
    assert [v.trainable for v in model.unfreeze().parameters()] == [True] * 4
    assert not model[1].running_mean.trainable


# ------------------------------------------------------------------------------------------ other tensors


def test_a_module_computes_with_whatever_its_states_hold():
    layer = Linear(2, 1)
    x = rows(2)
    standing_in = {"weight": placeholder("w", (1, 2)), "bias": placeholder("b", (1,))}
    for name, state in layer.named_states():
        state.value = standing_in[name]
    assert dict(layer.named_parameters()) == standing_in
    with Session() as sess:
        fed = {x: [[1.0, 2.0]], standing_in["weight"]: [[3.0, 4.0]], standing_in["bias"]: [5.0]}
        assert float(sess.run(layer(x), fed)[0, 0]) == 16


def test_buffers_and_parameters_are_told_apart():
    with pytest.raises(ArgumentError, match="shape="):
        Parameter(init.ones())
    assert Buffer(1).dtype == "int64"
    assert not Buffer(1.0).trainable and Parameter(1.0).trainable and not Parameter(1).trainable


# ------------------------------------------------------------------------------------------ parts that are none


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: Sequential(Linear(2, 2), relu), r"hint: .* many have a layer, such as gc.nn.ReLU\(\)"),
        (lambda: Sequential(ReLU), r"hint: make one: ReLU\(\)"),
        (lambda: Sequential({"act": relu}), "Sequential holds modules, got <op relu>"),
        (lambda: Sequential([ReLU()]), r"Sequential holds modules, got \[ReLU\(\)\]"),
        (lambda: ModuleList([np.tanh]), "ModuleList holds modules"),
        (lambda: ModuleDict({"act": relu}), "ModuleDict holds modules"),
        (lambda: Sequential(ReLU()).__setitem__(0, relu), "Sequential holds modules"),
    ],
)
def test_a_container_refuses_what_it_would_not_call(make, hint):
    with pytest.raises(ArgumentError, match=hint):
        make()


def test_first_values_are_copied_once() -> None:
    given = np.ones((3, 2), np.float32)
    with Graph(), Session() as session:
        layer = Linear(2, 3, bias=False)
        layer.load_state_dict({"weight": given})
        given[:] = 2
        layer(placeholder("x", (1, 2)))
        (weight,) = layer.parameters()
        (state,) = [state for _, state in layer.named_states()]
        assert state.initial is weight.initial, "one copy, that nobody can write to"
        assert session[weight].tolist() == np.ones((3, 2)).tolist()
