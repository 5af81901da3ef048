"""Layers, optimisers, initial values and loaders held against PyTorch's: the same names, numbers and batches.

Runs where torch is installed: `make test-torch`.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc

torch = pytest.importorskip("torch", reason="torch isn't installed here: `make test-torch` makes an environment")
torch.set_num_threads(1)  # everything here is tiny

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(autouse=True)
def fresh():
    """A graph, and torch's random state, of each test's own."""
    torch.manual_seed(0)
    with gc.Graph():
        yield


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(shape).standard_normal(shape).astype("float32")


def arrays_of(module: Any) -> Arrays:
    """A copy of the values in a torch module."""
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


# --- layers


class Layer(NamedTuple):
    """How the same layer is made in `gc.nn` and in `torch.nn`, and an input."""

    make: Callable[[Any], Any]
    x: np.ndarray[Any, Any]


IMAGES, ROWS, LINES, VOLUMES = drawn(2, 4, 8, 6), drawn(5, 4), drawn(3, 4, 9), drawn(2, 4, 5, 6, 4)
INDICES = np.array([[0, 2, 1], [4, 4, 3]])

LAYERS: dict[str, Layer] = {
    "Linear": Layer(lambda nn: nn.Linear(4, 3), ROWS),
    "Linear without bias": Layer(lambda nn: nn.Linear(6, 3, bias=False), IMAGES),
    "Conv1d": Layer(lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=1), LINES),
    "Conv2d": Layer(lambda nn: nn.Conv2d(4, 6, (3, 2), padding=(1, 0), dilation=2, groups=2), IMAGES),
    "Conv2d, same": Layer(lambda nn: nn.Conv2d(4, 2, 3, padding="same", bias=False), IMAGES),
    "Conv3d": Layer(lambda nn: nn.Conv3d(4, 2, 2), VOLUMES),
    "ConvTranspose1d": Layer(lambda nn: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2), LINES),
    "ConvTranspose2d": Layer(lambda nn: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), IMAGES),
    "ConvTranspose3d": Layer(lambda nn: nn.ConvTranspose3d(4, 2, 2, dilation=2, bias=False), VOLUMES),
    **{
        f"Conv2d, {mode}": Layer(lambda nn, m=mode: nn.Conv2d(4, 2, 3, padding=(2, 1), padding_mode=m), IMAGES)
        for mode in ("reflect", "replicate", "circular")
    },
    "BatchNorm1d": Layer(lambda nn: nn.BatchNorm1d(4), ROWS),
    "BatchNorm1d of lines": Layer(lambda nn: nn.BatchNorm1d(4, affine=False), LINES),
    "BatchNorm2d": Layer(lambda nn: nn.BatchNorm2d(4, eps=1e-3, momentum=0.3), IMAGES),
    "BatchNorm2d, mean of all batches": Layer(lambda nn: nn.BatchNorm2d(4, momentum=None), IMAGES),
    "BatchNorm2d without statistics": Layer(lambda nn: nn.BatchNorm2d(4, track_running_stats=False), IMAGES),
    "BatchNorm3d": Layer(lambda nn: nn.BatchNorm3d(4), VOLUMES),
    "LayerNorm": Layer(lambda nn: nn.LayerNorm((8, 6)), IMAGES),
    "LayerNorm without bias": Layer(lambda nn: nn.LayerNorm(6, bias=False), IMAGES),
    "GroupNorm": Layer(lambda nn: nn.GroupNorm(2, 4), IMAGES),
    "RMSNorm": Layer(lambda nn: nn.RMSNorm(6), IMAGES),
    "Embedding": Layer(lambda nn: nn.Embedding(5, 3, padding_idx=2), INDICES),
    "ELU": Layer(lambda nn: nn.ELU(0.5, inplace=False), ROWS),
    "GELU": Layer(lambda nn: nn.GELU("tanh"), ROWS),
    "LeakyReLU": Layer(lambda nn: nn.LeakyReLU(0.2), ROWS),
    "LogSigmoid": Layer(lambda nn: nn.LogSigmoid(), ROWS),
    "LogSoftmax": Layer(lambda nn: nn.LogSoftmax(dim=1), IMAGES),
    "ReLU": Layer(lambda nn: nn.ReLU(), ROWS),
    "SiLU": Layer(lambda nn: nn.SiLU(), ROWS),
    "Sigmoid": Layer(lambda nn: nn.Sigmoid(), ROWS),
    "Softmax": Layer(lambda nn: nn.Softmax(dim=1), IMAGES),
    "Softplus": Layer(lambda nn: nn.Softplus(2.0), ROWS),
    "Tanh": Layer(lambda nn: nn.Tanh(), ROWS),
    "Flatten": Layer(lambda nn: nn.Flatten(1, 2), IMAGES),
    "MaxPool1d": Layer(lambda nn: nn.MaxPool1d(3, ceil_mode=True), LINES),
    "MaxPool2d": Layer(lambda nn: nn.MaxPool2d(3, 2, 1), IMAGES),
    "MaxPool3d": Layer(lambda nn: nn.MaxPool3d(2), VOLUMES),
    "AvgPool1d": Layer(lambda nn: nn.AvgPool1d(2), LINES),
    "AvgPool2d": Layer(lambda nn: nn.AvgPool2d(3, padding=1, count_include_pad=False), IMAGES),
    "AvgPool3d": Layer(lambda nn: nn.AvgPool3d(2), VOLUMES),
    "AdaptiveAvgPool2d": Layer(lambda nn: nn.AdaptiveAvgPool2d((3, 3)), IMAGES),
    "Sequential": Layer(lambda nn: nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))), ROWS),
    "a list": Layer(lambda nn: nn.Sequential(*nn.ModuleList([nn.Linear(4, 4), nn.Tanh()])), ROWS),
}
EACH_LAYER = pytest.mark.parametrize("layer", [pytest.param(layer, id=name) for name, layer in LAYERS.items()])


@EACH_LAYER
def test_layers_have_torchs_names_and_shapes(layer):
    ours = {name: (v.shape, v.dtype) for name, v in layer.make(gc.nn).state_dict().items()}
    theirs = {name: (value.shape, value.dtype.name) for name, value in arrays_of(layer.make(torch.nn)).items()}
    assert list(ours.items()) == list(theirs.items())


@EACH_LAYER
@pytest.mark.parametrize("training", [False, True])
def test_layers_compute_and_differentiate_as_torchs(layer, training):
    theirs = layer.make(torch.nn).train(training)
    with torch.no_grad():
        for parameter in theirs.parameters():  # no ones and zeros
            parameter.copy_(torch.tensor(drawn(*parameter.shape)))
    ours = layer.make(gc.nn)
    ours.load_state_dict(arrays_of(theirs))
    x = gc.placeholder("x", layer.x.shape, layer.x.dtype)
    y = ours(x)
    parameters = dict(ours.named_parameters())
    asked = [*parameters.values(), *([x] if layer.x.dtype == "float32" else [])]
    weight = drawn(*y.shape)
    known_x = torch.tensor(layer.x, requires_grad=layer.x.dtype == "float32")
    known = theirs(known_x)
    if asked:
        (known * torch.tensor(weight)).sum().backward()
    with gc.Session() as session:
        slopes = gc.vjp(y, asked, weight) if asked else []
        got, *found = session.run([y, *slopes], {x: layer.x}, training=training)
        state = session.run(ours.state_dict())
    close(got, known)
    tensors = [*theirs.parameters(), *([known_x] if known_x.requires_grad else [])]
    for slope, tensor in zip(found, tensors, strict=True):
        close(slope, tensor.grad, of_the_largest=True)
    for name, value in arrays_of(theirs).items():
        close(state[name], value)


def close(got: Any, known: Any, of_the_largest: bool = False) -> None:
    known = known.detach().numpy() if isinstance(known, torch.Tensor) else known
    assert got.dtype == known.dtype
    scale = max(1, np.abs(known).max(initial=0)) if of_the_largest else 1
    np.testing.assert_allclose(got, known, rtol=1e-5, atol=1e-5 * scale)


# --- training


def network(nn: Any) -> Any:
    """A small convolutional network; no bias before the batch normalisation, where its gradient would be noise."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.Dropout(0.0),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def networks() -> tuple[Any, Any]:
    """The network in torch and here, with the same values."""
    theirs, ours = network(torch.nn), network(gc.nn)
    ours.load_state_dict(arrays_of(theirs))
    return theirs, ours


BATCHES = [(drawn(8, 1, 8, 8) + k, np.random.default_rng(k).integers(0, 5, 8)) for k in range(10)]

OPTIMISERS: dict[str, Callable[[Any, Any], Any]] = {
    "SGD": lambda optim, params: optim.SGD(params, lr=0.1),
    "SGD, momentum": lambda optim, params: optim.SGD(params, lr=0.05, momentum=0.9),
    "SGD, dampening": lambda optim, params: optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "SGD, nesterov": lambda optim, params: optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, maximize": lambda optim, params: optim.SGD(params, lr=1e-3, momentum=0.5, weight_decay=0.1, maximize=True),
    "Adam": lambda optim, params: optim.Adam(params, lr=1e-2),
    "Adam, options": lambda optim, params: optim.Adam(params, lr=1e-2, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
    "Adam, amsgrad": lambda optim, params: optim.Adam(params, lr=1e-2, amsgrad=True),
    "Adam, maximize": lambda optim, params: optim.Adam(params, lr=1e-4, maximize=True),
    "AdamW": lambda optim, params: optim.AdamW(params, lr=1e-2),
    "AdamW, options": lambda optim, params: optim.AdamW(params, lr=1e-2, weight_decay=0.3, amsgrad=True),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OPTIMISERS.items()])
def test_ten_steps_of_an_optimiser(make):
    theirs, ours = networks()
    known = torchs_losses(theirs, make(torch.optim, theirs.parameters()))
    with gc.Session() as session:
        losses = our_losses(session, ours, make(gc.optim, ours))
        state = session.run(ours.state_dict())
    np.testing.assert_allclose(losses, known, rtol=1e-5)
    for name, value in arrays_of(theirs).items():
        np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_groups_have_options_of_their_own():
    theirs, ours = networks()
    groups = ({"params": theirs[0].parameters(), "lr": 0.5}, {"params": theirs[7].parameters(), "momentum": 0.9})
    known = torchs_losses(theirs, torch.optim.SGD(groups, lr=0.01))
    own = ({"params": ours[0], "lr": 0.5}, {"params": ours[7].parameters(), "momentum": 0.9})
    with gc.Session() as session:
        losses = our_losses(session, ours, gc.optim.SGD(own, lr=0.01))
    np.testing.assert_allclose(losses, known, rtol=1e-5)


def test_a_clipped_norm():
    theirs, ours = networks()
    known = torchs_losses(
        theirs,
        torch.optim.SGD(theirs.parameters(), lr=0.5),
        lambda: torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.3),
    )
    x, y = gc.placeholder("x", shape=(8, 1, 8, 8)), gc.placeholder("y", shape=(8,), dtype="int64")
    loss = gc.losses.cross_entropy(ours(x), y)
    variables = list(ours.parameters())
    clipped, _ = gc.optim.clip_grad_norm(gc.gradients(loss, variables), 0.3)
    step = gc.optim.SGD(lr=0.5).apply(zip(clipped, variables, strict=True), losses=(loss,))
    with gc.Session() as session:
        losses = [session.run([loss, step], {x: images, y: labels})[0] for images, labels in BATCHES]
    np.testing.assert_allclose(losses, known, rtol=1e-5)


def torchs_losses(net: Any, optimiser: Any, before_step: Callable[[], Any] = lambda: None) -> list[float]:
    losses = []
    for images, labels in BATCHES:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.tensor(images)), torch.tensor(labels))
        loss.backward()
        before_step()
        optimiser.step()
        losses.append(loss.item())
    return losses


def our_losses(session: Any, net: Any, optimiser: Any) -> list[float]:
    x, y = gc.placeholder("x", shape=("batch", 1, 8, 8)), gc.placeholder("y", shape=("batch",), dtype="int64")
    loss = gc.losses.cross_entropy(net(x), y)
    train = optimiser.minimize(loss)
    return [float(session.run([loss, train], {x: images, y: labels})[0]) for images, labels in BATCHES]


# --- initial values

INITIALISERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "uniform": (gc.nn.init.uniform(-2, 3), lambda w: torch.nn.init.uniform_(w, -2, 3)),
    "normal": (gc.nn.init.normal(1, 2), lambda w: torch.nn.init.normal_(w, 1, 2)),
    "trunc_normal": (gc.nn.init.trunc_normal(0, 1.5, -2, 1), lambda w: torch.nn.init.trunc_normal_(w, 0, 1.5, -2, 1)),
    "xavier_uniform": (gc.nn.init.xavier_uniform(2.0), lambda w: torch.nn.init.xavier_uniform_(w, 2.0)),
    "xavier_normal": (gc.nn.init.xavier_normal(), torch.nn.init.xavier_normal_),
    "kaiming_uniform": (gc.nn.init.kaiming_uniform(a=1.0), lambda w: torch.nn.init.kaiming_uniform_(w, a=1.0)),
    "kaiming_normal": (
        gc.nn.init.kaiming_normal(mode="fan_out", nonlinearity="relu"),
        lambda w: torch.nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    ),
    "orthogonal": (gc.nn.init.orthogonal(3.0), lambda w: torch.nn.init.orthogonal_(w, 3.0)),
    "zeros": (gc.nn.init.zeros(), torch.nn.init.zeros_),
    "constant": (gc.nn.init.constant(0.3), lambda w: torch.nn.init.constant_(w, 0.3)),
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialisers_draw_from_torchs_distributions(name):
    initialiser, torchs = INITIALISERS[name]
    same_distribution(initialiser(0, "w", (200, 30, 3, 3), "float32"), torchs(torch.empty(200, 30, 3, 3)).numpy())


@pytest.mark.parametrize(
    "make",
    [
        lambda nn: nn.Linear(200, 300),
        lambda nn: nn.Conv2d(30, 300, 3),
        lambda nn: nn.Conv1d(64, 256, 5, groups=4),
        lambda nn: nn.ConvTranspose2d(60, 200, 3),
        lambda nn: nn.Embedding(500, 60),
        lambda nn: nn.BatchNorm1d(100),
    ],
)
def test_layers_start_from_torchs_distributions(make):
    with gc.Session() as session:
        ours = session.run(make(gc.nn).state_dict())
    for name, known in arrays_of(make(torch.nn)).items():
        same_distribution(ours[name], known)


def same_distribution(ours: Any, known: Any) -> None:
    """Mean, deviation and quantiles agree up to the error of so many draws; so do the bounds, of what has some."""
    assert ours.shape == known.shape
    tolerance = 12 * known.std() / np.sqrt(known.size) + 1e-12
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.quantile(ours, q) == pytest.approx(np.quantile(known, q), abs=tolerance)
    assert ours.mean() == pytest.approx(known.mean(), abs=tolerance)
    assert ours.std() == pytest.approx(known.std(), abs=tolerance)
    if known.size > 10_000 and np.ptp(known) < 4 * known.std():
        assert np.ptp(ours) == pytest.approx(np.ptp(known), rel=0.01)


# --- loaders


class Squares:
    """Samples that are pairs of an array and a number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return np.full((2, 3), index, "float32"), index * index


class Records(Squares):
    """Samples that are dicts of nested values."""

    def __getitem__(self, index: int) -> Any:
        return {"x": np.arange(3) + index, "name": f"sample {index}", "pair": (index, [index / 2, index % 2 == 0])}


LOADERS: dict[str, dict[str, Any]] = {
    "single samples": {"batch_size": 1},
    "a shorter last batch": {"batch_size": 4},
    "drop_last": {"batch_size": 4, "drop_last": True},
    "all at once": {"batch_size": 32},
    "none of too few": {"batch_size": 32, "drop_last": True},
    "a sampler": {"batch_size": 3, "sampler": [3, 1, 4, 1, 5, 9, 2]},
    "a sampler, drop_last": {"batch_size": 3, "sampler": range(9, -1, -1), "drop_last": True},
    "a batch_sampler": {"batch_sampler": [[0, 1, 2], [9], [3, 3]]},
    "no batches": {"batch_size": None},
    "no batches, a sampler": {"batch_size": None, "sampler": [2, 7]},
    "collate_fn": {"batch_size": 3, "collate_fn": len},
}


@pytest.mark.parametrize("dataset", [Squares(), Records()], ids=["pairs", "records"])
@pytest.mark.parametrize("options", [pytest.param(options, id=name) for name, options in LOADERS.items()])
def test_loaders_hand_out_torchs_batches(dataset, options):
    ours, theirs = gc.data.DataLoader(dataset, **options), torch.utils.data.DataLoader(dataset, **options)
    assert len(ours) == len(theirs)
    for _ in range(2):
        for batch, known in zip(ours, theirs, strict=True):
            assert plain(batch) == plain(known)


def plain(batch: Any) -> Any:
    """Arrays and tensors as their dtype and values."""
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple) or hasattr(batch, "_fields"):
        return [plain(value) for value in batch]  # torch makes lists of tuples
    if isinstance(batch, torch.Tensor):
        batch = batch.numpy()
    return (batch.dtype.name, batch.tolist()) if isinstance(batch, np.ndarray) else batch


def test_a_shuffled_epoch_has_every_sample_once_in_another_order_each_time():
    x = np.arange(20)
    for data in (gc.data, torch.utils.data):
        arrays = (x,) if data is gc.data else (torch.tensor(x),)
        loader = data.DataLoader(data.TensorDataset(*arrays), batch_size=6, shuffle=True)
        first, second = ([int(n) for (batch,) in loader for n in batch] for _ in range(2))
        assert sorted(first) == sorted(second) == x.tolist()
        assert first != second
        assert [len(batch) for (batch,) in islice(loader, 4)] == [6, 6, 6, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"sampler": [1], "shuffle": True},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_sampler": [[1]], "shuffle": True},
        {"batch_sampler": [[1]], "drop_last": True},
        {"batch_size": None, "drop_last": True},
    ],
)
def test_loaders_refuse_what_torchs_refuse(options):
    with pytest.raises(ValueError, match=r"batch_size|sampler|shuffle|drop_last"):
        torch.utils.data.DataLoader(Squares(), **options)
    with pytest.raises(gc.ArgumentError):
        gc.data.DataLoader(Squares(), **options)
