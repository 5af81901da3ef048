"""Temporaries whose axes don't lie row-major: results are the same, whatever the order and whoever reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from op_testing import same_bits

import graphc as gc
from graphc.errors import InternalError
from graphc.ir import Node, Program
from graphc.ops.conv import conv_op
from graphc.passes import layout, lower
from graphc.passes.fuse import Fusion
from graphc.runtime.cpu.host import narrowed, this_host
from graphc.target import Order, Preference, TargetInfo
from graphc.verify_plan import verify_plan

Array = np.ndarray[Any, Any]
LAST: dict[int, Order] = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
SEEDS = range(12)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def variable(*shape: int, seed: int = 0) -> Any:
    return gc.Variable(numbers(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[1:]) or 1)))


# --------------------------------------------------------------------------------------------- random networks


class Maker:
    """A random network of convolutions and what stands between them; each value is an image [batch, C, H, W].

    Attributes:
        made: its values, of which later ones are made.
    """

    def __init__(self, x: Any, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.made = [x]

    def one_of(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def weights(self, *shape: int) -> Any:
        return variable(*shape, seed=int(self.rng.integers(1 << 20)))

    def grow(self) -> None:
        """One value more, of one of the last."""
        x = self.made[-int(self.rng.integers(1, min(2, len(self.made)) + 1))]
        steps = (self.conv, self.conv, self.conv, self.normed, self.added, self.pooled, self.joined, self.turned)
        self.made.append(self.one_of(*steps)(x))

    def conv(self, x: Any) -> Any:
        channels, kernel = x.shape[1], self.one_of(1, 3, 3, 5)
        groups = self.one_of(1, 1, 1, channels, 2 if channels % 2 == 0 else 1)
        outputs = groups * max(1, self.one_of(16, 20, 32) // groups)
        w = self.weights(outputs, channels // groups, kernel, kernel)
        stride = self.one_of(1, 1, 2) if min(x.shape[2:]) > 4 else 1
        return gc.conv2d(x, w, stride=stride, padding=self.one_of(kernel // 2, kernel // 2, kernel - 1), groups=groups)

    def normed(self, x: Any) -> Any:
        scale, shift = (self.weights(x.shape[1], 1, 1) for _ in range(2))
        return gc.relu((x - shift) / gc.sqrt(scale * scale + 1.0))

    def added(self, x: Any) -> Any:
        alike = [other for other in self.made if other.shape == x.shape]
        return gc.relu(x + self.one_of(*alike) * 0.5)

    def pooled(self, x: Any) -> Any:
        pool = self.one_of(gc.max_pool2d, gc.avg_pool2d)
        return pool(x, 3, stride=self.one_of(1, 2), padding=1) if min(x.shape[2:]) > 3 else x

    def joined(self, x: Any) -> Any:
        alike = [other for other in self.made if other.shape[2:] == x.shape[2:]]
        return gc.concat([x, self.one_of(*alike)], axis=1)

    def turned(self, x: Any) -> Any:
        return gc.sigmoid(gc.transpose(x, (0, 1, 3, 2)))


def network(seed: int, x: Any) -> list[Any]:
    """What a random network computes: means over all pixels, and a value on the way."""
    maker = Maker(x, seed)
    for _ in range(14):
        maker.grow()
    return [maker.made[5], *[gc.mean(value, axis=(2, 3)) for value in maker.made[-3:]]]


def results(fetched: Callable[[Any], Sequence[Any]], fed: Array, shape: Sequence[Any], **options: Any) -> list[Array]:
    """What a session with these options computes of `fed`."""
    with gc.Graph():
        x = gc.placeholder("x", shape)
        fetches = fetched(x)
        with gc.Session(**options) as session:
            return [np.asarray(found) for found in session.run(list(fetches), {x: fed})]


def close(found: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether all agree within 2e-4 of the largest value."""
    pairs = [(a, b, 2e-4 * max(1.0, float(np.max(np.abs(b), initial=0)))) for a, b in zip(found, expected, strict=True)]
    return all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=bound) for a, b, bound in pairs)


# --------------------------------------------------------------------------------------------- forced orders


def forced(seed: int, program: Program, fusion: Fusion, info: TargetInfo) -> dict[Node, Order]:
    """Any order for whatever may have one, as if all convolutions liked channels last."""
    rng = np.random.default_rng(seed)
    wanted = {
        cluster: Preference({0: LAST[cluster.core.ndim]}, LAST[cluster.core.ndim])
        for cluster in fusion.clusters
        if cluster.core is not None and cluster.core.op is conv_op
    }
    values = layout.Values(program, fusion, info, wanted)
    orders = {}
    for node in sorted(values.free, key=lambda node: node.serial):
        any_order = tuple(int(axis) for axis in rng.permutation(node.ndim))
        orders[node] = values.liked.get(node, any_order)
    kept = {node: order for node, order in orders.items() if rng.random() < 0.8}
    layout.follow(fusion.clusters, kept)
    return kept


Force = Callable[[int], list[Order]]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """From now on plans have random orders, which are noted."""

    def start(seed: int) -> list[Order]:
        noted: list[Order] = []

        def orders(*args: Any) -> dict[Node, Order]:
            found = forced(seed, *args)
            noted.extend(found.values())
            return found

        monkeypatch.setattr(lower, "orders_of", orders)
        return noted

    return start


@pytest.mark.parametrize("device", ["plan", "cpu"])
@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_gives_the_same_results(seed: int, device: str, force: Force) -> None:
    fed, fetched = numbers(2, 16, 9, 9), partial(network, seed)
    expected = results(fetched, fed, fed.shape, device="reference")
    orders = force(seed)
    assert close(results(fetched, fed, fed.shape, device=device), expected)
    assert len(orders) > 2


@pytest.mark.parametrize("options", [{"disable": ("prepared",)}, {"conv_precision": "exact"}], ids=["anew", "exact"])
@pytest.mark.parametrize("seed", range(4))
def test_every_convolution_reads_channels_that_lie_together(seed: int, options: dict[str, Any], force: Force) -> None:
    """Whatever computes it: other algorithms serve weights that aren't kept, and sums in their plain order."""
    fed, fetched = numbers(2, 16, 9, 9), partial(network, 100 + seed)
    expected = results(fetched, fed, fed.shape, device="reference")
    force(seed)
    assert close(results(fetched, fed, fed.shape, device="cpu", **options), expected)


@pytest.mark.parametrize("width", [32, 16])
@pytest.mark.parametrize("seed", range(4))
def test_any_order_in_narrow_vectors(seed: int, width: int, force: Force, monkeypatch: pytest.MonkeyPatch) -> None:
    fed, fetched = numbers(2, 16, 9, 9), partial(network, 200 + seed)
    expected = results(fetched, fed, fed.shape, device="reference")
    monkeypatch.setattr("graphc.runtime.cpu.target.this_host", lambda: narrowed(this_host(), width))
    force(seed)
    assert close(results(fetched, fed, fed.shape, device="cpu"), expected)


@pytest.mark.parametrize("device", ["plan", "cpu"])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_order_with_a_batch_that_is_told_later(batch: int, device: str, force: Force) -> None:
    fed = numbers(batch, 16, 9, 9)
    expected = results(partial(network, 3), fed, fed.shape, device="reference")
    force(3)
    assert close(results(partial(network, 3), fed, ("batch", 16, 9, 9), device=device), expected)


# --------------------------------------------------------------------------------------------- channels last


def blocks(x: Any, *, channels: int = 32) -> list[Any]:
    """Two residual blocks of convolutions after a strided one and a pooling; their means, and a value on the way."""

    def normed(value: Any) -> Any:
        scale, shift = (variable(channels, 1, 1, seed=k) for k in (1, 2))
        return (value - shift) / gc.sqrt(scale * scale + 1.0)

    def conv(value: Any, inputs: int, kernel: int, seed: int, stride: int = 1) -> Any:
        w = variable(channels, inputs, kernel, kernel, seed=seed)
        return normed(gc.conv2d(value, w, stride=stride, padding=kernel // 2))

    x = gc.max_pool2d(gc.relu(conv(x, int(x.shape[1]), 7, 3, 2)), 3, stride=2, padding=1)
    on_the_way = x
    for k in range(2):
        y = gc.relu(conv(x, channels, 3, 10 + k))
        x = gc.relu(conv(y, channels, 3, 20 + k) + x)
    x = gc.relu(conv(x, channels, 3, 30, 2) + conv(x, channels, 1, 31, 2))
    return [gc.mean(gc.avg_pool2d(x, 2, stride=1, padding=1), axis=(2, 3)), on_the_way]


def planned(fetched: Callable[[Any], Sequence[Any]], shape: Sequence[Any], **options: Any) -> Any:
    with gc.Graph():
        x = gc.placeholder("x", shape)
        with gc.Session(**options) as session:
            return session.plan(list(fetched(x)), {x: np.zeros([4 if isinstance(n, str) else n for n in shape], "f4")})


def ordered(plan: Any) -> list[Order]:
    return [buffer.order for buffer in plan.buffers if buffer.order is not None]


def first(fetched: Callable[[Any], Sequence[Any]], x: Any) -> Sequence[Any]:
    return fetched(x)[:1]


def test_channels_lie_together_between_convolutions() -> None:
    """Also through pooling, sums and a strided convolution; what is fetched and fed is row-major."""
    plan = planned(partial(first, blocks), (1, 3, 48, 48), conv_precision="exact")
    assert ordered(plan) == [LAST[4]] * len(ordered(plan))
    images = [b for b in plan.buffers if b.role == "arena" and b.node.ndim == 4]
    assert len(images) >= 8 and all(buffer.order is not None for buffer in images)
    fetched = planned(blocks, (1, 3, 48, 48), conv_precision="exact")
    assert all(b.order is None for b in fetched.buffers if b.role != "arena")
    verify_plan(plan)


@pytest.mark.parametrize("options", [{"disable": ("layout",)}, {"device": "plan"}, {"disable": ("prepared",)}])
def test_nothing_is_turned_where_nothing_is_gained(options: dict[str, Any]) -> None:
    assert ordered(planned(blocks, (1, 3, 48, 48), **options)) == []


def test_training_keeps_the_order_of_its_convolutions() -> None:
    """Their weights change in each step, so nothing is kept of them, and no channels lie in lanes."""

    def trained(x: Any) -> list[Any]:
        value = blocks(x)[0]
        return [gc.optim.SGD(lr=0.1).minimize(gc.mean(value * value))]

    assert ordered(planned(trained, (2, 3, 48, 48))) == []


@pytest.mark.parametrize("channels", [32, 40, 24])
@pytest.mark.parametrize("side", [48, 61])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_laid_out_equals_the_reference(batch: int, side: int, channels: int) -> None:
    fed, fetched = numbers(batch, 3, side, side), partial(blocks, channels=channels)
    expected = results(fetched, fed, fed.shape, device="reference")
    assert close(results(fetched, fed, fed.shape), expected)
    assert close(results(fetched, fed, ("batch", 3, side, side)), expected)
    assert close(results(fetched, fed, fed.shape, conv_precision="exact"), expected)


@pytest.mark.parametrize("width", [64, 32, 16])
def test_what_is_laid_out_has_the_same_bits_for_any_number_of_threads(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = numbers(2, 3, 61, 61)
    monkeypatch.setattr("graphc.runtime.cpu.target.this_host", lambda: narrowed(this_host(), width))
    one, *more = [results(blocks, fed, fed.shape, threads=count) for count in (1, 2, 4)]
    assert close(one, results(blocks, fed, fed.shape, device="reference"))
    assert all(same_bits(a, b) for found in more for a, b in zip(found, one, strict=True))


@pytest.mark.parametrize("side", [224, 213])
def test_transformed_tiles_are_read_where_channels_lie_together(side: int) -> None:
    """Where images are large enough for that; there are tiles of all places, in the corners and at the edges."""
    fetched = partial(blocks, channels=64)
    plan = planned(partial(first, fetched), (1, 3, side, side))
    assert any("winograd 4x4, channels in lanes" in made.how for made in plan.made) and LAST[4] in ordered(plan)
    fed = numbers(1, 3, side, side)
    assert close(results(fetched, fed, fed.shape), results(fetched, fed, fed.shape, device="reference"))


def test_rows_of_channels_lie_together() -> None:
    """Convolutions along one axis, with dilation."""

    def rows(x: Any) -> list[Any]:
        for k in range(3):
            x = gc.relu(gc.conv1d(x, variable(32, x.shape[1], 3, seed=k), padding=2, dilation=2))
        return [gc.mean(x, axis=2)]

    fed = numbers(2, 16, 50)
    assert set(ordered(planned(rows, fed.shape))) == {LAST[3]}
    assert close(results(rows, fed, fed.shape), results(rows, fed, fed.shape, device="reference"))


def test_nan_and_infinities_pass_through_what_is_laid_out() -> None:
    fed = numbers(1, 16, 20, 20)
    fed[0, 3, 4, 5], fed[0, 7, 19, 0] = np.nan, np.inf

    def pooled(x: Any) -> list[Any]:
        y = gc.conv2d(x, variable(16, 16, 1, 1))
        y = gc.max_pool2d(gc.conv2d(y, variable(32, 16, 3, 3, seed=1), padding=1), 3, stride=2, padding=1)
        return [gc.isfinite(gc.conv2d(y, variable(32, 32, 3, 3, seed=2), padding=1)).astype("float32")]

    options = {"conv_precision": "exact"}
    found, expected = (results(pooled, fed, fed.shape, **each) for each in (options, {"device": "reference"}))
    assert same_bits(found[0], expected[0])


def test_reports_tell_what_lies_in_another_order() -> None:
    report = planned(partial(first, blocks), (1, 3, 48, 48), conv_precision="exact").report()
    assert re.search(r"^laid out: \d+ temporaries \([\d.]+ .B\) lie as 0 2 3 1", report, re.MULTILINE)
    assert "laid out" not in planned(blocks, (1, 3, 48, 48), disable=("layout",)).report()


def test_an_order_that_is_none_is_found_out() -> None:
    plan = planned(blocks, (1, 3, 48, 48), conv_precision="exact")
    at, buffer = next((k, b) for k, b in enumerate(plan.buffers) if b.order is not None)
    broken = [*plan.buffers]
    broken[at] = buffer._replace(order=(0, 2, 2, 1))
    with pytest.raises(InternalError, match="order"):
        verify_plan(replace(plan, symbolic=replace(plan.symbolic, buffers=tuple(broken))))
