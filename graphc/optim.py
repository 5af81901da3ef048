"""Optimisers: torch's names, arguments and update formulas, as updates of the graph that a session runs.

`minimize` builds gradients and new values once. What an optimiser remembers of a variable (its slots) are variables
`optim/<name of the variable>/<slot>`, saved and restored with all others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from graphc.errors import ArgumentError, DTypeError, GradientError, ShapeError, did_you_mean
from graphc.ir import Node, reachable
from graphc.nn.init import zeros
from graphc.nn.module import Module
from graphc.occurrences import derived_from, scope
from graphc.operands import as_node, astype
from graphc.ops.math import clip, equal, maximum, minimum, sqrt, square, where
from graphc.ops.reduce import sum as sum_
from graphc.ops.state import Updates, Variable, fitted
from graphc.passes.gradients import cut_report, gradients
from graphc.source import here
from graphc.types import is_float

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm", "clip_grad_value"]

RULE = "update"  # the rule by which update nodes are derived from gradients; drawings tell them by it

_EAGER = "gc.eager.optimizer(optimizer, params) has it for eager tensors"

# Where to find what torch's optimisers have and these don't.
ELSEWHERE = {
    "step": f"train = optimizer.minimize(loss) is the step, and sess.run([loss, train], feeds) takes it; {_EAGER}",
    "zero_grad": f"gradients are tensors of the graph and don't accumulate; {_EAGER}",
    "param_groups": "lr may be a placeholder, a variable or an expression, which each run computes",
    "state_dict": "slots are variables: sess.save and sess.load keep them with all others",
    "load_state_dict": "slots are variables: sess.save and sess.load keep them with all others",
}

Options = Mapping[str, Any]
Pair = tuple[Any, Variable]


class Slots(NamedTuple):
    """What an optimiser remembers of one variable, as it was before the run; and the number of this update, from 1."""

    values: Mapping[str, Variable]
    step: Node | None


# What a hyperparameter must satisfy, where it is a number.
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda lr: lr >= 0, "at least 0"),
    "momentum": (lambda momentum: momentum >= 0, "at least 0"),
    "weight_decay": (lambda decay: decay >= 0, "at least 0"),
    "eps": (lambda eps: eps >= 0, "at least 0"),
    "betas": (lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "two numbers in [0, 1)"),
}


class Optimizer(ABC):
    """What optimisers share: which variables they change, with which hyperparameters, and their slots.

    Args:
        params: what it changes by default: variables, a module, or torch's groups, dicts with `params` and
            hyperparameters of their own. Without it, all trainable variables that a loss reaches.
        defaults: the hyperparameters. `lr` may be a number, or a scalar tensor such as a placeholder with a default,
            a variable, or an expression of one (a schedule).

    Raises:
        ArgumentError: a hyperparameter out of its range, or one that the optimiser doesn't have.
    """

    def __init__(self, params: Any, defaults: Options) -> None:
        self.defaults = dict(defaults)
        self.check(self.defaults)
        self._groups = None if params is None else [*self._grouped(params)]
        self._slots: dict[tuple[Variable, str], Variable] = {}
        self._steps: dict[Variable, Variable] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.defaults.items())})"

    def __getattr__(self, name: str) -> Any:
        remedy = f"; {ELSEWHERE[name]}" if name in ELSEWHERE else did_you_mean(name, dir(type(self)))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{remedy}")

    # ------------------------------------------------------------------------------------------ what users call

    def minimize(self, loss: Any, variables: Any = None) -> Updates:
        """The training update that lowers `loss` by one step; fetch it to take the step.

        Args:
            loss: a scalar.
            variables: the variables to change, or a module whose trainable parameters they are. By default those of
                the optimiser's `params`, or all in the graph, that are trainable now and that a gradient of the loss
                reaches.

        Raises:
            GradientError: no gradient reaches one of the variables that were given, or any of the others.
        """
        if not isinstance(loss, Node) or loss.ndim:
            got = repr(loss) if isinstance(loss, Node) else type(loss).__name__
            what = f"minimize: the loss must be a scalar tensor, got {got}"
            raise ShapeError(what, hint="loss.mean()")
        chosen = self._reached(loss) if variables is None else list(_variables(variables))
        found = gradients(loss, chosen, disconnected="none" if variables is None else "raise")
        pairs = [(g, variable) for g, variable in zip(found, chosen, strict=True) if g is not None]
        if not pairs:
            raise cut_report([loss], chosen) if chosen else _nothing_trainable(loss)
        return self.apply(pairs, losses=(loss,))

    def apply(self, grads_and_vars: Iterable[Pair], *, losses: tuple[Node, ...] = ()) -> Updates:
        """The training update for gradients that were computed (or clipped) elsewhere: `(gradient, variable)` pairs.

        Args:
            losses: what they are gradients of; statistics tracked on the way there are updated with the variables.

        Raises:
            GradientError: a gradient is None. ArgumentError: a variable twice, or something that is none.
        """
        pairs = list(grads_and_vars)
        _require_pairs(pairs)
        line = here()
        options = self._options()
        chosen = {variable: options.get(variable, self.defaults) for _, variable in pairs}
        self._count(variable for variable, own in chosen.items() if self.counts(own))
        new: dict[Variable, tuple[Node, str]] = {}
        for gradient, variable in pairs:
            own = chosen[variable]
            g = fitted(variable, gradient)
            remembered = {name: self._slot(variable, name) for name in self.slot_names(own)}
            with derived_from(g, RULE):
                step = self._steps.get(variable)
                slots = Slots(remembered, None if step is None else step + 1)
                value, memory = self.updated(variable, g, slots, own)
                new[variable] = fitted(variable, value), line
                new.update({remembered[name]: (node, line) for name, node in memory.items()})
                if step is not None:
                    new[step] = step + 1, line
        return Updates(new, training=True, losses=losses)

    # ------------------------------------------------------------------------------------------ what an optimiser is

    def updated(self, variable: Any, g: Any, slots: Slots, options: Options) -> tuple[Any, dict[str, Any]]:
        """The new value of a variable and of its slots, for its gradient; what they are needn't be variables."""
        return self._rule(variable, -g if options.get("maximize") else g, slots, options)

    @abstractmethod
    def _rule(self, variable: Variable, g: Any, slots: Slots, options: Options) -> tuple[Any, dict[str, Any]]:
        """The new value of a variable and of its slots, for its gradient."""

    @abstractmethod
    def slot_names(self, options: Options) -> tuple[str, ...]:
        """What is remembered of each variable; it starts as zeros."""

    @abstractmethod
    def counts(self, options: Options) -> bool:
        """Whether the rule needs the number of the step."""

    # ------------------------------------------------------------------------------------------ hyperparameters

    def check(self, options: Options) -> None:
        """Raise an ArgumentError that tells all hyperparameters which are out of range or don't exist."""
        wrong = [f"has no {name!r}{did_you_mean(name, self.defaults)}" for name in options if name not in self.defaults]
        for name, (holds, wanted) in LIMITS.items():
            value = options.get(name)
            if value is not None and not isinstance(value, Node) and not _satisfied(holds, value):
                wrong.append(f"{name} must be {wanted}, got {value!r}")
        if wrong:
            raise ArgumentError(f"{type(self).__name__}: {'; '.join(wrong)}")

    def _grouped(self, params: Any) -> Iterator[tuple[Any, Options]]:
        """Each group's module or variables, and its hyperparameters."""
        if isinstance(params, int | float):  # the first argument is torch's: what is optimised
            kind = type(self).__name__
            raise ArgumentError(
                f"{kind}: params must be variables, a module or groups of them, got {params!r}",
                hint=f"{kind}(lr={params!r})",
            )
        given = params if isinstance(params, Module) else list(_variables(params))
        if isinstance(given, Module) or not any(isinstance(group, Mapping) for group in given):
            given = [{"params": given}]
        for group in given:
            if not isinstance(group, Mapping) or "params" not in group:
                raise ArgumentError("each group of params is a dict with 'params'")
            own = {name: value for name, value in group.items() if name != "params"}
            self.check(own)
            members = group["params"]
            if not isinstance(members, Module):
                members = list(_variables(members))
                _require_variables(members)
            yield members, {**self.defaults, **own}

    def _options(self) -> dict[Variable, Options]:
        """The hyperparameters of the variables in groups."""
        return {variable: own for members, own in self._groups or () for variable in _variables(members)}

    def _reached(self, loss: Node) -> list[Variable]:
        """The trainable variables that the loss is computed from, of the optimiser's params if it has some."""
        found = [node for node in reachable([loss]) if isinstance(node, Variable) and node.trainable]
        own = None if self._groups is None else self._options()
        return sorted((v for v in found if own is None or v in own), key=lambda variable: variable.serial)

    # ------------------------------------------------------------------------------------------ slots

    def _slot(self, variable: Variable, name: str) -> Variable:
        if (variable, name) not in self._slots:
            with variable.graph, scope(f"optim/{variable.name}"):
                self._slots[variable, name] = Variable(zeros(), name, False, shape=variable.shape, dtype=variable.dtype)
        return self._slots[variable, name]

    def _count(self, variables: Iterable[Variable]) -> None:
        """Give those variables that have none a count of their steps: one for all that are new together."""
        fresh = [variable for variable in variables if variable not in self._steps]
        if fresh:
            with fresh[0].graph, scope("optim"):
                self._steps.update(dict.fromkeys(fresh, Variable(0, "step", dtype="int64")))


def _satisfied(holds: Callable[[Any], bool], value: Any) -> bool:
    """Whether a hyperparameter is what it must be; one of another kind isn't."""
    try:
        return holds(value)
    except TypeError:
        return False


def _variables(chosen: Any) -> Iterable[Any]:
    """The variables that a user named: a module's trainable parameters, one variable, or several."""
    if isinstance(chosen, Module):
        return [variable for variable in chosen.parameters() if variable.trainable]
    return [chosen] if isinstance(chosen, Node) else chosen


def _nothing_trainable(loss: Node) -> GradientError:
    frozen = sorted(repr(v.name) for v in reachable([loss]) if isinstance(v, Variable) and is_float(v.dtype))
    return GradientError(
        f"minimize: no gradient of {loss!r} reaches a trainable variable of this optimiser",
        hint=f"it depends on {', '.join(frozen)}: name them in variables=, or set trainable = True" if frozen else None,
    )


def _require_variables(members: Iterable[Any]) -> None:
    wrong = [type(member).__name__ for member in members if not isinstance(member, Variable)]
    if wrong:
        got = ", ".join(dict.fromkeys(wrong))
        raise ArgumentError(f"params are variables of a graph, got {got}", hint="a module, or module.parameters()")


def _require_pairs(pairs: Sequence[Pair]) -> None:
    known: set[Variable] = set()
    for gradient, variable in pairs:
        if not isinstance(variable, Variable):
            raise ArgumentError(f"apply takes (gradient, variable) pairs, got {variable!r} as a variable")
        if gradient is None:
            raise GradientError(f"no gradient reaches {variable.name!r}", lines=[here(), variable.made_at])
        if not is_float(variable.dtype):
            raise DTypeError(f"{variable.name!r} is {variable.type}: only floats can be trained")
        if variable in known:
            raise ArgumentError(f"{variable.name!r} is given two gradients", hint="add them")
        known.add(variable)


# --------------------------------------------------------------------------------------------- the optimisers


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum as torch has it (the first step's buffer is the gradient itself).

    Args:
        params: what it changes by default; see `Optimizer`.
        lr: the step size: a number or a scalar tensor.
        momentum: the share of the buffer that is kept.
        dampening: the share of the gradient that doesn't go into the buffer.
        weight_decay: of the variable is added to its gradient.
        nesterov: look ahead along the buffer; needs a momentum and no dampening.
        maximize: climb instead.
    """

    def __init__(
        self,
        params: Any = None,
        lr: Any = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            dict(
                lr=lr,
                momentum=momentum,
                dampening=dampening,
                weight_decay=weight_decay,
                nesterov=nesterov,
                maximize=maximize,
            ),
        )

    def check(self, options: Options) -> None:
        """See `Optimizer.check`; nesterov goes with a momentum and without dampening."""
        super().check(options)
        own = {**self.defaults, **options}
        if own["nesterov"] and (not own["momentum"] or own["dampening"]):
            raise ArgumentError("SGD: nesterov needs a momentum and no dampening")

    def slot_names(self, options: Options) -> tuple[str, ...]:
        """See `Optimizer.slot_names`: the sum of gradients, where there is a momentum."""
        return ("momentum_buffer",) if options["momentum"] else ()

    def counts(self, options: Options) -> bool:
        """See `Optimizer.counts`: the first gradient isn't dampened."""
        return bool(options["momentum"] and options["dampening"])

    def _rule(self, variable: Variable, g: Any, slots: Slots, options: Options) -> tuple[Any, dict[str, Any]]:
        momentum, memory = options["momentum"], {}
        g = _decayed(g, variable, options)
        if momentum:
            buffer = slots.values["momentum_buffer"] * momentum + g * (1 - options["dampening"])
            if slots.step is not None:
                buffer = where(equal(slots.step, 1), g, buffer)
            memory = {"momentum_buffer": buffer}
            g = g + buffer * momentum if options["nesterov"] else buffer
        return variable - g * _like(options["lr"], variable), memory


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), as in torch.

    Args:
        params: what it changes by default; see `Optimizer`.
        lr: the step size: a number or a scalar tensor.
        betas: the shares that are kept of the mean gradient and of the mean square.
        eps: added to the root of the mean square.
        weight_decay: of the variable is added to its gradient.
        amsgrad: divide by the greatest mean square so far (Reddi et al., 2018).
        maximize: climb instead.
    """

    def __init__(
        self,
        params: Any = None,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize),
        )

    def slot_names(self, options: Options) -> tuple[str, ...]:
        """See `Optimizer.slot_names`: the mean gradient, the mean square, and with amsgrad the greatest."""
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if options["amsgrad"] else ()))

    def counts(self, options: Options) -> bool:
        """See `Optimizer.counts`: means of few gradients are corrected."""
        return True

    def _rule(self, variable: Variable, g: Any, slots: Slots, options: Options) -> tuple[Any, dict[str, Any]]:
        return self._step(variable, _decayed(g, variable, options), slots, options)

    def _step(self, value: Any, g: Any, slots: Slots, options: Options) -> tuple[Any, dict[str, Any]]:
        """`value` moved by Adam's step, and the new slots."""
        first, second = options["betas"]
        mean, spread = slots.values["exp_avg"], slots.values["exp_avg_sq"]
        mean = mean + (g - mean) * (1 - first)
        spread = spread * second + square(g) * (1 - second)
        memory = {"exp_avg": mean, "exp_avg_sq": spread}
        if options["amsgrad"]:
            memory["max_exp_avg_sq"] = spread = maximum(slots.values["max_exp_avg_sq"], spread)
        count = _wide(slots.step)  # 1 - beta ** step would lose half its digits in float32
        size = _like(_wide(options["lr"]) / (1 - first**count), value)
        root = sqrt(spread) / _like(sqrt(1 - second**count), value)
        return value - (mean / (root + options["eps"])) * size, memory


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as in torch; arguments as for `Adam`."""

    def __init__(
        self,
        params: Any = None,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

    def _rule(self, variable: Variable, g: Any, slots: Slots, options: Options) -> tuple[Any, dict[str, Any]]:
        decay = options["weight_decay"]
        value = variable * _like(1 - _wide(options["lr"]) * decay, variable) if decay else variable
        return self._step(value, g, slots, options)


def _decayed(g: Any, variable: Variable, options: Options) -> Any:
    """The gradient, with the weight decay as a part of it."""
    return g + variable * options["weight_decay"] if options["weight_decay"] else g


def _wide(value: Any) -> Any:
    """A hyperparameter as a number, or a scalar tensor in float64."""
    return astype(_scalar(value), "float64") if isinstance(value, Node) else float(value)


def _like(value: Any, x: Node) -> Any:
    """A hyperparameter as a number, or a scalar tensor in the dtype of `x`, so that it doesn't widen it."""
    return astype(_scalar(value), x.dtype) if isinstance(value, Node) else float(value)


def _scalar(value: Node) -> Node:
    if value.ndim:
        raise ShapeError(f"a hyperparameter must be a number or a scalar tensor, got {value!r}")
    return value


# --------------------------------------------------------------------------------------------- gradient clipping


def clip_grad_norm(gradients: Sequence[Any], max_norm: Any) -> tuple[list[Any], Any]:
    """Gradients scaled down together so that their common Euclidean norm is at most `max_norm`, and that norm before.

    As torch's `clip_grad_norm_`, by the factor `min(1, max_norm / (norm + 1e-6))`; hand the result to
    `Optimizer.apply`.
    """
    nodes = [as_node(g) for g in gradients]
    if not nodes:
        raise ArgumentError("clip_grad_norm: there are no gradients")
    norm = sqrt(reduce(add, [sum_(square(g)) for g in nodes]))
    factor = minimum(max_norm / (norm + 1e-6), 1.0)
    return [g * astype(factor, g.dtype) for g in nodes], norm


def clip_grad_value(gradients: Sequence[Any], clip_value: float) -> list[Any]:
    """Gradients with every element limited to [-clip_value, clip_value]."""
    return [clip(as_node(g), -clip_value, clip_value) for g in gradients]
