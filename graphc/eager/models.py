"""The eager twins of modules and optimisers: their own code and update rules, on tensors that have values."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from graphc.eager.calling import apply
from graphc.eager.calls import Call, traced
from graphc.eager.modes import no_grad
from graphc.eager.tensors import Tensor, valued, wrapped, zeros
from graphc.errors import ArgumentError, did_you_mean
from graphc.ir import Node
from graphc.nn.module import Module
from graphc.nn.state import Parameter
from graphc.ops.state import Variable
from graphc.optim import Optimizer as Rules
from graphc.optim import Options, Slots
from graphc.runtime.variables import materialise
from graphc.types import TensorType

M = TypeVar("M", bound=Module)
LR, STEP = TensorType("float64"), TensorType("int64")  # what the learning rate and the number of the step are


def module(model: M, seed: int = 0) -> M:
    """The eager twin of a module: a copy whose parameters and buffers are tensors.

    Args:
        seed: of the first values, which are those that `gc.Session(seed=seed)` would make.

    Training or evaluation is `ge.set_training`.
    """
    model.state_dict()  # parameters have names, and so variables, from here on
    variables = dict.fromkeys(state.value for _, state in model.named_states() if isinstance(state.value, Variable))
    trainable = {state.value: state.trainable for _, state in model.named_states(Parameter)}
    values = materialise(variables, {}, seed)
    twins: dict[int, Any] = {}
    for variable in variables:
        if isinstance(variable.initial, Node):
            twins[id(variable.initial)] = variable.initial
        value = wrapped(np.array(values[variable], order="C", copy=True))
        twins[id(variable)] = value.requires_grad_(trainable.get(variable, False)).named(variable.name)
    return copy.deepcopy(model, twins)


def optimizer(rules: Rules, params: Any) -> Optimizer:
    """The eager twin of an optimiser: its update rule, applied by `step()` to tensors and their `.grad`.

    Args:
        rules: such as `gc.optim.Adam(lr=1e-3)`.
        params: tensors, a twin of `ge.module`, or torch's groups: dicts with `params` and hyperparameters of their own.

    Example:
        >>> import graphc as gc
        >>> from graphc import eager as ge
        >>> w = ge.tensor([1.0, 2.0], requires_grad=True)
        >>> opt = ge.optimizer(gc.optim.SGD(lr=0.5), [w])
        >>> (w * w).sum().backward()
        >>> opt.step()
        >>> w
        tensor([0., 0.], requires_grad=True)
    """
    return Optimizer(rules, params)


class Optimizer:
    """Made by `optimizer`.

    Attributes:
        param_groups: a dict for each group, with its `params` and hyperparameters, which may be changed at any time.
    """

    def __init__(self, rules: Rules, params: Any) -> None:
        self.rules = rules
        if isinstance(params, Tensor):
            raise ArgumentError("params are a list of tensors, and this is one", hint="[w]")
        given: list[Any] = list(params.parameters()) if isinstance(params, Module) else list(params)
        groups = given if any(isinstance(group, Mapping) for group in given) else [{"params": given}]
        self.param_groups = [self._group(group) for group in groups]
        members = [id(param) for group in self.param_groups for param in group["params"]]
        if len(set(members)) != len(members):
            raise ArgumentError("a tensor is among params twice, and would be changed twice in a step")
        self._slots: dict[Tensor, list[Tensor]] = {}
        self._steps: dict[Tensor, int] = {}
        self._calls: dict[Any, Call] = {}

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        own = _options(group)
        self.rules.check(own)
        members = group["params"]
        params = list(members.parameters()) if isinstance(members, Module) else list(members)
        wrong = [type(param).__name__ for param in params if not isinstance(param, Tensor)]
        if wrong:
            raise ArgumentError(
                f"params are eager tensors, got {', '.join(dict.fromkeys(wrong))}", hint="ge.module(m).parameters()"
            )
        fixed = [k for k, param in enumerate(params) if not (param.is_leaf and param.requires_grad)]
        if fixed and not isinstance(members, Module):
            raise ArgumentError(
                f"params must be leaves that require a gradient; number {fixed[0]} is none",
                hint="ge.tensor(data, requires_grad=True)",
            )
        return {**self.rules.defaults, **own, "params": params}

    def __repr__(self) -> str:
        return f"eager {self.rules!r}"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"an eager optimizer has no attribute {name!r}{did_you_mean(name, dir(type(self)))}")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let every tensor collect its gradient anew, from None or from zeros."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.requires_grad:
                    param.grad = None if set_to_none else zeros(param.type)

    def step(self) -> None:
        """Give every tensor that has a gradient its new value."""
        with no_grad():
            for group in self.param_groups:
                options = _options(group)
                for param in group["params"]:
                    if param.grad is not None:
                        self._update(param, param.grad, options)

    def state_dict(self) -> dict[str, Any]:
        """What the steps remember, and the hyperparameters, as numbers and arrays; tensors go by their number."""
        state: dict[int, dict[str, Any]] = {}
        groups, count = [], 0
        for group in self.param_groups:
            options, params = _options(group), group["params"]
            for k, param in enumerate(params, count):
                if param in self._steps:
                    slots = zip(self.rules.slot_names(options), self._slots[param], strict=True)
                    state[k] = {"step": self._steps[param], **{name: slot.numpy() for name, slot in slots}}
            groups.append({**options, "params": list(range(count, count + len(params)))})
            count += len(params)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, of an optimiser of as many tensors of the same shapes.

        Raises:
            ArgumentError: another number of tensors. ShapeError: another shape; nothing has changed.
        """
        ours, theirs = (
            [len(group["params"]) for group in groups] for groups in (self.param_groups, saved["param_groups"])
        )
        if ours != theirs:
            raise ArgumentError(f"the groups have {ours} tensors, and those that were saved {theirs}")
        params = [param for group in self.param_groups for param in group["params"]]
        state = {params[k]: values for k, values in saved["state"].items()}
        self._slots = {
            param: [zeros(param.type).assign(values[name]) for name in values if name != "step"]
            for param, values in state.items()
        }
        self._steps = {param: values["step"] for param, values in state.items()}
        for group, given in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update(_options(given))

    def _update(self, param: Tensor, g: Tensor, options: Options) -> None:
        slots = self._slots.get(param)
        if slots is None:
            slots = self._slots[param] = [zeros(param.type) for _ in self.rules.slot_names(options)]
        step = self._steps[param] = self._steps.get(param, 0) + 1
        lr = valued(np.array(options["lr"], np.float64), LR)
        new, *slots[:] = apply(self._call(param.type, options), [param, g, lr, valued(np.array(step), STEP), *slots])
        param.assign(new)

    def _call(self, type: TensorType, options: Options) -> Call:
        """The rule for tensors of one type; the learning rate and the number of the step are operands of it."""
        key = (type, *[option for option in options.items() if option[0] != "lr"])
        found = self._calls.get(key)
        if found is None:
            found = self._calls[key] = self._traced(type, options)
        return found

    def _traced(self, type: TensorType, options: Options) -> Call:
        names, counts = self.rules.slot_names(options), self.rules.counts(options)
        types = [type, type, LR, STEP, *[type] * len(names)]

        def build(formals: Sequence[Node]) -> tuple[Node, ...]:
            param, g, lr, step, *held = formals
            remembered: dict[str, Any] = dict(zip(names, held, strict=True))
            slots = Slots(remembered, step if counts else None)
            value, memory = self.rules.updated(param, g, slots, {**options, "lr": lr})
            return (value, *[memory[name] for name in names])

        return traced(repr(self.rules), types, build, training=True)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group."""
    return {name: value for name, value in group.items() if name != "params"}
