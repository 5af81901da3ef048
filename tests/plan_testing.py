"""What the tests of kernels and plans share: programs, their plans, and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphc.dims import symbol
from graphc.ir import Node, Program, toposort
from graphc.passes.decompose import decompose
from graphc.passes.plan import plan_kernels, plan_program
from graphc.plan import Plan, Step, SymbolicPlan
from graphc.runtime.plan import PlanTarget, run_plan
from graphc.target import TargetInfo
from graphc.verify_plan import verify_plan

TARGET = TargetInfo("test", epilogues=PlanTarget.info.epilogues, views=PlanTarget.info.views)
SIZES: Mapping[str, int] = {"batch": 6, "n": 5, "m": 7}
n, m, batch = symbol("n"), symbol("m"), symbol("batch")


def prepared(
    outputs: Sequence[Node], updates: Mapping[Any, Node] | None = None, info: TargetInfo = TARGET
) -> Program:
    """The program in primitives and what the target takes whole, otherwise as it was written."""
    changes = tuple((updates or {}).items())
    inputs = [node for node in toposort([*outputs, *(new for _, new in changes)]) if node.op.kind == "placeholder"]
    return decompose(Program(tuple(inputs), tuple(outputs), changes), info)


def kernels(*outputs: Node, updates: Mapping[Any, Node] | None = None, **limits: Any) -> SymbolicPlan:
    """The symbolic plan, for a target with these limits."""
    return plan_kernels(prepared(outputs, updates), replace(TARGET, **limits))


def planned(
    *outputs: Node, updates: Mapping[Any, Node] | None = None, disable: Sequence[str] = (), **sizes: int
) -> Plan:
    """The plan for `SIZES`, verified."""
    plan = plan_program(prepared(outputs, updates), TARGET, {**SIZES, **sizes}, disable=disable)
    verify_plan(plan)
    return plan


def ops(step: Step) -> list[str]:
    """The names of the ops that a step computes."""
    return [node.op.name for node in step.nodes]


def run(plan: Plan, values: Mapping[Node, Any], seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Outputs and new values of variables."""
    return run_plan(plan, values, {}, np.random.default_rng(seed))
