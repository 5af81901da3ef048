"""Normalisation, dropout, attention, losses and metrics: torch's conventions, modes, statistics, and the messages."""

import math

import numpy as np
import pytest
from numpy_testing import leaf, run

import graphc as gc
from graphc.dims import parse_dim
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import toposort
from graphc.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from graphc.metrics import accuracy, top_k_accuracy
from graphc.operands import parameter
from graphc.ops.nn import (
    batch_norm,
    dropout,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
    scaled_dot_product_attention,
)
from graphc.passes.gradients import gradients
from graphc.types import TensorType

EACH_SIZE = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])


def tensor(*dims, dtype="float32", index=0):
    shape = tuple(parse_dim(dim) if isinstance(dim, str) else dim for dim in dims)
    return parameter(index, TensorType(dtype, shape))


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def standardized(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def close(got, wanted, tolerance=1e-5):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# --- batch normalisation


@pytest.fixture
def normalised():
    """A batch normalisation with running statistics, its input, and a session."""
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("batch", 3, "length"))
        centre = gc.Variable(np.zeros(3, "float32"), name="mean", trainable=False)
        variance = gc.Variable(np.ones(3, "float32"), name="var", trainable=False)
        yield x, centre, variance, session


def test_training_uses_the_batch_and_moves_the_running_statistics(normalised):
    x, centre, variance, session = normalised
    y = batch_norm(x, centre, variance, momentum=0.25)
    data = 3 + 2 * drawn(5, 3, 4)
    close(session.run(y, {x: data}, training=True), standardized(data, (0, 2)))
    close(session[centre], 0.25 * data.mean((0, 2)))
    close(session[variance], 0.75 + 0.25 * data.var((0, 2), ddof=1))


def test_evaluation_uses_the_running_statistics_and_leaves_them(normalised):
    x, centre, variance, session = normalised
    session[centre], session[variance] = np.array([1, 2, 3], "float32"), np.array([4, 1, 9], "float32")
    data = drawn(5, 3, 4)
    wanted = (data - session[centre][:, None]) / np.sqrt(session[variance][:, None] + 1e-5)
    close(session.run(batch_norm(x, centre, variance), {x: data}), wanted)
    close(session.run(batch_norm(x, centre, variance, training=False), {x: data}, training=True), wanted)
    assert np.array_equal(session[centre], [1, 2, 3])


def test_training_can_be_fixed_but_statistics_move_in_training_runs_only(normalised):
    x, centre, variance, session = normalised
    data = drawn(5, 3, 4)
    close(session.run(batch_norm(x, centre, variance, training=True), {x: data}), standardized(data, (0, 2)))
    assert np.array_equal(session[centre], np.zeros(3))


def test_a_single_value_a_channel_does_not_poison_the_running_variance(normalised):
    x, centre, variance, session = normalised
    y = batch_norm(x, centre, variance)
    assert np.array_equal(session.run(y, {x: np.ones((1, 3, 1), "float32")}, training=True), np.zeros((1, 3, 1)))
    close(session[variance], np.full(3, 0.9))


def test_without_running_statistics_the_batch_serves_in_every_mode(normalised):
    x, _, _, session = normalised
    data = drawn(5, 3, 4)
    close(session.run(batch_norm(x), {x: data}), standardized(data, (0, 2)))


def test_momentum_may_be_a_tensor(normalised):
    x, centre, variance, session = normalised
    share = gc.placeholder("share")
    y = batch_norm(x, centre, variance, momentum=share)
    data = drawn(5, 3, 4)
    session.run(y, {x: data, share: 0.5}, training=True)
    close(session[centre], 0.5 * data.mean((0, 2)))


def test_statistics_of_a_half_precision_batch_are_float32():
    """The sum of squares of these values is beyond the range of float16."""
    x = (100 + 30 * drawn(64, 2, 8)).astype("float16")
    wide = x.astype("float32")
    got = run(lambda x: batch_norm(x), x)
    assert got.dtype == "float16"
    close(got.astype("float32"), standardized(wide, (0, 2)), 5e-3)


def test_a_bias_needs_no_weight():
    x, bias = drawn(4, 3, 2), drawn(3, seed=1)
    close(run(lambda x, b: batch_norm(x, bias=b), x, bias), standardized(x, (0, 2)) + bias[:, None])
    close(run(lambda x, b: layer_norm(x, 2, bias=b), x, bias[:2]), standardized(x, (2,)) + bias[:2])


def test_batch_norm_explains_what_is_wrong():
    x = tensor("n", 3, 4)
    with pytest.raises(ShapeError, match=r"expected \[3\], but running_mean is float32\[4\] and bias is float32\[2\]"):
        batch_norm(x, tensor(4, index=1), tensor(3, index=2), tensor(3, index=3), tensor(2, index=4))
    with pytest.raises(ArgumentError, match="running_mean and running_var go together"):
        batch_norm(x, tensor(3, index=1))
    with pytest.raises(ShapeError, match=r"must be \[batch, channels, ...\], got float32\[3\]"):
        batch_norm(tensor(3))
    with pytest.raises(DTypeError, match=r"batch_norm: expected floats, got int64\[2, 3\]"):
        batch_norm(tensor(2, 3, dtype="int64"))


# --- the other normalisations


@EACH_SIZE
@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5)])
def test_layer_norm_is_over_the_last_axes(shape, symbolic):
    x, weight, bias = drawn(2, 3, 4, 5), drawn(*shape, seed=1), drawn(*shape, seed=2)
    wanted = standardized(x, tuple(range(4 - len(shape), 4))) * weight + bias

    def ours(x, w, b):
        return layer_norm(x, x.shape[4 - len(shape) :], w, b)

    close(run(ours, x, weight, bias, symbolic=symbolic), wanted)


def test_layer_norm_takes_one_size_for_the_last_axis():
    x = tensor("n", 7)
    assert layer_norm(x, 7) is layer_norm(x, (7,))


@pytest.mark.parametrize("fn", [layer_norm, rms_norm])
def test_a_norm_refuses_a_shape_that_its_input_does_not_end_in(fn):
    for shape in (4, (4, 5), (2, 3, 4, 5, 6), ()):
        with pytest.raises(ShapeError, match=rf"{fn.__name__}: float32\[n, 3, 5\] does not end in \["):
            fn(tensor("n", 3, 5), shape)
    with pytest.raises(ShapeError, match=r"expected \[5\], but weight is float32\[3\]"):
        fn(tensor("n", 3, 5), 5, tensor(3, index=1))


@EACH_SIZE
def test_rms_norm_divides_by_the_root_of_the_mean_square(symbolic):
    x, weight = drawn(2, 3, 4), drawn(4, seed=1)
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * weight
    close(run(lambda x, w: rms_norm(x, x.shape[2:], w, eps=1e-3), x, weight, symbolic=symbolic), wanted)


def test_rms_norm_keeps_zeros_finite():
    assert np.array_equal(run(lambda x: rms_norm(x, 4), np.zeros((2, 4), "float16")), np.zeros((2, 4)))


def test_group_norm_is_over_groups_of_channels():
    x, weight, bias = drawn(2, 6, 3, 4), drawn(6, seed=1), drawn(6, seed=2)
    parts = standardized(x.reshape(2, 3, -1), (2,)).reshape(x.shape)
    got = run(lambda x, w, b: group_norm(x, 3, w, b), x, weight, bias)
    close(got, parts * weight[:, None, None] + bias[:, None, None])
    with pytest.raises(ShapeError, match=r"num_groups=4 must divide the channels of float32\[2, 6, 3, 4\]"):
        group_norm(leaf(x), 4)


@EACH_SIZE
def test_instance_norm_is_over_each_plane(symbolic):
    x = drawn(2, 3, 4, 5)
    close(run(instance_norm, x, symbolic=symbolic), standardized(x, (2, 3)))


# --- dropout


def test_dropout_zeroes_and_scales_in_training_runs_only():
    with gc.Graph(), gc.Session(seed=0) as session:
        x = gc.placeholder("x", shape=("n",))
        y = dropout(x, 0.25)
        data = np.arange(1, 4001, dtype="float32")
        assert np.array_equal(session.run(y, {x: data}), data)
        first, second = (session.run(y, {x: data}, training=True) for _ in range(2))
    kept = first != 0
    close(first[kept], data[kept] / 0.75)
    assert abs(kept.mean() - 0.75) < 0.03
    assert not np.array_equal(kept, second != 0)


def test_the_gradient_of_dropout_has_the_same_zeros():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=(1000,))
        y = dropout(x)
        slope = gradients(y, x)[0]
        values, slopes = session.run([y, slope], {x: np.ones(1000, "float32")}, training=True)
        assert np.array_equal(values, slopes)
        assert np.array_equal(session.run(slope, {x: np.ones(1000, "float32")}), np.ones(1000))


def test_each_dropout_draws_for_itself():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=(1000,))
        a, b = session.run([dropout(x), dropout(x)], {x: np.ones(1000, "float32")}, training=True)
    assert not np.array_equal(a, b)


def test_the_ends_of_the_range_of_dropout_draw_nothing():
    x = tensor(4)
    assert dropout(x, 0) is x
    assert dropout(x, 0.5, training=False) is x
    with_nan = np.array([1, np.nan, np.inf, -1], "float32")
    assert np.array_equal(run(lambda x: dropout(x, 1, training=True), with_nan), np.zeros(4))
    with pytest.raises(ArgumentError, match=r"p is a probability, in \[0, 1\], got 1.5"):
        dropout(x, 1.5)


# --- attention


def attended(q, k, v, mask=None, scale=None):
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = scores if mask is None else np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v


QKV = drawn(2, 3, 4, 8), drawn(2, 3, 6, 8, seed=1), drawn(2, 3, 6, 5, seed=2)


@pytest.mark.parametrize(
    "mask", [None, drawn(4, 6, seed=3), drawn(4, 6, seed=3) > -0.5, drawn(2, 1, 1, 6, seed=3) > -1]
)
def test_attention_weighs_values_by_a_softmax_over_the_keys(mask):
    got = run(lambda q, k, v: scaled_dot_product_attention(q, k, v, mask), *QKV)
    close(got, attended(*QKV, mask))


def test_attention_takes_symbolic_sequences_and_a_scale():
    q, k, v = QKV
    got = run(lambda q, k, v: scaled_dot_product_attention(q, k, v, scale=0.3), q, k, v, symbolic=True)
    close(got, attended(q, k, v, scale=0.3))
    with pytest.raises(ArgumentError, match=r"the last size of float32\[n, d\] isn't known"):
        scaled_dot_product_attention(*(tensor("n", "d", index=i) for i in range(3)))


@EACH_SIZE
def test_causal_attention_sees_no_later_key(symbolic):
    q, k, v = QKV
    got = run(lambda *x: scaled_dot_product_attention(*x, is_causal=True, scale=0.5), q, k, v, symbolic=symbolic)
    close(got, attended(q, k, v, np.tri(4, 6, dtype=bool), scale=0.5))


@pytest.mark.parametrize("hide", [lambda seen: seen, lambda seen: np.where(seen, 0, -np.inf)], ids=["bool", "float"])
def test_a_query_that_sees_nothing_gets_zeros_and_poisons_no_gradient(hide):
    seen = np.array([[True] * 6, [False] * 6, [True] * 6, [True] * 6])
    q, k, v = (leaf(array, index=i) for i, array in enumerate(QKV))
    y = scaled_dot_product_attention(q, k, v, hide(seen).astype("bool" if hide(seen).dtype == bool else "float32"))
    got, *slopes = evaluate([y, *gradients(y, [q, k, v])], dict(zip((q, k, v), QKV, strict=True)))
    others = [0, 2, 3]
    assert not got[:, :, 1].any()
    close(got[:, :, others], attended(QKV[0][:, :, others], *QKV[1:]))
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert not slopes[0][:, :, 1].any()


def test_attention_drops_weights_in_training_and_stays_whole_in_evaluation():
    with gc.Graph(), gc.Session() as session:
        q, k, v = (gc.placeholder("x", shape=a.shape) for a in QKV)
        y = scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        feeds = dict(zip((q, k, v), QKV, strict=True))
        close(session.run(y, feeds), attended(*QKV))
        assert not np.allclose(session.run(y, feeds, training=True), attended(*QKV))
        draws = [node for node in toposort([y]) if node.op.kind == "random"]
        assert [node.shape for node in draws] == [(2, 3, 4, 6)]


def test_attention_explains_sizes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"key \[..., S, E\] and value \[..., S, V\], got .*\[4, 8\], .*\[6, 8\] and"):
        scaled_dot_product_attention(tensor(4, 8), tensor(6, 8, index=1), tensor(5, 3, index=2))
    with pytest.raises(ShapeError, match="inner sizes differ"):
        scaled_dot_product_attention(tensor(4, 8), tensor(6, 7, index=1), tensor(6, 3, index=2))


# --- losses of classes


def log_softmax(x):
    shifted = x - x.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def surprises(logits, target, weight=None, smoothing=0.0, ignored=-100):
    """Loss and weight of each target of [N, C], written out."""
    logp = log_softmax(logits)
    weight = np.ones(logits.shape[1]) if weight is None else weight
    losses, shares = [], []
    for row, label in zip(logp, target, strict=True):
        counts = label != ignored
        plain = -weight[label] * row[label] if counts else 0
        smooth = -(weight * row).mean() if counts else 0
        losses.append((1 - smoothing) * plain + smoothing * smooth)
        shares.append(weight[label] if counts else 0)
    return np.array(losses), np.array(shares)


LOGITS, LABELS = drawn(6, 4), np.array([0, 3, -100, 2, 2, -100])
WEIGHT = np.array([0.5, 1, 2, 3], "float32")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_cross_entropy_of_classes(weight, smoothing):
    losses, shares = surprises(LOGITS, LABELS, weight, smoothing)
    wanted = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / shares.sum()}
    for reduction, value in wanted.items():
        options = dict(weight=weight, label_smoothing=smoothing, reduction=reduction)
        close(run(lambda x, t: cross_entropy(x, t, **options), LOGITS, LABELS), value)  # noqa: B023 - called at once


def test_cross_entropy_has_its_classes_on_axis_one():
    logits, labels = drawn(2, 4, 3), np.array([[0, 1, 3], [2, 2, 0]])
    flat = np.moveaxis(logits, 1, 2).reshape(6, 4)
    losses, _ = surprises(flat, labels.ravel())
    close(run(lambda x, t: cross_entropy(x, t, reduction="none"), logits, labels), losses.reshape(2, 3))
    close(run(cross_entropy, logits, labels, symbolic=True), losses.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_probabilities(smoothing):
    chances = np.random.default_rng(1).dirichlet(np.ones(4), 6).astype("float32")
    smoothed = chances * (1 - smoothing) + smoothing / 4
    losses = -(smoothed * WEIGHT * log_softmax(LOGITS)).sum(1)
    got = run(lambda x, t: cross_entropy(x, t, WEIGHT, label_smoothing=smoothing), LOGITS, chances)
    close(got, losses.mean())


def test_cross_entropy_of_a_single_sample():
    losses, _ = surprises(LOGITS[:1], LABELS[:1])
    close(run(cross_entropy, LOGITS[0], np.array(0)), losses[0])
    assert run(lambda x, t: cross_entropy(x, t, reduction="none"), LOGITS[0], np.array(0)).shape == ()


def test_cross_entropy_takes_small_labels_and_another_ignored_one():
    labels = np.array([0, 255, 3, 1, 255, 2], "uint8")
    losses, shares = surprises(LOGITS, labels, ignored=255)
    close(run(lambda x, t: cross_entropy(x, t, ignore_index=255), LOGITS, labels), losses.sum() / shares.sum())


def test_cross_entropy_stays_finite_for_large_logits():
    logits = np.array([[1000, -1000], [-1000, 1000]], "float32")
    loss, slope = run(lambda x: (y := cross_entropy(x, np.array([0, 0])), gradients(y, x)[0]), logits)
    close(loss, 1000)
    close(slope, [[0, 0], [-0.5, 0.5]])


def test_the_gradient_of_cross_entropy_is_softmax_less_the_target():
    labels = np.array([0, 3, 1, 2, 2, -100])
    slope = run(lambda x, t: gradients(cross_entropy(x, t), x)[0], LOGITS, labels)
    wanted = (np.exp(log_softmax(LOGITS)) - np.eye(4)[labels % 4]) / 5
    wanted[5] = 0
    close(slope, wanted)


def test_all_targets_ignored_is_nan_as_in_torch():
    assert np.isnan(run(cross_entropy, LOGITS, np.full(6, -100)))
    assert run(lambda x, t: cross_entropy(x, t, reduction="sum"), LOGITS, np.full(6, -100)) == 0


def test_half_precision_losses_are_summed_in_float32():
    logits = np.zeros((70000, 2), "float16")
    loss = run(lambda x, t: cross_entropy(x, t), logits, np.zeros(70000, np.int64))
    assert loss.dtype == "float16"
    close(loss.astype("float32"), math.log(2), 1e-3)


def test_nll_loss_takes_log_probabilities():
    losses, shares = surprises(LOGITS, LABELS, WEIGHT)
    logp = log_softmax(LOGITS)
    close(run(lambda x, t: nll_loss(x, t, WEIGHT), logp, LABELS), losses.sum() / shares.sum())
    close(run(lambda x, t: nll_loss(x, t, WEIGHT, reduction="none"), logp, LABELS), losses)


def test_an_ignored_class_of_probability_zero_is_no_nan():
    logp = np.array([[-np.inf, 0]], "float32")
    assert run(lambda x, t: nll_loss(x, t, ignore_index=1, reduction="sum"), logp, np.array([1])) == 0


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (((6, 4), "float32"), ((5,), "int64"), ShapeError, r"needs a target \[6\], got int64\[5\]"),
        (((6, 4), "float32"), ((6, 1), "int64"), ShapeError, r"needs a target \[6\], got int64\[6, 1\]"),
        (((2, 4, 3), "float32"), ((2, 4), "int64"), ShapeError, r"classes on axis 1 and needs a target \[2, 3\]"),
        (((6, 4), "float32"), ((6,), "float32"), ShapeError, r"needs a target \[6, 4\], got float32\[6\]"),
        (((4,), "float32"), ((4,), "int64"), ShapeError, r"classes on axis 0 and needs a target \[\]"),
        (((), "float32"), ((), "int64"), ShapeError, "needs a target"),
        (((6, 4), "float32"), ((6,), "bool"), DTypeError, "integers .classes. or floats, got bool"),
        (((6, 4), "int64"), ((6,), "int64"), DTypeError, "cross_entropy: expected floats, got int64"),
    ],
)
def test_cross_entropy_explains_what_does_not_fit(logits, target, error, message):
    with pytest.raises(error, match=message):
        cross_entropy(tensor(*logits[0], dtype=logits[1]), tensor(*target[0], dtype=target[1], index=1))


def test_losses_explain_their_arguments():
    logits, labels = tensor(6, 4), tensor(6, dtype="int64", index=1)
    with pytest.raises(ShapeError, match=r"cross_entropy: the weight must be \[4\], got float32\[6\]"):
        cross_entropy(logits, labels, tensor(6, index=2))
    with pytest.raises(ArgumentError, match=r"label_smoothing is in \[0, 1\], got 2"):
        cross_entropy(logits, labels, label_smoothing=2)
    with pytest.raises(ArgumentError, match="reduction must be one of 'none', 'mean', 'sum', got 'avg'"):
        cross_entropy(logits, labels, reduction="avg")
    with pytest.raises(ArgumentError, match="mse_loss: reduction must be one of"):
        mse_loss(logits, logits, "avg")
    with pytest.raises(DTypeError, match="nll_loss: the target must hold classes, integers, got float32"):
        nll_loss(logits, tensor(6, 4, index=1))


# --- losses of numbers

INPUT, TARGET = np.array([[-2, 0.5, 3], [0, 1, -0.25]], "float32"), np.array([[0, 0.5, 1], [0, 3, 0.5]], "float32")
DIFFERENCE = INPUT - TARGET
BENT = np.where(np.abs(DIFFERENCE) < 0.8, DIFFERENCE**2 / 2, 0.8 * (np.abs(DIFFERENCE) - 0.4))


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (mse_loss, DIFFERENCE**2),
        (l1_loss, np.abs(DIFFERENCE)),
        (lambda x, y, reduction: huber_loss(x, y, reduction, delta=0.8), BENT),
        (lambda x, y, reduction: smooth_l1_loss(x, y, reduction, beta=0.8), BENT / 0.8),
        (lambda x, y, reduction: smooth_l1_loss(x, y, reduction, beta=0), np.abs(DIFFERENCE)),
    ],
    ids=["mse", "l1", "huber", "smooth_l1", "smooth_l1 without a bend"],
)
def test_losses_of_differences(loss, wanted):
    for reduction, value in {"none": wanted, "sum": wanted.sum(), "mean": wanted.mean()}.items():
        close(run(lambda x, y: loss(x, y, reduction=reduction), INPUT, TARGET), value)  # noqa: B023 - called at once


def test_a_loss_refuses_to_broadcast_a_column_against_a_row():
    with pytest.raises(ShapeError, match=r"must have one shape, got float32\[n, 1\] and float32\[n\]"):
        mse_loss(tensor("n", 1), tensor("n", index=1))
    assert mse_loss(tensor("n", 1), 0.0).shape == ()


CHANCES = np.array([[0, 0.5, 1], [0.25, 1, 0]], "float32")


def test_binary_cross_entropy_with_logits():
    p = 1 / (1 + np.exp(-INPUT))
    plain = -(CHANCES * np.log(p) + (1 - CHANCES) * np.log(1 - p))
    close(run(binary_cross_entropy_with_logits, INPUT, CHANCES), plain.mean())
    weights = np.array([1, 2, 3], "float32")
    positive = -(weights * CHANCES * np.log(p) + (1 - CHANCES) * np.log(1 - p))
    options = dict(weight=weights, pos_weight=weights, reduction="none")
    close(run(lambda x, y: binary_cross_entropy_with_logits(x, y, **options), INPUT, CHANCES), positive * weights)


def test_binary_cross_entropy_with_logits_does_not_overflow():
    x, y = np.array([1000, -1000, 0], "float32"), np.array([0, 0, 1], "float32")

    def loss_and_slope(x, y):
        loss = binary_cross_entropy_with_logits(x, y, reduction="none")
        return loss, gradients(loss, x)[0]

    losses, slopes = run(loss_and_slope, x, y)
    close(losses, [1000, 0, math.log(2)])
    close(slopes, [1, 0, -0.5])


def test_binary_cross_entropy_bounds_its_logarithms():
    p = np.array([0, 1, 0.5, 1], "float32")
    got = run(lambda p, y: binary_cross_entropy(p, y, reduction="none"), p, np.array([1, 0, 1, 1], "float32"))
    close(got, [100, 100, math.log(2), 0])


def test_the_gradient_of_binary_cross_entropy_corrects_a_wrong_certainty():
    p, y = np.array([0, 1, 0, 1, 0.25], "float32"), np.array([1, 0, 0, 1, 1], "float32")
    x = leaf(p)
    (slope,) = evaluate(gradients(binary_cross_entropy(x, y, reduction="sum"), [x]), {x: p})
    close(slope, [-1e12, 1e12, 0, 0, -4])


# --- metrics


def test_accuracy_is_the_part_of_greatest_scores_that_are_right():
    logits = np.array([[1, 2, 0], [5, 1, 1], [0, 0, 1], [2, 2, 1]], "float32")
    got = run(accuracy, logits, np.array([1, 0, 0, 0]))
    assert got.dtype == "float32"
    assert got == 0.75


def test_accuracy_goes_over_further_axes():
    logits = np.moveaxis(np.eye(3, dtype="float32")[[[0, 1], [2, 2]]], 2, 1)
    assert run(accuracy, logits, np.array([[0, 1], [2, 0]])) == 0.75


def test_top_k_accuracy_counts_the_scores_that_are_greater():
    logits = np.array([[4, 3, 2, 1], [4, 3, 2, 1], [1, 1, 1, 1], [np.nan, 3, 2, 1]], "float32")
    labels = np.array([1, 3, 3, 1])
    assert [float(run(lambda x, t, k=k: top_k_accuracy(x, t, k), logits, labels)) for k in (1, 2, 4)] == [0.25, 0.75, 1]


def test_metrics_explain_what_does_not_fit():
    with pytest.raises(DTypeError, match=r"accuracy: the labels must be integers, got float32\[6\]"):
        accuracy(tensor(6, 4), tensor(6, index=1))
    with pytest.raises(ShapeError, match=r"labels \[6\], got float32\[6, 4\] and int64\[4\]"):
        accuracy(tensor(6, 4), tensor(4, dtype="int64", index=1))
    with pytest.raises(ArgumentError, match="k must be at least 1, got 0"):
        top_k_accuracy(tensor(6, 4), tensor(6, dtype="int64", index=1), k=0)
