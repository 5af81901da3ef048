"""The driver: commands in order, each unit once, and where it stops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cpu_phases import COSTLY, command, ran

from graphc.runtime.cpu.driver import (
    GUARD,
    MAX_TICKETS,
    PARALLEL_NS,
    SHORT_NS,
    Command,
    CommandList,
    Scratch,
    assembly,
    run,
    tickets_of,
)
from graphc.runtime.cpu.host import HOSTS
from graphc.runtime.cpu.jit import compiled
from graphc.runtime.cpu.pool import Pool


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, Pool]]:
    found = {threads: Pool(threads) for threads in (1, 2, 3, 5)}
    yield found
    for pool in found.values():
        pool.close()


@pytest.mark.parametrize("cost", [1, SHORT_NS])
def test_commands_run_in_order_each_with_its_arguments(cost: int) -> None:
    y = np.zeros(100, np.int64)
    assert ran([command("note", 10 * k, cost=cost) for k in range(50)], y) == 0
    assert y[0] == 50
    assert y[1:51].tolist() == [10 * k for k in range(50)]


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("units", [0, 1, 2, 7, 255, 256, 257, 1000, 4099])
def test_every_unit_is_done_once(pools: dict[int, Pool], threads: int, units: int) -> None:
    y = np.zeros(units + 1, np.int64)
    for _ in range(5):
        assert ran([command("count", units=units, cost=COSTLY)], y, pools[threads]) == 0
    assert y.tolist() == [5] * units + [0]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_commands_cheap_and_costly_see_what_came_before(pools: dict[int, Pool], threads: int) -> None:
    pattern = [command("count", units=64, cost=cost) for cost in (1, 1, COSTLY, COSTLY, 1, 20_000)]
    y = np.zeros(64, np.int64)
    assert ran(pattern * 500, y, pools[threads]) == 0
    assert y.tolist() == [len(pattern) * 500] * 64


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("cost", [1, SHORT_NS, COSTLY])
@pytest.mark.parametrize("unit", [0, 17, 63])
def test_a_run_stops_at_the_command_that_fails_and_names_it(
    pools: dict[int, Pool], threads: int, cost: int, unit: int
) -> None:
    commands = [
        command("count", units=4),
        command("fail", 64, units=64, cost=cost),
        command("fail", unit, units=64, cost=cost),
        command("count", units=4),
    ]
    y = np.zeros(4, np.int64)
    assert ran(commands, y, pools[threads]) == 3
    assert y.tolist() == [1] * 4
    assert ran(commands[:2], y, pools[threads]) == 0, "a failure is forgotten with its run"


def test_no_commands() -> None:
    commands = CommandList([])
    assert run(commands, 0, Scratch(1)) == 0
    assert len(commands) == 0 and commands.short and not commands.parallel


@pytest.mark.parametrize("units", [0, 1, 2, 3, 100, 255, 256, 257, 10**6])
@pytest.mark.parametrize("cost", [0, PARALLEL_NS - 1, PARALLEL_NS, 77_777, 10**9])
def test_tickets_cover_all_units_and_none_is_empty(units: int, cost: int) -> None:
    grain, tickets = tickets_of(units, cost)
    if tickets:
        assert cost >= PARALLEL_NS and 2 <= tickets <= MAX_TICKETS
        assert (tickets - 1) * grain < units <= tickets * grain
    else:
        assert grain == units and (cost < PARALLEL_NS or units < 2)


def test_a_plan_is_short_by_what_all_of_it_costs_and_is_divided_by_what_a_command_costs() -> None:
    cheap, costly = command("count", units=64, cost=PARALLEL_NS - 1), command("count", units=64, cost=PARALLEL_NS)
    many = SHORT_NS // PARALLEL_NS + 1
    assert CommandList([costly]).short and CommandList([costly]).parallel
    assert not CommandList([costly] * many).short and CommandList([costly] * many).parallel
    assert not CommandList([cheap] * many).short and not CommandList([cheap] * many).parallel


def test_a_list_keeps_a_copy_of_the_arguments() -> None:
    args = np.array([7], np.int64)
    commands = CommandList([Command(command("note").address, args, 1, 1, "note")])
    args[0] = 8
    y = np.zeros(2, np.int64)
    ran(commands, y)
    assert y.tolist() == [1, 7]


def test_each_worker_has_memory_of_its_own_with_a_gap_before_and_after_it(pools: dict[int, Pool]) -> None:
    scratch, pool = Scratch(3, 1000), pools[3]
    first = scratch.address + 64
    stride = 4096 + GUARD
    y = np.zeros(200, np.int64)
    for _ in range(20):
        assert ran([command("own", units=200, cost=COSTLY)], y, pool, scratch) == 0
        assert set(y.tolist()) <= {first, first + stride, first + 2 * stride}
    assert first % 64 == 0
    owner = scratch.memory.base
    assert first - owner.ctypes.data >= GUARD and owner.ctypes.data + owner.nbytes - (first + 2 * stride) >= stride
    before = scratch.address
    scratch.reserve(900)
    assert scratch.address == before
    scratch.reserve(5000)
    assert scratch.nbytes == 5000
    assert ran([command("own", units=2, cost=1)], y, pool, scratch) == 0
    assert y[0] == scratch.address + 64


def test_scratch_for_too_few_workers_is_refused(pools: dict[int, Pool]) -> None:
    with pytest.raises(AssertionError, match="scratch memory of its own"):
        ran([command("count", units=64, cost=COSTLY)], np.zeros(64, np.int64), pools[5], Scratch(2))


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_the_driver_is_made_for_every_host(host: object) -> None:
    assert host in HOSTS.values()
    assert compiled(assembly(host), host)  # type: ignore[arg-type]
