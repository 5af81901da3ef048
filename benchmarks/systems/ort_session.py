"""The workloads of inference in ONNX Runtime, as models written with ONNX's own helpers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.systems import Prepared, Table
from benchmarks.workloads import RESNET_BLOCKS, Array

Arrays = dict[str, Array]
Data = tuple[Array, ...]
OPSET = 20  # the first with Gelu


class Builder:
    """A graph that grows by calls; its inputs are called x0, x1, ..."""

    def __init__(self, weights: Arrays) -> None:
        self.nodes: list[Any] = []
        self.constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of the result of an operator."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """The name of a number or array in float32."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def model(self, data: Data, result: str) -> Any:
        """The model that computes a result of float32 inputs."""
        inputs = [helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, x.shape) for k, x in enumerate(data)]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "workload", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def conv(b: Builder, name: str, x: str, kernel: int, stride: int, padding: int) -> str:
    """A convolution with its batch norm."""
    sizes = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)
    return b("Conv", x, f"{name}.weight", **sizes)


def norm(b: Builder, name: str, x: str) -> str:
    """Batch norm in evaluation."""
    values = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return b("BatchNormalization", x, *values, epsilon=1e-5)


def resnet18(b: Builder) -> str:
    """Scores of images."""
    x = b("Relu", norm(b, "1", conv(b, "0", "x0", 7, 2, 3)))
    x = b("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for k, (inputs, outputs, stride) in enumerate(RESNET_BLOCKS, start=4):
        y = b("Relu", norm(b, f"{k}.b1", conv(b, f"{k}.c1", x, 3, stride, 1)))
        y = norm(b, f"{k}.b2", conv(b, f"{k}.c2", y, 3, 1, 1))
        if (inputs, stride) != (outputs, 1):
            x = norm(b, f"{k}.d.1", conv(b, f"{k}.d.0", x, 1, stride, 0))
        x = b("Relu", b("Add", y, x))
    return b("Gemm", b("Flatten", b("GlobalAveragePool", x)), "14.weight", "14.bias", transB=1)


def elementwise(b: Builder) -> str:
    """tanh(x*a+1)*x + gelu(a)."""
    wave = b("Tanh", b("Add", b("Mul", "x0", "x1"), b.constant(1)))
    return b("Add", b("Mul", wave, "x0"), b("Gelu", "x1"))


def normsoftmax(b: Builder) -> str:
    """softmax(2*layer_norm(x))."""
    x = b("LayerNormalization", "x0", b.constant(np.ones(1024)), axis=-1, epsilon=1e-5)
    return b("Softmax", b("Mul", x, b.constant(2)), axis=-1)


def prepare(variant: str, threads: int) -> Table:
    """The table: what is inference."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def inference(build: Callable[[Builder], str]) -> Callable[[Arrays, Data], Prepared]:
        def prepare(weights: Arrays, data: Data) -> Prepared:
            builder = Builder(weights)
            model = builder.model(data, build(builder))
            providers = ["CPUExecutionProvider"]
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
            feeds = {f"x{k}": array for k, array in enumerate(data)}
            return Prepared(lambda: session.run(None, feeds), lambda results: results[0])

        return prepare

    return {
        "tiny": inference(lambda b: b("Add", b("Mul", "x0", b.constant(2)), b.constant(1))),
        "resnet18_infer": inference(resnet18),
        "elementwise": inference(elementwise),
        "normsoftmax": inference(normsoftmax),
        "matmul": inference(lambda b: b("MatMul", "x0", "x1")),
    }
