"""Saving and loading: exact, atomic, and clear about everything that doesn't fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from error_testing import check_form
from safetensors.numpy import load_file, save_file

import graphc as gc
from graphc.types import DTYPES, np_dtype


@pytest.fixture
def graph():
    with gc.Graph() as graph:
        yield graph


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def variable(value, name, dtype="float32"):
    """A variable; a graph holds it only as long as the caller does."""
    return gc.Variable(np.asarray(value).astype(np_dtype(dtype)), name=name)


def refused(call, *says):
    """The message of a call that must raise a StateError."""
    with pytest.raises(gc.StateError) as caught:
        call()
    text = str(caught.value)
    check_form(text)
    assert "test_checkpoint.py:" in text
    assert [word for word in says if word not in text] == [], text
    return text


# --- what comes back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3), (1, 1, 2, 2)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(graph, path, dtype, shape):
    bits = np.random.default_rng(0).integers(0, 2, (*shape, np_dtype(dtype).itemsize), dtype="uint8")
    value = bits.view(np_dtype(dtype)).reshape(shape)
    w = gc.Variable(value, name="w")
    with gc.Session() as first:
        first.save(path)
    with gc.Session() as second:
        second[w] = np.zeros_like(value)
        assert second.load(path).loaded == ("w",)
        found = second[w]
    assert found.dtype == value.dtype and found.shape == value.shape
    assert found.tobytes() == value.tobytes()


def test_special_values_come_back(graph, path):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308])
    w = gc.Variable(values, name="w")
    with gc.Session() as session:
        session.save(path)
        session[w] = np.zeros(6)
        session.load(path)
        assert session[w].tobytes() == values.tobytes()


def test_names_are_written_with_dots_and_any_printable_name_comes_back(graph, path):
    names = ["encoder/conv1/weight", "with space", "ünïcödé 🐍", "per%cent", "back\\slash", 'qu"ote', "trailing.", "-"]
    variables = {name: variable(k, name) for k, name in enumerate(names)}
    with gc.Session() as session:
        session.save(path)
        session.run([v.assign(99.0) for v in variables.values()])
        assert set(session.load(path).loaded) == {name.replace("/", ".") for name in names}
        assert [float(session[v]) for v in variables.values()] == list(range(len(names)))
    assert "encoder.conv1.weight" in load_file(path)


def test_values_in_a_file_are_those_of_the_last_run_and_not_shared(graph, path):
    w = variable([1, 2], "w")
    with gc.Session() as session:
        session.run(w.assign(w * 10))
        session.save(path)
        session.load(path)
        session.run(w.assign(w * 10))
        assert session[w].tolist() == [100, 200]
    assert load_file(path)["w"].tolist() == [10, 20]


def test_a_variable_that_was_never_used_is_saved_with_its_first_value(graph, path):
    w = gc.Variable(gc.nn.init.normal(), shape=(4,), name="w")
    with gc.Session(seed=3) as session:
        session.save(path)
    with gc.Session(seed=3) as other:
        assert (load_file(path)["w"] == other.run(w)).all()


def test_bfloat16_can_be_read_by_others(graph, path):
    w = variable([1.5, -2.0, 3.0], "w", "bfloat16")
    with gc.Session() as session:
        session.save(path)
    assert load_file(path)[w.name].astype("float32").tolist() == [1.5, -2.0, 3.0]
    assert load_file(path)["w"].dtype == ml_dtypes.bfloat16


def test_an_empty_graph_can_be_saved_and_loaded(graph, path):
    with gc.Session(graph) as session:
        session.save(path)
        assert session.load(path) == session.load(path, strict=False)


# --- the state of training


def test_training_resumed_from_a_file_equals_training_that_was_never_interrupted(graph, path):
    x = gc.placeholder("x", shape=("batch", 3))
    layer = gc.nn.Linear(3, 1)
    loss = gc.dropout(layer(x), 0.5).mean() + gc.random.normal((), name="noise") * layer.weight.sum()
    train = gc.optim.Adam(lr=0.1).minimize(loss)
    data = np.arange(12, dtype="float32").reshape(4, 3)

    def steps(session, count):
        return [float(session.run([loss, train], {x: data})[0]) for _ in range(count)]

    with gc.Session(seed=7) as whole:
        expected = steps(whole, 8)
    with gc.Session(seed=7) as first:
        begun = steps(first, 5)
        first.save(path)
    with gc.Session(seed=1) as second:
        second.load(path)
        assert second.seed == 7
        assert begun + steps(second, 3) == expected


def test_the_slots_of_an_optimiser_are_optional(graph, path):
    w = variable([1.0, 2.0], "w")
    with gc.Session() as session:
        session.save(path)
    adam = gc.optim.Adam(lr=0.1).minimize((w * w).sum())
    with gc.Session() as session:
        assert session.load(path).missing == ()
        session.run(adam)
        session.save(path)
        trained = session[w]
    assert any(name.startswith("optim.") for name in load_file(path))
    with gc.Graph():
        same = variable([0.0, 0.0], "w")
        with gc.Session() as session:
            assert session.load(path).unexpected == ()
            assert (session[same] == trained).all()


def test_a_file_of_others_has_no_random_state(graph, path):
    draw = gc.random.uniform((3,))
    w = variable([0.0], "w")
    save_file({"w": np.ones(1, "float32")}, path)
    with gc.Session(seed=5) as session:
        first = session.run(draw)
        session.load(path)
        assert session.seed == 5 and session[w] == [1.0]
        assert (session.run(draw) != first).all()


# --- what doesn't fit


def mismatched(path):
    """Variables by name, and a file that fits but one of them."""
    declared = {"encoder/wieght": ((2, 3), "float32"), "encoder/bias": ((3,), "float32"), "head": ((2,), "float64")}
    stored = {"encoder.weight": np.ones((2, 3)), "encoder.bias": np.ones(4), "head": np.ones(2), "extra": np.ones(1)}
    save_file({name: value.astype("float32") for name, value in {**stored, "fits": np.ones(1)}.items()}, path)
    declared["fits"] = ((1,), "float32")
    return {name: variable(np.zeros(shape), name, dtype) for name, (shape, dtype) in declared.items()}


def test_everything_that_differs_is_told_at_once_with_near_names(graph, path):
    variables = mismatched(path)
    with gc.Session(graph) as session:
        text = refused(lambda: session.load(path), "1 missing, 2 unexpected, 2 mismatched")
    assert len(variables) == 4
    assert [line.strip() for line in text.splitlines()[1:6]] == [
        "missing: encoder.wieght; did you mean 'encoder.weight'?",
        "unexpected: encoder.weight; did you mean 'encoder.wieght'?",
        "unexpected: extra",
        "mismatch: encoder.bias is float32[3], the value is float32[4]",
        "mismatch: head is float64[2], the value is float32[2]",
    ]
    assert "strict=False" in text


def test_a_session_is_unchanged_by_a_load_that_failed(graph, path):
    w, draw = mismatched(path)["fits"], gc.random.uniform((), name="draw")
    with gc.Session(graph, seed=2) as session, gc.Session(graph, seed=2) as other:
        session[w] = [5.0]
        first = [session.run(draw), other.run(draw)]
        refused(lambda: session.load(path))
        refused(lambda: session.load(path.parent / "none"))
        assert session[w] == [5.0] and session.seed == 2
        assert first[0] == first[1] and session.run(draw) == other.run(draw)


def test_without_strict_what_fits_is_taken_and_the_rest_reported(graph, path):
    variables = mismatched(path)
    with gc.Session(graph) as session:
        report = session.load(path, strict=False)
        assert report.loaded == ("fits",)
        assert report.missing == ("encoder.wieght",)
        assert report.unexpected == ("encoder.weight", "extra")
        assert len(report.mismatched) == 2
        assert session[variables["fits"]] == [1.0] and not session[variables["encoder/bias"]].any()


def test_a_long_report_is_cut_with_a_count(graph, path):
    variables = [variable(0.0, f"layer{k}/weight") for k in range(30)]
    save_file({"other": np.ones(1)}, path)
    with gc.Session(graph) as session:
        text = refused(lambda: session.load(path), "30 missing, 1 unexpected, 0 mismatched")
        assert len(session.load(path, strict=False).missing) == len(variables)
    told = sum(line.startswith("  missing: ") for line in text.splitlines())
    assert f"... and {31 - told} more" in text


def test_variables_that_would_have_one_name_in_a_file_are_refused(graph, path):
    kept = [variable(1.0, "a/b"), variable(2.0, "a.b")]
    with gc.Session(graph) as session:
        refused(lambda: session.save(path), "'a/b' and 'a.b'", "a/b was made at", "name one of them otherwise")
        refused(lambda: session.load(path), "'a/b' and 'a.b'")
    assert not path.exists() and len(kept) == 2


def test_the_name_that_the_format_keeps_for_itself_is_refused(graph, path):
    kept = variable(1.0, "__metadata__")
    with gc.Session(graph) as session:
        refused(lambda: session.save(path), f"{kept.name!r} can't be in a file")
    assert not path.exists()


# --- files that are none


def corrupt(valid: bytes) -> dict[str, bytes]:
    """Files that are no checkpoints."""
    return {
        "empty": b"",
        "short": valid[:50],
        "truncated": valid[:-5],
        "longer": valid + b"rest",
        "text": b"hello world " * 20,
        "endless header": (1 << 62).to_bytes(8, "little") + b"{}",
        "pickle": pickle.dumps({"w": [1.0]}),
        "zip": b"PK\x03\x04" + bytes(200),
        "flipped header": valid[:20] + bytes([valid[20] ^ 0xFF]) + valid[21:],
    }


@pytest.mark.parametrize("kind", corrupt(bytes(100)))
def test_a_file_that_is_no_checkpoint_is_refused(graph, path, kind):
    w = variable([1.0, 2.0], "w")
    with gc.Session() as session:
        session.save(path)
        path.write_bytes(corrupt(path.read_bytes())[kind])
        text = refused(lambda: session.load(path), "model.safetensors", "is not a valid safetensors file")
        assert session[w].tolist() == [1, 2]
    assert ("torch.save" in text) == (kind == "zip")


RANDOM_STATES = [
    {},
    {"seed": "1"},
    {"seed": "x", "counters": "{}"},
    {"seed": "-1", "counters": "{}"},
    {"seed": "1", "counters": "[1]"},
    {"seed": "1", "counters": '{"a": "b"}'},
    {"seed": "1", "counters": '{"a": -1}'},
    {"seed": "1", "counters": '{"a": 18446744073709551616}'},
    {"seed": "1", "counters": "{"},
]


@pytest.mark.parametrize("state", RANDOM_STATES)
def test_a_file_whose_random_state_is_unreadable_is_refused(graph, path, state):
    w = variable([0.0], "w")
    save_file({"w": np.ones(1, "float32")}, path, metadata={"format": "graphc-1", **state})
    with gc.Session(graph) as session:
        refused(lambda: session.load(path, strict=False), "no valid random state")
        assert session[w] == [0.0]


def test_places_that_are_no_file_are_refused(graph, path):
    kept = variable([1.0], "w")
    with gc.Session(graph) as session:
        refused(lambda: session.load(path), "can't read", "No such file")
        session.save(path)
        refused(lambda: session.load(path.with_suffix(".safetensor")), "did you mean 'model.safetensors'?")
        refused(lambda: session.load(path.parent), "can't read", "directory")
        refused(lambda: session.save(path.parent), "can't write", "directory")
        refused(lambda: session.save(path.parent / "none" / "model"), "can't write", "No such file")
        refused(lambda: session.save(path / "model"), "can't write", "Not a directory")
        for wrong in (None, 3):
            with pytest.raises(gc.ArgumentError, match=r"a path is a string or a pathlib\.Path"):
                session.save(wrong)
    assert kept.name == "w" and os.listdir(path.parent) == ["model.safetensors"]


# --- a crash while writing


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(graph, path, monkeypatch, step, error):
    w = variable([1.0], "w")

    def crash(*args, **kwargs):
        raise error

    with gc.Session() as session:
        session.save(path)
        before = path.read_bytes()
        session.run(w.assign(w + 1))
        monkeypatch.setattr(os, step, crash)
        with pytest.raises((gc.StateError, KeyboardInterrupt)) as caught:
            session.save(path)
        monkeypatch.undo()
        assert isinstance(error, KeyboardInterrupt) or "No space left on device" in str(caught.value)
        assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
        session.save(path)
    assert load_file(path)["w"] == [2.0]


def test_a_file_is_written_with_the_usual_permissions(graph, path):
    with gc.Session(graph) as session:
        session.save(path)
    usual = path.with_name("usual")
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


def test_paths_of_every_kind_are_taken(graph, tmp_path, monkeypatch):
    w = variable([1.0], "w")
    monkeypatch.chdir(tmp_path)
    with gc.Session() as session:
        for place in ("relative", str(tmp_path / "text"), tmp_path / "path", os.fsencode(tmp_path / "bytes")):
            session[w] = [3.0]
            session.save(place)
            session[w] = [0.0]
            session.load(place)
            assert session[w] == [3.0]
    assert {p.name for p in Path(tmp_path).iterdir()} == {"relative", "text", "path", "bytes"}
