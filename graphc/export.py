"""`gc.export_onnx`: a graph as an ONNX model, checked and, if asked for, compared with what the session computes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from graphc.dims import unify
from graphc.errors import ArgumentError, ExportError
from graphc.evaluate import evaluate
from graphc.exporters.onnx.export import Exported, dotted, to_onnx
from graphc.exporters.onnx.model import Names, check
from graphc.exporters.onnx.report import ExportResult, as_json, markdown, result_of
from graphc.exporters.onnx.schema import DEFAULT_OPSET
from graphc.exporters.onnx.table import onnx_target
from graphc.exporters.onnx.verify import Feeds, Run, Trial, given_trial, random_trials, too_new_for_onnxruntime
from graphc.exporters.onnx.verify import verify as compare
from graphc.files import as_path, write_atomically
from graphc.ir import Graph, Node, Program, substitute, toposort
from graphc.op import Array
from graphc.operands import constant, parameter
from graphc.ops.state import Placeholder, Updates, Variable, group
from graphc.passes.modes import resolve_mode
from graphc.passes.pipeline import run_pipeline, switches
from graphc.runtime.needs import collect_guards
from graphc.runtime.session import Session
from graphc.source import Site, user_site
from graphc.types import np_dtype

EVERY_RUNTIME = 21  # the opset that each ONNX Runtime we work with takes


def export_onnx(
    path: str | os.PathLike[str],
    inputs: Any = None,
    outputs: Any = None,
    *,
    session: Session | None = None,
    opset: int | None = None,
    verify: bool | Sequence[Mapping[Any, Any]] = False,
    training: bool | None = None,
    report: str | os.PathLike[str] | None = None,
    source_lines: bool = False,
) -> ExportResult:
    """Write what computes `outputs` to an ONNX file.

    Named sizes of the placeholders are named in the model, and every other size that depends on them is worked out
    when it runs, so it takes every batch that the graph takes. The model passes the full checks of the `onnx` package
    before it is written, and it is written as a whole or not at all.

    Args:
        path: the file, usually ending in .onnx.
        inputs: what the model is given: tensors, or a dict from the names that they get; usually placeholders, but
            any tensor can be one. None takes every placeholder that the outputs need. A placeholder that isn't given
            is its default.
        outputs: what it returns: tensors, or a dict from the names that they get. Of updates, the new values are
            returned, each under the name of its variable and `.updated`.
        session: holds the values of the variables; None takes their initial values, with a warning.
        opset: the version of ONNX's operators, 17 to 28; None takes 20, or with a warning as much more as is needed.
        verify: run the model and compare every output with graphc's own: on random inputs of three sizes for each
            named dimension, or on inputs of yours, a list of dicts by tensor or name. Done by ONNX Runtime if it is
            installed, else by the reference evaluator of `onnx`.
        training: the mode, evaluation by default (and training if a training update is exported). A model in training
            mode returns the new statistics of batch normalisation, and draws other random numbers than graphc.
        report: also write a report of what was exported and verified, to this path with the endings .md and .json.
        source_lines: store the user's lines with the nodes.

    Returns:
        What was written; `print` shows it.

    Raises:
        ArgumentError: something that can't be an input or output, or a name that can't be one.
        ExportError: all that ONNX can't express; a placeholder that is no input; outputs that differ. Nothing is
            written then.
    """
    target = as_path(path)
    request = _request(inputs, outputs, training)
    sess = session or Session(request.graph)
    exported, variables = _model(request, sess, opset, source_lines)
    told = [*_surprises(exported, request), *([INITIAL_VALUES] if variables and session is None else [])]
    verification = None
    if verify is not False:
        verification = compare(exported, _trials(exported, request, sess, variables, verify), variables)
    data = exported.model.SerializeToString(deterministic=True)
    write_atomically(target, data, ExportError)
    result = result_of(exported, target, len(data), told, verification)
    if report is not None:
        for suffix, text in ((".md", markdown(result)), (".json", as_json(result))):
            write_atomically(as_path(report).with_suffix(suffix), text.encode(), ExportError)
    _warn(told)
    return result


# --------------------------------------------------------------------------------------------- what is exported


@dataclass(frozen=True)
class Request:
    """What is to be exported, resolved.

    Attributes:
        program: in its mode, over the inputs; one that isn't a leaf is a parameter there.
        inputs, outputs: the user's tensors by the names that they get; for updates see `program.updates`.
    """

    program: Program
    inputs: Mapping[str, Node]
    outputs: Mapping[str, Node]
    training: bool

    @property
    def graph(self) -> Graph | None:
        """The graph that it is a part of."""
        nodes = (*self.inputs.values(), *self.program.roots)
        return next((node.graph for node in nodes if node.graph is not None), None)


def _request(inputs: Any, outputs: Any, training: bool | None) -> Request:
    """What the user asked for.

    Raises:
        ArgumentError: something that can't be an input or output, or be called so.
        ExportError: a placeholder that is neither given nor has a default.
    """
    returned = _named(outputs, "output")
    updates = group(*[value for value in returned.values() if isinstance(value, Updates)])
    tensors = {name: value for name, value in returned.items() if isinstance(value, Node)}
    roots = [*tensors.values(), *updates.losses, *updates.values()]
    if not roots:
        raise ArgumentError("there is nothing to export", hint="outputs=[y] or outputs={'name': y}")
    leaves = [leaf for leaf in toposort(roots) if isinstance(leaf, Placeholder)]
    given = _named([leaf for leaf in leaves if leaf.default is None] if inputs is None else inputs, "input")
    wrong = [f"{name!r}: {value!r}" for name, value in given.items() if not isinstance(value, Node)]
    if wrong or len(set(given.values())) < len(given):
        raise ArgumentError(f"an input must be a tensor of its own, got {', '.join(wrong) or 'one twice'}")
    clashing = sorted(set(given) & set(tensors)) if isinstance(outputs, Mapping) else []
    if clashing:
        raise ArgumentError(f"an input and an output can't both be called {', '.join(map(repr, clashing))}")
    inner = {n: parameter(k, n.type) for k, n in enumerate(given.values()) if not isinstance(n, Placeholder | Variable)}
    defaults: dict[Node, Node] = {
        n: constant(n.default) for n in leaves if n.default is not None and n not in given.values()
    }
    replaced = substitute(roots, {**inner, **defaults})
    count = len(roots) - len(updates)
    mode = updates.training if training is None else bool(training)
    # Statistics on the way to a loss are updated even if no gradient, and so no update, depends on them.
    whole = resolve_mode(
        Program(
            tuple(inner.get(node, node) for node in given.values()),
            replaced[:count],
            tuple(zip(updates, replaced[count:], strict=True)),
        ),
        training=mode,
    )
    program = Program(whole.inputs, whole.outputs[: len(tensors)], whole.updates)
    _require_inputs(program)
    return Request(program, given, tensors, mode)


def _require_inputs(program: Program) -> None:
    missing = [n for n in program.nodes() if isinstance(n, Placeholder) and n not in program.inputs]
    if missing:
        names = ", ".join(leaf.display_name for leaf in missing)
        raise ExportError(
            f"the outputs need {'a placeholder that is' if len(missing) == 1 else 'placeholders that are'} no input",
            lines=[f"{leaf.display_name!r}, {leaf.type}, {leaf.made_at}" for leaf in missing],
            hint=f"inputs=[..., {names}]",
        )


def _named(values: Any, role: str) -> dict[str, Any]:
    """Tensors and updates by name: the user's names, or their own."""
    if isinstance(values, Mapping):
        wrong = [name for name in values if not isinstance(name, str) or not name or not name.isprintable()]
        if wrong:
            raise ArgumentError(f"an {role} can't be called {', '.join(map(repr, wrong))}", hint="use printable names")
        found = dict(values)
    else:
        listed = [values] if isinstance(values, Node | Updates) else list(values or ())
        names = Names()
        found = {names.unique(getattr(value, "display_name", "updates")): value for value in listed}
    strange = [f"{name!r}: {value!r}" for name, value in found.items() if not isinstance(value, Node | Updates)]
    if strange:
        raise ArgumentError(f"an {role} must be a tensor, got {', '.join(strange)}")
    return found


def _model(
    request: Request, sess: Session, opset: int | None, source_lines: bool
) -> tuple[Exported, dict[Node, Array]]:
    """The model, checked, and the values of the variables in it."""
    optimised = run_pipeline(
        request.program,
        onnx_target(opset or DEFAULT_OPSET),
        training=request.training,
        disable=frozenset(sess.disable) & switches(),
    )
    variables: dict[Node, Array] = {
        leaf: sess[leaf]
        for leaf in toposort([*optimised.roots, *request.program.roots])
        if isinstance(leaf, Variable) and leaf not in optimised.inputs
    }
    exported = to_onnx(
        optimised,
        list(request.inputs),
        [*request.outputs, *(f"{dotted(v.display_name)}.updated" for v, _ in optimised.updates)],
        variables,
        opset=opset,
        producer_version=version("graphc"),
        source_lines=source_lines,
    )
    check(exported.model)
    return exported, variables


# --------------------------------------------------------------------------------------------- what is told, and tried

INITIAL_VALUES = "no session was given, so the model holds the initial values of the variables"


def _warn(messages: Sequence[str]) -> None:
    """Warn at the user's line."""
    code, offset = user_site()
    for message in messages:
        if code is None:
            warnings.warn(message, stacklevel=2)
        else:
            site = Site.of(code, offset)
            warnings.warn_explicit(message, UserWarning, site.file, site.line)


def _surprises(exported: Exported, request: Request) -> list[str]:
    """What may surprise about a model."""
    told = []
    if exported.raised:
        told.append(f"opset {exported.opset} instead of {DEFAULT_OPSET}: {'; '.join(exported.raised)}")
    if request.training:
        told.append("the model is in training mode")
    if exported.random:
        names = ", ".join(dict.fromkeys(node.display_name for node in exported.random))
        told.append(f"the model draws other random numbers than graphc: {names}")
    refusing = too_new_for_onnxruntime(exported.opset) if exported.opset > EVERY_RUNTIME else ""
    if refusing:
        told.append(f"the installed ONNX Runtime {refusing} doesn't take opset {exported.opset}")
    return told


def _trials(
    exported: Exported, request: Request, session: Session, variables: Mapping[Node, Array], verify: Any
) -> list[Trial]:
    """What the model is run on, with graphc's results.

    Raises:
        ArgumentError: inputs of the user's that don't name every input.
    """
    if exported.random:
        raise ExportError("a model that draws random numbers can't be verified: no two runs agree")
    run = _runner(exported, request, session, variables)
    if verify is True:
        return random_trials(exported.inputs, run, [guard for guard, _ in collect_guards(request.program)])
    names: dict[Any, str] = {node: name for name, node in request.inputs.items()}
    found = [{names.get(key, key): value for key, value in feeds.items()} for feeds in verify]
    if any(set(feeds) != set(request.inputs) for feeds in found):
        raise ArgumentError(f"each set of inputs to verify with must give {', '.join(map(repr, request.inputs))}")
    ordered = [{n: np.asarray(feeds[n], np_dtype(t.dtype)) for n, t in exported.inputs.items()} for feeds in found]
    return [given_trial(exported.inputs, feeds, run) for feeds in ordered]


def _runner(exported: Exported, request: Request, session: Session, variables: Mapping[Node, Array]) -> Run:
    """What computes the outputs with graphc: the session or, where that would change its state, the evaluator."""
    fed, fetched, program = list(request.inputs.values()), list(request.outputs.values()), request.program

    def in_session(feeds: Feeds) -> Sequence[Array]:
        found: Sequence[Array] = session.run(fetched, dict(zip(fed, feeds.values(), strict=True)), training=False)
        return found

    def beside(feeds: Feeds) -> Sequence[Array]:
        sizes, _ = unify([(name, type.shape, feeds[name].shape) for name, type in exported.inputs.items()])
        env = {**variables, **dict(zip(program.inputs, feeds.values(), strict=True))}
        return evaluate(program.roots, env, sizes)

    return beside if request.training or program.updates else in_session
