"""`gc.export_onnx`: files, modes, inputs, verification, reports."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import graphc as gc
from graphc.dims import Guard, symbol
from graphc.exporters.onnx.line import direct
from graphc.exporters.onnx.table import TABLE
from graphc.exporters.onnx.verify import SIZES, deviation_of, possible_sizes, within
from graphc.ops.math import tanh
from graphc.types import TensorType


@pytest.fixture(autouse=True)
def graph() -> Iterator[gc.Graph]:
    with gc.Graph() as fresh:
        yield fresh


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def outputs_of(path: Path, **feeds: Any) -> list[Any]:
    """What the file computes, by the reference evaluator."""
    return list(ReferenceEvaluator(onnx.load(path)).run(None, feeds))


def classifier(x: Any) -> Any:
    model = gc.nn.Sequential(
        gc.nn.Conv2d(1, 4, 3, padding=1),
        gc.nn.BatchNorm2d(4),
        gc.nn.ReLU(),
        gc.nn.MaxPool2d(2),
        gc.nn.Flatten(),
        gc.nn.Dropout(0.5),
        gc.nn.Linear(4 * 4 * 4, 10),
    )
    return model(x)


# --- files


def test_a_trained_model_is_exported_with_the_sessions_values(path: Path) -> None:
    x, w = gc.placeholder("x", ("batch", 3)), gc.Variable(np.ones((3, 2), np.float32), "w")
    with gc.Session() as sess:
        sess[w] = np.full((3, 2), 2, np.float32)
        result = gc.export_onnx(path, inputs=[x], outputs={"y": x @ w}, session=sess, verify=True)
    assert outputs_of(path, x=np.ones((5, 3), np.float32))[0].tolist() == [[6, 6]] * 5
    assert (result.opset, result.ir_version, result.warnings) == (20, 10, ())
    assert (result.path, result.size) == (path, path.stat().st_size)
    assert result.outputs == {"y": "float32[batch, 2]"}


def test_without_a_session_the_initial_values_are_told(path: Path) -> None:
    x, w = gc.placeholder("x", (2, 3)), gc.Variable(np.ones((3, 2), np.float32), "w")
    with pytest.warns(UserWarning, match="initial values") as told:
        gc.export_onnx(path, outputs=x @ w)
    assert told[0].filename == __file__
    assert outputs_of(path, x=np.ones((2, 3), np.float32))[0].tolist() == [[3, 3]] * 2


def test_without_variables_no_session_is_missed(path: Path) -> None:
    x = gc.placeholder("x", (3,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.export_onnx(path, outputs=[gc.tanh(x)])


def test_a_refused_export_leaves_the_previous_file(path: Path) -> None:
    path.write_bytes(b"previous")
    x = gc.placeholder("x", (1, 1, 4, 4), "int64")
    with pytest.raises(gc.ExportError, match="doesn't take int64"):
        gc.export_onnx(path, outputs=gc.max_pool2d(x, 2))
    assert path.read_bytes() == b"previous"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    x = gc.placeholder("x", (3,))
    with pytest.raises(gc.ExportError, match="can't write"):
        gc.export_onnx(tmp_path / "missing" / "model.onnx", outputs=gc.tanh(x))


def test_a_model_that_no_file_holds_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.exporters.onnx.export.LARGEST", 100)
    x, w = gc.placeholder("x", (2, 30)), gc.Variable(floats(30, 2), "w")
    with gc.Session() as sess, pytest.raises(gc.ExportError, match="an ONNX file holds less than 2"):
        gc.export_onnx(path, outputs=x @ w, session=sess)


# --- inputs and outputs


def test_inputs_are_named_by_the_user_or_after_their_placeholders(path: Path) -> None:
    x, y = gc.placeholder("x", (3,)), gc.placeholder("y", (3,))
    assert list(gc.export_onnx(path, [x, y], x + y).inputs) == ["x", "y"]
    renamed = gc.export_onnx(path, {"left": x, "right": y}, {"total": x + y})
    assert (list(renamed.inputs), list(renamed.outputs)) == (["left", "right"], ["total"])
    assert list(gc.export_onnx(path, outputs=[y - x]).inputs) == ["x", "y"]


def test_any_tensor_can_be_an_input(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 3))
    hidden = gc.tanh(x)
    gc.export_onnx(path, {"hidden": hidden}, {"y": hidden * 2}, verify=True)
    assert outputs_of(path, hidden=np.ones((2, 3), np.float32))[0].tolist() == [[2, 2, 2]] * 2


def test_a_variable_can_be_an_input(path: Path) -> None:
    x, w = gc.placeholder("x", (3,)), gc.Variable(floats(3), "w")
    gc.export_onnx(path, [x, w], {"y": x * w}, verify=True)
    assert outputs_of(path, x=np.full(3, 2, np.float32), w=np.ones(3, np.float32))[0].tolist() == [2, 2, 2]


def test_a_placeholder_that_is_no_input_is_its_default_or_missing(path: Path) -> None:
    x, scale = gc.placeholder("x", (3,)), gc.placeholder("scale", default=2.0)
    result = gc.export_onnx(path, outputs={"y": x * scale}, verify=True)
    assert list(result.inputs) == ["x"]
    y, z = gc.placeholder("y", (3,)), gc.placeholder("z", (3,))
    with pytest.raises(gc.ExportError) as error:
        gc.export_onnx(path, [x], x + y + z)
    assert error.value.message == "the outputs need placeholders that are no input"
    assert [line.split(",")[0] for line in error.value.lines] == ["'y'", "'z'"]
    assert error.value.hint == "inputs=[..., y, z]"


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (None, None, "nothing to export"),
        (None, [], "nothing to export"),
        ([1.0], "y", "an input must be a tensor, got"),
        (["x", "x"], "y", "one twice"),
        (["x"], {"": "y"}, "an output can't be called ''"),
        (["x"], {"a\nb": "y"}, "an output can't be called"),
        (["x"], {"x": "y"}, "can't both be called 'x'"),
        (["x"], [2.5], "an output must be a tensor"),
    ],
)
def test_what_cannot_be_an_input_or_output_is_told(path: Path, inputs: Any, outputs: Any, message: str) -> None:
    x = gc.placeholder("x", (3,))
    known = {"x": x, "y": gc.tanh(x)}

    def resolved(values: Any) -> Any:
        if isinstance(values, dict):
            return {name: known.get(value, value) for name, value in values.items()}
        return [known.get(v, v) for v in values] if isinstance(values, list) else known.get(values)

    with pytest.raises(gc.ArgumentError, match=message):
        gc.export_onnx(path, resolved(inputs), resolved(outputs))
    assert not path.exists()


# --- modes


def test_a_network_is_exported_as_it_is_evaluated(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 1, 8, 8))
    logits = classifier(x)
    with gc.Session() as sess:
        result = gc.export_onnx(path, [x], {"logits": logits}, session=sess, verify=True)
    assert result.operators == {"BatchNormalization": 1, "Conv": 1, "Gemm": 1, "MaxPool": 1, "Relu": 1, "Reshape": 1}
    assert result.verification is not None
    assert {d.sizes["batch"] for d in result.verification.deviations} == {1, 7, 4}


def test_training_mode_is_exported_with_a_warning_and_returns_the_statistics(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 1, 8, 8))
    logits = classifier(x)
    with gc.Session() as sess, pytest.warns(UserWarning, match=r"training mode|random numbers"):
        result = gc.export_onnx(path, [x], {"logits": logits}, session=sess, training=True)
    assert "RandomUniformLike" in result.operators
    assert {"1.running_mean.updated", "1.running_var.updated"} < set(result.outputs)
    assert result.warnings[0] == "the model is in training mode"


def test_a_training_step_is_exported_and_verified(path: Path) -> None:
    x, y = gc.placeholder("x", ("batch", 3)), gc.placeholder("y", ("batch", 1))
    loss = gc.losses.mse_loss(gc.nn.Linear(3, 1)(x), y)
    train = gc.optim.SGD(lr=0.1).minimize(loss)
    feeds = {x: floats(5, 3), y: floats(5, 1)}
    with gc.Session() as sess:
        with pytest.warns(UserWarning, match="training mode"):
            gc.export_onnx(path, [x, y], {"loss": loss, "step": train}, session=sess, verify=True)
        model = onnx.load(path)
        names = [output.name for output in model.graph.output]
        found = dict(zip(names, outputs_of(path, x=feeds[x], y=feeds[y]), strict=True))
        sess.run(train, feeds)
        for variable in x.graph.variables():
            name = f"{variable.name.replace('/', '.')}.updated"
            if name in found:
                assert np.allclose(found[name], sess[variable], atol=1e-6)
    assert len(names) >= 3


def test_gradients_of_a_network_are_exported_as_plain_operators(path: Path) -> None:
    x, y = gc.placeholder("x", ("batch", 1, 8, 8)), gc.placeholder("y", ("batch",), "int64")
    loss = gc.losses.cross_entropy(classifier(x), y)
    parameters = [v for v in x.graph.variables() if v.trainable]
    with gc.Session() as sess:
        slopes = gc.gradients(loss, [x, *parameters])
        result = gc.export_onnx(path, [x, y], slopes, session=sess, verify=True)
    assert {"Conv", "ConvTranspose", "ScatterElements"} <= set(result.operators)


def test_random_draws_are_told_and_cannot_be_verified(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 3))
    noisy = x + gc.random.normal(x.shape)
    with pytest.warns(UserWarning, match="draws other random numbers"):
        gc.export_onnx(path, outputs=noisy)
    path.unlink()
    with pytest.raises(gc.ExportError, match="can't be verified"):
        gc.export_onnx(path, outputs=noisy, verify=True)
    assert not path.exists()


# --- verification


def test_an_output_that_differs_is_traced_to_the_first_value_that_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLE, tanh, direct("Sin"))
    x = gc.placeholder("x", ("batch", 3))
    hidden = gc.exp(x)
    wrong = gc.tanh(hidden)
    with pytest.raises(gc.ExportError) as error:
        gc.export_onnx(path, [x], {"y": wrong * 2 + 1}, verify=True)
    assert "computes another 'y' than graphc for batch = 1" in error.value.message
    (line,) = error.value.lines
    assert line.startswith("the first value that differs is 'tanh', of tanh: test_onnx_export.py:")
    assert line.endswith("wrong = gc.tanh(hidden)")
    assert not path.exists()


def test_verification_falls_back_to_the_reference_evaluator(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    x = gc.placeholder("x", ("batch", 3))
    result = gc.export_onnx(path, outputs=gc.tanh(x), verify=True)
    assert result.verification is not None
    assert result.verification.runner.startswith("the reference evaluator of onnx")
    assert result.verification.refusal == ""


@pytest.mark.parametrize("opset", [19, 20])
@pytest.mark.parametrize("function", [gc.erf, gc.gelu])
def test_the_error_function_is_verified_in_double_precision(path: Path, function: Any, opset: int) -> None:
    x = gc.placeholder("x", ("batch", 3), "float64")
    result = gc.export_onnx(path, outputs=function(x * 3), opset=opset, verify=True)
    assert result.verification is not None
    assert max(deviation.relative for deviation in result.verification.deviations) < 1e-14


def test_why_onnx_runtime_did_not_run_a_model_is_told(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 1, 4, 4), "float64")
    w = gc.constant(np.ones((1, 1, 2, 2)))
    result = gc.export_onnx(path, outputs=gc.conv2d(x, w), verify=True)
    assert result.verification is not None
    assert "Conv" in result.verification.refusal


def test_sizes_are_those_that_the_graph_takes(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 3, "h", "w"))
    y = gc.max_pool2d(gc.conv2d(x, gc.constant(floats(2, 3, 5, 5))), 2)
    result = gc.export_onnx(path, outputs={"y": y}, verify=True)
    assert result.verification is not None
    sizes = [dict(d.sizes) for d in result.verification.deviations]
    assert len(sizes) == 3
    assert sizes[0]["batch"] == 1
    assert sizes[0]["h"] == 6
    assert all(s["h"] >= 6 and s["w"] >= 6 for s in sizes)


def test_sizes_that_no_list_has_leave_a_trial_out() -> None:
    types = {"x": TensorType("float32", (symbol("n"), symbol("m")))}
    at_least = Guard(symbol("n"), ">=", 200, "it is an example")
    assert possible_sizes(types, SIZES[0], [at_least]) == {"n": 256, "m": 1}
    assert possible_sizes(types, SIZES[2], [Guard(symbol("n"), "==", 5, "it is an example")]) is None


def test_indices_stay_in_range(path: Path) -> None:
    table = gc.constant(floats(4, 3))
    i = gc.placeholder("i", ("n",), "int64")
    result = gc.export_onnx(path, outputs={"rows": gc.embedding(i, table)}, verify=True)
    assert result.verification is not None
    assert all(d.absolute == 0 for d in result.verification.deviations)


def test_inputs_of_the_users_own_are_verified_with(path: Path) -> None:
    x, y = gc.placeholder("x", ("batch",)), gc.placeholder("y", ("batch",))
    feeds = [{x: [1.0, 2.0], "y": [3, 4]}, {"x": np.ones(3), y: np.ones(3)}]
    result = gc.export_onnx(path, [x, y], {"z": x * y}, verify=feeds)
    assert result.verification is not None
    assert [dict(d.sizes) for d in result.verification.deviations] == [{"batch": 2}, {"batch": 3}]
    with pytest.raises(gc.ArgumentError, match="must give 'x', 'y'"):
        gc.export_onnx(path, [x, y], {"z": x * y}, verify=[{x: [1.0]}])


def test_verification_leaves_the_session_as_it_was(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 3))
    count = gc.Variable(np.zeros((), np.float32), "count")
    bump = count.assign_add(x.sum())
    with gc.Session() as sess:
        gc.export_onnx(path, [x], {"y": x * 2, "bump": bump}, session=sess, verify=True)
        assert sess[count] == 0


@pytest.mark.parametrize(
    ("theirs", "ours", "agree"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0001], [1.0, 2.0], True),
        ([1.0, 2.001], [1.0, 2.0], False),
        ([np.nan, np.inf], [np.nan, np.inf], True),
        ([np.nan, 1.0], [1.0, 1.0], False),
        ([-np.inf], [np.inf], False),
        ([1e-9], [0.0], True),
        ([1.0], [[1.0]], False),
    ],
)
def test_what_counts_as_agreement(theirs: Any, ours: Any, agree: bool) -> None:
    found = deviation_of("y", {}, np.array(theirs, np.float32), np.array(ours, np.float32))
    assert within(found, "float32") is agree


def test_integers_must_be_equal() -> None:
    large = np.array([2**62 + 1])
    assert within(deviation_of("y", {}, large, large), "int64")
    assert not within(deviation_of("y", {}, large - 1, large), "int64")
    assert not within(deviation_of("y", {}, large.astype(np.int32), large), "int64")


# --- reports


def test_a_report_is_written_for_people_and_programs(path: Path) -> None:
    x = gc.placeholder("x", ("batch", 3))
    report = path.with_suffix(".md")
    result = gc.export_onnx(path, [x], {"a|b": gc.tanh(x)}, verify=True, report=report)
    text = report.read_text(encoding="utf-8")
    assert str(result) == text
    assert "| Tanh | 1 |" in text
    assert "| a\\|b | batch = 7 |" in text
    told = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert told["operators"] == {"Tanh": 1}
    assert told["outputs"] == {"a|b": "float32[batch, 3]"}
    assert len(told["verification"]["deviations"]) == 3


def test_a_report_says_that_nothing_was_verified(path: Path) -> None:
    x = gc.placeholder("x", (3,))
    assert "Not verified." in str(gc.export_onnx(path, outputs=gc.tanh(x)))


def test_an_opset_that_the_installed_runtime_refuses_is_told(path: Path) -> None:
    x = gc.placeholder("x", (3,))
    with pytest.warns(UserWarning, match="doesn't take opset 28"):
        gc.export_onnx(path, outputs=gc.tanh(x), opset=28)


def test_a_switched_off_pass_is_off_in_the_export_too(path: Path) -> None:
    x = gc.placeholder("x", (3,))
    with gc.Session(disable=("simplify",)) as sess:
        plain = gc.export_onnx(path, outputs=gc.tanh(x) * 1, session=sess)
    assert "Mul" in plain.operators
    assert "Mul" not in gc.export_onnx(path, outputs=gc.tanh(x) * 1).operators
