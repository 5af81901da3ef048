"""From the builder's data to ONNX's protocol buffers: unique names, metadata, types of all values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphc.dims import Dim
from graphc.errors import InternalError
from graphc.exporters.onnx.builder import Body, Builder, Step, Value
from graphc.exporters.onnx.schema import ir_version, onnx_dtype
from graphc.ir import Node
from graphc.op import Array

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

SHOWN = 6  # elements of a constant that its name shows


def printable(text: str) -> str:
    """`text` with everything that isn't printable, or can't be encoded, replaced by `_`."""
    return "".join(c if c.isprintable() else "_" for c in text)


class Names:
    """Hands out names that are unique, printable and not empty."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self.counts: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """`name`, numbered if something has it already."""
        base = printable(name) or "_"
        found = base
        while found in self.taken:
            self.counts[base] = self.counts.get(base, 0) + 1
            found = f"{base}_{self.counts[base]}"
        self.taken.add(found)
        return found


def name_all(builder: Builder, outputs: Sequence[tuple[str, Value]], results: Mapping[Value, Node]) -> list[Value]:
    """Name every value of the graph, inputs, outputs and parameters first; the values that are the outputs.

    Args:
        outputs: the wanted name and value of each. One that has a name already, such as an input that is returned, is
            copied.
        results: the values that are the result of a node, and get its name.
    """
    values, steps = Names(), Names()
    for value in (*builder.inputs, *(v for v in builder.stored if v.name)):
        value.name = values.unique(value.name)
    returned = []
    for name, value in outputs:
        if value.name or value.array is not None:
            value = builder.copy(value)
        value.name = values.unique(name)
        returned.append(value)
    _name_rest(builder, values, steps, results)
    return returned


def _name_rest(builder: Builder, values: Names, steps: Names, results: Mapping[Value, Node]) -> None:
    """Name what has no name yet, the bodies of loops included: names are unique across all of them."""
    for value in builder.inputs:
        value.name = value.name or values.unique("parameter")
    for step in builder.steps:
        base = step_name(step, results)
        for k, value in enumerate(step.outputs):
            value.name = value.name or values.unique(base if len(step.outputs) == 1 else f"{base}:{k}")
        step.name = steps.unique(base)
        for body in (value for value in step.attrs.values() if isinstance(value, Body)):
            _name_rest(body.builder, values, steps, results)
    for value in builder.stored:
        if value.array is not None and not value.name:
            value.name = values.unique(constant_name(value.array))


def step_name(step: Step, results: Mapping[Value, Node]) -> str:
    """The path of the node that a step computes; for one on the way there, that path and the operator."""
    origin = step.origin
    if origin is None:
        return step.kind
    final = any(value in results for value in step.outputs)
    return origin.basename if final else f"{origin.basename}/{step.kind}"


def constant_name(array: Array) -> str:
    """What a constant is called: its elements if they are few, else its shape; and its dtype."""
    if array.size <= SHOWN:
        text = ",".join(str(x) for x in array.reshape(-1).tolist())
        text = f"[{text}]" if array.ndim else text
    else:
        text = "x".join(map(str, array.shape))
    return f"{text}:{array.dtype.name}"


# --------------------------------------------------------------------------------------------- protocol buffers


def to_proto(
    builder: Builder, outputs: Sequence[Value], *, name: str, producer_version: str, source_lines: bool
) -> ModelProto:
    """The model; see `name_all`, which comes before.

    Args:
        source_lines: tell in each node's metadata the user's line that it comes from.
    """
    from onnx import helper

    return helper.make_model(
        _graph(builder, outputs, name, source_lines),
        opset_imports=[helper.make_opsetid("", builder.opset)],
        ir_version=ir_version(builder.opset),
        producer_name="graphc",
        producer_version=producer_version,
    )


def _graph(builder: Builder, outputs: Sequence[Value], name: str, source_lines: bool) -> GraphProto:
    from onnx import helper

    used = {value for step in builder.steps for value in step.inputs}
    returned = set(outputs)
    inner = [value for step in builder.steps for value in step.outputs if value not in returned]
    return helper.make_graph(
        [_node(step, source_lines) for step in builder.steps],
        name,
        [_value_info(value) for value in builder.inputs],
        [_value_info(value) for value in outputs],
        [_tensor(value) for value in builder.stored if value in used],
        value_info=[_value_info(value) for value in inner],
    )


def _node(step: Step, source_lines: bool) -> NodeProto:
    from onnx import helper

    node = helper.make_node(
        step.kind,
        [value.name if value is not None else "" for value in step.inputs],
        [value.name for value in step.outputs],
        name=step.name,
    )
    node.attribute.extend(_attribute(key, value, source_lines) for key, value in sorted(step.attrs.items()))
    helper.set_metadata_props(node, metadata(step, source_lines))
    return node


def metadata(step: Step, source_lines: bool) -> dict[str, str]:
    """What is said of where a node comes from."""
    origin = step.origin
    if origin is None:
        return {}
    told = {"namespace": printable(origin.scope), "pkg.graphc.op": printable(origin.op.name)}
    site = origin.occurrence.site if source_lines else None
    return told | ({"pkg.graphc.source": printable(str(site))} if site else {})


def _attribute(name: str, value: Any, source_lines: bool) -> AttributeProto:
    from onnx import AttributeProto, helper

    if isinstance(value, Body):
        return helper.make_attribute(name, _graph(value.builder, value.outputs, name, source_lines))
    if value == ():  # the shape of a scalar: its kind can't be told from its elements
        return helper.make_attribute(name, [], attr_type=AttributeProto.INTS)
    return helper.make_attribute(name, list(value) if isinstance(value, tuple) else value)


def _value_info(value: Value) -> ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(value.name, onnx_dtype(value.dtype), [_dim(dim) for dim in value.shape])


def _dim(dim: Dim) -> int | str:
    return dim if isinstance(dim, int) else str(dim)


def _tensor(value: Value) -> TensorProto:
    from onnx import helper

    array = value.array
    assert array is not None
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
    return helper.make_tensor(value.name, onnx_dtype(value.dtype), array.shape, little.tobytes(), raw=True)


def check(model: ModelProto) -> None:
    """Have the model checked by the `onnx` package: its structure, and every type by strict inference.

    Raises:
        InternalError: it isn't valid.
    """
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise InternalError(f"the exported model isn't valid ONNX: {error}") from error
