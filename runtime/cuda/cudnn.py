"""Convolutions by cuDNN, through its Python frontend, where that is installed (`pip install nvidia-cudnn-frontend`).

Of what cuDNN offers for a convolution, only what gives the same bits in every run is taken, and for float32 nothing
that rounds what is multiplied unless it may be. Then it rounds to tf32, also where bfloat16 would do: it knows bfloat16
only of what is so in memory. Where nothing is left, kernels of our own convolve.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from graphc.runtime.cuda.driver import Convolved, Tensor

WORKSPACE_BYTES = 128 << 20
DTYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}  # names in the frontend


def installed() -> Any:
    """The frontend, or None if it isn't there or can't be loaded."""
    if importlib.util.find_spec("cudnn") is None:
        return None
    try:
        return importlib.import_module("cudnn")
    except (ImportError, OSError, RuntimeError):  # libcudnn is missing, or is of another version
        return None


class CudnnError(RuntimeError):
    """cuDNN can't be opened, or failed at what it said that it can do."""


class Cudnn:
    """A handle of cuDNN on one stream.

    Args:
        frontend: the module.
        stream: its handle.
        workspace: address of `WORKSPACE_BYTES` on the device.
    """

    def __init__(self, frontend: Any, stream: int, workspace: int) -> None:
        self._frontend = frontend
        self._workspace = workspace
        try:
            self._handle = frontend.create_handle()
            frontend.set_stream(handle=self._handle, stream=stream)
        except Exception as error:  # of several types, by version
            raise CudnnError(f"can't be opened: {error}") from error
        self._planned: dict[Convolved, tuple[Any, dict[str, Any]] | str] = {}  # graphs, for any addresses

    def convolution(self, problem: Convolved) -> Callable[[], None] | str:
        """What convolves whenever it is called; or why cuDNN can't do this one as it is wanted."""
        tensors = {"x": problem.x, "w": problem.w, "y": problem.y}
        if not all(size for tensor in tensors.values() for size in tensor.shape):
            return "doesn't take what has no elements"
        x, w, y = (tensor._replace(address=0) for tensor in tensors.values())
        anywhere = problem._replace(x=x, w=w, y=y)
        if anywhere not in self._planned:
            self._planned[anywhere] = self._plan(anywhere)
        found = self._planned[anywhere]
        if isinstance(found, str):
            return found
        graph, given = found
        addresses = {given[name].get_uid(): tensor.address for name, tensor in tensors.items()}
        return partial(self._execute, graph, addresses)

    def _execute(self, graph: Any, addresses: dict[int, int]) -> None:
        try:
            graph.execute(addresses, self._workspace, handle=self._handle)
        except Exception as error:  # of several types, by version
            raise CudnnError(f"cuDNN: {error}") from error

    def _plan(self, problem: Convolved) -> tuple[Any, dict[str, Any]] | str:
        """A graph with a plan, and its tensors by name; or why there is no plan as it is wanted."""
        try:
            graph, given = self._graph(problem, {"x": problem.x, "w": problem.w, "y": problem.y})
            self._choose(graph, exact=problem.x.dtype == "float32" and problem.compute == "float32")
        except Exception as error:  # of several types, by version: there is no plan, or no support for this graph
            return f"has no plan for it: {(str(error).splitlines() or [type(error).__name__])[0]}"
        return graph, given

    def _graph(self, problem: Convolved, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
        """The graph of one convolution, and its tensors by name."""
        types = self._frontend.data_type
        io = getattr(types, DTYPES[problem.x.dtype])
        graph = self._frontend.pygraph(
            handle=self._handle, io_data_type=io, intermediate_data_type=types.FLOAT, compute_data_type=types.FLOAT
        )
        result = {"forward": "y", "data": "x", "weight": "w"}[problem.direction]
        given = {
            name: graph.tensor(name=name, dim=list(tensor.shape), stride=list(tensor.strides), data_type=io)
            for name, tensor in tensors.items()
            if name != result
        }
        geometry = dict(
            pre_padding=[before for before, _ in problem.padding],
            post_padding=[after for _, after in problem.padding],
            stride=list(problem.strides),
            dilation=list(problem.dilations),
        )
        if problem.direction == "forward":
            found = graph.conv_fprop(image=given["x"], weight=given["w"], **geometry)
        elif problem.direction == "data":
            found = graph.conv_dgrad(loss=given["y"], filter=given["w"], **geometry)
        else:
            found = graph.conv_wgrad(image=given["x"], loss=given["y"], **geometry)
        wanted = tensors[result]
        found.set_output(True).set_data_type(io).set_dim(list(wanted.shape)).set_stride(list(wanted.strides))
        return graph, {**given, result: found}

    def _choose(self, graph: Any, *, exact: bool) -> None:
        """Build the best plan that is deterministic, fits the workspace, and doesn't round if it must be exact."""
        modes, notes = self._frontend.heur_mode, self._frontend.numerical_note
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        graph.deselect_numeric_notes([notes.NONDETERMINISTIC, *([notes.TENSOR_CORE] if exact else [])])
        graph.deselect_workspace_greater_than(WORKSPACE_BYTES)
        graph.check_support()
        graph.build_plans()
