"""Data sets, batches and their order, resuming, and the real data that comes with scikit-learn."""

import io
import json
import sys
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc import philox
from graphc.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    TensorDataset,
    breast_cancer,
    bundled,
    default_collate,
    digits,
    iris,
    progress,
    say,
    wine,
)
from graphc.errors import ArgumentError, DTypeError, MissingExtra, ShapeError, StateError

BUNDLED = {  # loader, samples, shape of one, classes
    "digits": (digits, 1797, (1, 8, 8), 10),
    "iris": (iris, 150, (4,), 3),
    "wine": (wine, 178, (13,), 3),
    "breast_cancer": (breast_cancer, 569, (30,), 2),
}


class Squares:
    """A plain data set: no arrays, sample i is (i, i * i)."""

    def __init__(self, length):
        self.length = length
        self.asked = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        return index, index * index


def numbers(loader):
    """The sample numbers of one pass over a loader of `Squares` or of one array."""
    return [batch[0].tolist() for batch in loader]


def flat(batches):
    return [number for batch in batches for number in batch]


def same(a, b):
    """Equal batches: form, dtypes, shapes and values."""
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a.dtype == b.dtype and np.array_equal(a, b)


# Data sets


def test_a_tensor_dataset_is_its_arrays():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    dataset = TensorDataset(x, y)
    assert len(dataset) == 6
    assert dataset.arrays()[0] is x
    assert same(dataset[4], (x[4], y[4]))
    assert same(dataset.gather(np.array([5, 0])), (x[[5, 0]], y[[5, 0]]))


def test_a_tensor_dataset_needs_arrays_of_one_length():
    with pytest.raises(ShapeError, match=r"\(6, 2\), \(5,\)"):
        TensorDataset(np.zeros((6, 2)), np.zeros(5))
    with pytest.raises(ShapeError, match=r"\(\)"):
        TensorDataset(np.float32(1))
    with pytest.raises(ArgumentError, match="at least one"):
        TensorDataset()


# Batches


def test_batches_follow_each_other_and_the_last_may_be_short():
    loader = DataLoader(Squares(5), batch_size=2)
    assert [[b.tolist() for b in batch] for batch in loader] == [
        [[0, 1], [0, 1]],
        [[2, 3], [4, 9]],
        [[4], [16]],
    ]
    assert len(loader) == 3


@given(st.integers(0, 20), st.integers(1, 6), st.booleans(), st.booleans())
def test_the_length_is_the_number_of_batches(samples, batch_size, shuffle, drop_last):
    loader = DataLoader(Squares(samples), batch_size, shuffle, drop_last=drop_last)
    batches = numbers(loader)
    assert len(batches) == len(loader)
    assert sum(map(len, batches)) == (samples // batch_size * batch_size if drop_last else samples)


def test_arrays_are_gathered_to_the_batches_that_collating_samples_gives():
    x, y = np.arange(40, dtype="float32").reshape(10, 2, 2), np.arange(10, dtype="int32")
    fast = DataLoader(TensorDataset(x, y), 4, shuffle=True)
    slow = DataLoader(TensorDataset(x, y), 4, shuffle=True, collate_fn=default_collate)
    assert all(same(a, b) for a, b in zip(fast, slow, strict=True))


def test_gathered_batches_do_not_alias_the_data():
    x = np.arange(4.0)
    for (batch,) in DataLoader(TensorDataset(x), 2):
        batch[:] = -1
    assert x.tolist() == [0, 1, 2, 3]


def test_batch_size_none_hands_out_single_samples():
    assert list(DataLoader(Squares(3), batch_size=None)) == [(0, 0), (1, 1), (2, 4)]
    assert list(DataLoader(Squares(3), batch_size=None, collate_fn=sum)) == [0, 2, 6]
    assert len(DataLoader(Squares(3), batch_size=None)) == 3


def test_a_collate_fn_gets_the_list_of_samples():
    assert list(DataLoader(Squares(3), batch_size=2, collate_fn=list)) == [[(0, 0), (1, 1)], [(2, 4)]]


def test_samplers_choose_the_samples():
    assert numbers(DataLoader(Squares(9), 2, sampler=[8, 0, 3])) == [[8, 0], [3]]
    assert numbers(DataLoader(Squares(9), batch_sampler=[[1], [7, 8, 0]])) == [[1], [7, 8, 0]]
    assert list(BatchSampler(range(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert sorted(RandomSampler(Squares(7))) == list(range(7))


def test_data_is_loaded_when_it_is_asked_for():
    dataset = Squares(100)
    next(iter(DataLoader(dataset, 3)))
    assert dataset.asked == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (dict(batch_size=0), "positive int"),
        (dict(batch_size=2.0), "positive int"),
        (dict(seed=-1), "seed must be"),
        (dict(shuffle=True, sampler=[0]), "sampler and shuffle"),
        (dict(batch_sampler=[[0]], batch_size=2), "batch_sampler excludes"),
        (dict(batch_sampler=[[0]], drop_last=True), "batch_sampler excludes"),
        (dict(batch_size=None, drop_last=True), "drop_last needs"),
    ],
)
def test_arguments_that_do_not_fit_are_told(arguments, told):
    with pytest.raises(ArgumentError, match=told):
        DataLoader(Squares(3), **arguments)


def test_all_problems_are_told_together():
    with pytest.raises(ArgumentError) as caught:
        DataLoader(Squares(3), batch_size=-1, shuffle=True, sampler=[0], seed=-1)
    assert len(caught.value.lines) == 3


# The order


def test_each_pass_is_the_next_epoch_in_another_order():
    loader = DataLoader(Squares(50), 8, shuffle=True)
    epochs = [flat(numbers(loader)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [flat(numbers(DataLoader(Squares(50), 5, shuffle=True)))] == epochs[:1]


def test_the_order_is_fixed_by_seed_and_epoch():
    loader = DataLoader(Squares(8), 8, shuffle=True)
    assert numbers(loader) == [[1, 6, 5, 0, 3, 2, 7, 4]]
    loader.set_epoch(0)
    assert numbers(loader) == [[1, 6, 5, 0, 3, 2, 7, 4]]
    assert numbers(DataLoader(Squares(8), 8, shuffle=True, seed=1)) != [[1, 6, 5, 0, 3, 2, 7, 4]]


def test_a_pass_left_early_is_followed_by_the_next_epoch():
    left, whole = (DataLoader(Squares(20), 4, shuffle=True) for _ in range(2))
    next(iter(left))
    numbers(whole)
    assert numbers(left) == numbers(whole)


def test_two_passes_at_once_do_not_disturb_each_other():
    loader, alone = (DataLoader(Squares(20), 4, shuffle=True) for _ in range(2))
    first, second = iter(loader), iter(loader)
    pairs = [(a[0].tolist(), b[0].tolist()) for a, b in zip(first, second, strict=True)]
    assert [a for a, _ in pairs] == numbers(alone)
    assert [b for _, b in pairs] == numbers(alone)


def test_the_sampler_of_the_user_is_told_the_epoch():
    class Rotated:
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([(i + self.epoch) % 3 for i in range(3)])

    loader = DataLoader(Squares(3), 3, sampler=Rotated())
    assert [numbers(loader) for _ in range(3)] == [[[0, 1, 2]], [[1, 2, 0]], [[2, 0, 1]]]


# Resuming


@given(st.integers(0, 2), st.integers(0, 5), st.booleans())
def test_a_loaded_state_goes_on_where_it_was_taken(epochs, batches, shuffle):
    def make():
        return DataLoader(Squares(18), 4, shuffle=shuffle, seed=5)

    loader = make()
    for _ in range(epochs):
        numbers(loader)
    running = iter(loader)
    for _ in range(batches):
        next(running)
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert [b[0].tolist() for b in running] == numbers(resumed)
    assert numbers(loader) == numbers(resumed)


def test_resuming_loads_nothing_twice():
    dataset = Squares(10)
    loader = DataLoader(dataset, 2)
    loader.load_state_dict(DataLoader(Squares(10), 2).state_dict() | {"batch": 3})
    assert numbers(loader) == [[6, 7], [8, 9]]
    assert dataset.asked == [6, 7, 8, 9]


def test_after_a_whole_pass_the_state_is_the_start_of_the_next():
    loader = DataLoader(Squares(4), 2)
    numbers(loader)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)


def test_a_batch_that_failed_is_not_counted():
    loader = DataLoader(Failing(), 2)
    with pytest.raises(KeyError):
        list(loader)
    assert loader.state_dict()["batch"] == 1


def test_the_state_of_another_loader_is_refused_with_every_difference():
    state = DataLoader(Squares(4), 2, seed=1).state_dict()
    del state["epoch"]
    with pytest.raises(StateError) as caught:
        DataLoader(Squares(5), 2).load_state_dict(state)
    assert [line.split(":")[0] for line in caught.value.lines] == ["epoch", "samples", "seed"]


# Errors in the user's code


class Failing(Squares):
    """A data set with one sample that can't be loaded."""

    def __init__(self):
        super().__init__(6)

    def __getitem__(self, index):
        if index == 3:
            raise KeyError("no such file")
        return super().__getitem__(index)


def test_errors_of_the_data_set_surface_as_themselves_with_the_sample():
    with pytest.raises(KeyError, match="no such file") as caught:
        list(DataLoader(Failing(), 2))
    assert caught.value.__notes__ == ["while loading from Failing: sample 3"]


def test_errors_of_the_collate_fn_name_the_batch():
    with pytest.raises(ZeroDivisionError) as caught:
        list(DataLoader(Squares(20), 10, collate_fn=lambda samples: 1 / 0))
    assert caught.value.__notes__ == ["while collating: samples 0, 1, 2, 3, 4, 5, 6, 7, ..."]


def test_a_sampler_that_asks_for_too_much_is_named():
    with pytest.raises(IndexError) as caught:
        list(DataLoader(TensorDataset(np.zeros(3)), 2, sampler=[0, 7]))
    assert caught.value.__notes__ == ["while gathering: samples 0, 7"]


# Collating

Pair = namedtuple("Pair", "image label")


@pytest.mark.parametrize(
    ("samples", "batch"),
    [
        ([1, 2], np.array([1, 2])),
        ([1.5, 2.0], np.array([1.5, 2.0])),
        ([True, False], np.array([True, False])),
        ([np.float32(1), np.float32(2)], np.array([1, 2], "float32")),
        ([np.zeros((2, 3), "int8")] * 4, np.zeros((4, 2, 3), "int8")),
        ([(1, 2.0), (3, 4.0)], (np.array([1, 3]), np.array([2.0, 4.0]))),
        ([[1, 2], [3, 4]], [np.array([1, 3]), np.array([2, 4])]),
        ([Pair(1, 2), Pair(3, 4)], Pair(np.array([1, 3]), np.array([2, 4]))),
        ([(1, (2, 3))], (np.array([1]), (np.array([2]), np.array([3])))),
    ],
)
def test_batches_keep_the_form_of_their_samples(samples, batch):
    assert same(default_collate(samples), batch)


def test_dicts_and_strings_are_collated():
    batch = default_collate([{"x": 1, "name": "a"}, {"name": "b", "x": 2}])
    assert batch["name"] == ["a", "b"]
    assert same(batch["x"], np.array([1, 2]))


@pytest.mark.parametrize(
    ("samples", "error", "told"),
    [
        ([np.zeros(2), np.zeros(3)], ShapeError, r"\(2,\) and \(3,\)"),
        ([(1, 2), (1,)], ShapeError, "2 and 1"),
        ([{"a": 1}, {"b": 1}], ShapeError, "same keys"),
        ([None, None], DTypeError, "NoneType"),
    ],
)
def test_samples_that_make_no_batch_are_told_with_the_remedy(samples, error, told):
    with pytest.raises(error, match=told) as caught:
        default_collate(samples)
    assert "collate_fn" in str(caught.value)


# The data of scikit-learn


@pytest.mark.parametrize("name", BUNDLED)
def test_splits_are_disjoint_cover_everything_and_keep_the_classes_shares(name):
    load, samples, shape, classes = BUNDLED[name]
    parts = {split: load(split, normalize=False).arrays() for split in ("train", "test", "all")}
    for x, y in parts.values():
        assert (x.dtype, x.shape[1:], y.dtype) == (np.float32, shape, np.int64)
    counts = {split: np.bincount(y, minlength=classes) for split, (_, y) in parts.items()}
    assert len(parts["all"][0]) == samples
    assert np.array_equal(counts["train"] + counts["test"], counts["all"])
    assert np.array_equal(counts["test"], counts["all"] // 5)

    rows = {split: sorted(row.tobytes() for row in x) for split, (x, _) in parts.items()}
    assert sorted(rows["train"] + rows["test"]) == rows["all"]
    test = bundled._held_out(parts["all"][1], philox.stream_key(f"graphc.data.split/{name}"))
    assert np.array_equal(parts["all"][0][test], parts["test"][0])
    assert np.array_equal(parts["all"][1][~test], parts["train"][1])


def test_the_splits_never_change():
    labels = digits("test").arrays()[1]
    assert len(labels) == 355
    assert labels[:10].tolist() == [5, 9, 7, 7, 8, 9, 8, 4, 1, 3]


def test_digits_are_images_from_zero_to_one():
    images, labels = digits("all").arrays()
    assert (images.min(), images.max()) == (0, 1)
    assert sorted(set(labels.tolist())) == list(range(10))
    assert np.array_equal(images * 16, digits("all", normalize=False).arrays()[0])


@pytest.mark.parametrize("load", [iris, wine, breast_cancer])
def test_features_are_standardised_by_the_training_part(load):
    train, test = (load(split).arrays()[0] for split in ("train", "test"))
    assert np.allclose(train.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(train.std(axis=0), 1, atol=1e-5)
    assert not np.allclose(test.mean(axis=0), 0, atol=1e-3)


def test_what_a_user_does_to_the_arrays_stays_with_that_user():
    digits("test").arrays()[0][:] = 7
    digits("all", normalize=False).arrays()[1][:] = 7
    assert digits("test").arrays()[0].max() == 1
    assert digits("all").arrays()[1].max() == 9


def test_an_unknown_split_is_told():
    with pytest.raises(ArgumentError, match="'train', 'test', 'all', got 'valid'"):
        digits("valid")


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    bundled._raw.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install 'graphc\[data\]'"):
        digits()


# Progress


class Terminal(io.StringIO):
    """What a terminal says of itself, without one."""

    def isatty(self):
        return True


def test_progress_is_shown_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress([1, 2, 3], "epoch 4")) == [1, 2, 3]
    assert "epoch 4" in sys.stderr.getvalue()


def test_progress_is_silent_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(progress([1, 2, 3], "epoch 4")) == [1, 2, 3]
    assert sys.stderr.getvalue() == ""


def test_progress_without_tqdm_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress([1, 2, 3], "epoch 4")) == [1, 2, 3]
    assert sys.stderr.getvalue() == ""


def test_say_prints_a_line(capsys):
    say("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"
