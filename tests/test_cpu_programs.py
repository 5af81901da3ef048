"""Random programs as native code: they mean what the reference says, whatever the threads and the width of vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from random_checks import disagreement
from random_graphs import Builder, Case, Numbers, cases, random_case
from random_starts import STARTS, whole_case, with_gradients
from test_random_graphs import expected_results, for_random, ran

from graphc.passes.pipeline import run_pipeline
from graphc.runtime.cpu import driver
from graphc.runtime.cpu.host import narrowed, this_host
from graphc.runtime.cpu.target import CpuTarget

WIDTHS = [width for width in (64, 32, 16) if width <= this_host().vector_bytes]


@pytest.fixture(autouse=True)
def cut_finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide commands among threads as if all were costly: one unit of work is a ticket."""
    for name in ("SHORT_NS", "PARALLEL_NS"):
        monkeypatch.setattr(driver, name, 0)
    monkeypatch.setattr(driver, "TICKET_NS", 1)


def check(case: Case, width: int = 64) -> None:
    """Assert that a case is right as native code, and has the same bits on any number of threads."""
    program = run_pipeline(case.program, CpuTarget.info, training=case.training)
    found = []
    for threads in (1, 2, 4):
        target = CpuTarget(threads, host=narrowed(this_host(), width))
        values = {leaf: array.copy() for leaf, array in case.values.items()}  # variables are updated in place
        found.append(ran(target.compile(program), replace(case, values=values)))
    for values in found[1:]:
        assert [a.tobytes() for a in values] == [a.tobytes() for a in found[0]]
    keys = [*range(len(program.outputs)), *[variable for variable, _ in program.updates]]
    values = dict(zip(keys, found[0], strict=True))
    for key, (root, wanted) in expected_results(case).items():
        wrong = disagreement(values[key], case, root, wanted)
        assert not wrong, wrong


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("finish", [Builder.case, with_gradients], ids=lambda finish: finish.__name__)
def test_random_programs(finish, width):
    for_random(cases(16, finish), width, lambda case: check(case, width))


@pytest.mark.parametrize("part", range(4))
def test_each_op_in_random_company(part):
    for name in sorted(STARTS)[part::4]:
        for number in range(2):
            check(random_case(Numbers(number), 4, STARTS[name], whole_case))
            check(random_case(Numbers(number), 4, STARTS[name], with_gradients))
