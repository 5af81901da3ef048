"""Pools of threads: they help, sleep and wake, and survive forks, closing, contention and the interpreter's exit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest
from cpu_phases import COSTLY, command, helpers, ran
from state_testing import PATIENT_S

from graphc.errors import ArgumentError
from graphc.runtime.cpu import pool as pools
from graphc.runtime.cpu.driver import (
    GUARD,
    MISSED,
    PAGE,
    PATIENCE,
    SHORT_NS,
    SIGNAL,
    SLEEPERS,
    WAKE_NS,
    CommandList,
    Scratch,
    driver,
)
from graphc.runtime.cpu.host import available_threads, cgroup_quotas
from graphc.runtime.cpu.pool import Pool, shared_pool

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs affinity masks")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(params=[True, False], ids=["futex", "condition"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    made = Pool(3, futex=request.param)
    yield made
    made.close()


def counted(pool: Pool, times: int = 1) -> list[int]:
    """What must be `times`, 100 times."""
    y = np.zeros(100, np.int64)
    for _ in range(times):
        assert ran([command("count", units=100, cost=COSTLY)], y, pool) == 0
    return y.tolist()


def met(pool: Pool, wanted: int) -> bool:
    """Whether this many threads worked at one command at the same time."""
    return ran([command("meet", wanted, units=wanted, cost=COSTLY)], np.zeros(1, np.int64), pool) == 0


def test_all_threads_take_part(pool: Pool) -> None:
    for _ in range(20):
        assert met(pool, 3)
    assert pool.workers == 2


def test_each_thread_begins_at_its_own_part_of_every_command(pool: Pool) -> None:
    """So it finds in its cache what it wrote there in the command before."""
    for _ in range(20):
        scratch, y = Scratch(3, 8), np.zeros(4, np.int64)
        assert ran([command("meet_own", 3, units=3, cost=COSTLY)], y, pool, scratch) == 0
        assert [(at - scratch.address) // (PAGE + GUARD) for at in y[1:].tolist()] == [0, 1, 2]


def test_threads_that_sleep_are_woken(pool: Pool) -> None:
    for _ in range(5):
        time.sleep(0.02)  # far longer than they spin
        assert met(pool, 3)


def test_a_plan_that_is_soon_over_wakes_threads_only_if_others_like_it_came_before(pool: Pool) -> None:
    assert met(pool, 3)
    words = pool.ready().memory.view(np.int32)
    while words[SLEEPERS // 4] < 2:
        time.sleep(0.001)
    words[MISSED // 4] = 0
    y, wakes = np.zeros(100, np.int64), []
    for _ in range(PATIENCE):
        before = int(words[SIGNAL // 4])
        assert ran([command("count", units=100, cost=WAKE_NS - 1)], y, pool) == 0
        wakes.append(int(words[SIGNAL // 4]) - before)
    assert wakes == [0] * (PATIENCE - 1) + [1]
    assert y.tolist() == [PATIENCE] * 100


def test_threads_help_with_a_short_plan_too_which_keeps_the_lock(pool: Pool) -> None:
    """Where threads sleep by a condition of Python, they can't wake without that lock: the caller does it alone."""
    words = pool.ready().memory.view(np.int32)
    phase = "meet" if pool._futex and driver().wait is not None else "count"
    commands = CommandList([command(phase, 3, units=3, cost=SHORT_NS - 1)])
    assert commands.short
    for _ in range(20):
        words[MISSED // 4] = PATIENCE - 1  # the next one wakes them
        assert ran(commands, np.zeros(3, np.int64), pool) == 0


def test_the_caller_sleeps_until_a_slow_worker_is_done(pool: Pool) -> None:
    """One of the two tickets waits for a third thread, which comes late."""
    y = np.zeros(1, np.int64)
    late = threading.Timer(0.05, lambda: np.add(y, 1, out=y))
    late.start()
    assert ran([command("meet", 3, units=2, cost=COSTLY)], y, pool) == 0
    late.join()


def test_other_python_threads_run_while_a_plan_that_is_not_short_does() -> None:
    y = np.zeros(1, np.int64)
    late = threading.Timer(0.02, lambda: np.add(y, 1, out=y))
    late.start()
    assert ran([command("meet", 2, units=1, cost=COSTLY)], y) == 0
    late.join()


def test_threads_start_with_the_first_run_that_can_use_them(pool: Pool) -> None:
    y = np.zeros(100, np.int64)
    ran([command("count", units=100, cost=1)], y, pool)
    assert pool.workers == 0
    ran([command("count", units=100, cost=COSTLY)], y, pool)
    assert pool.workers == 2


def test_a_closed_pool_has_no_threads_and_starts_new_ones_when_needed(pool: Pool) -> None:
    assert counted(pool) == [1] * 100
    pool.close()
    assert pool.workers == 0
    pool.close()
    assert met(pool, 3)
    assert pool.workers == 2


def test_threads_end_with_their_pool() -> None:
    before = helpers()
    pool = Pool(4)
    assert counted(pool) == [1] * 100
    assert len(helpers() - before) == 3
    del pool
    assert helpers() <= before


def test_closing_while_it_is_used(pool: Pool) -> None:
    found: list[list[int]] = []
    user = threading.Thread(target=lambda: found.append(counted(pool, 2000)))
    user.start()
    while user.is_alive():
        pool.close()
    user.join()
    assert found == [[2000] * 100]


def test_concurrent_runs_of_one_pool_are_all_right(pool: Pool) -> None:
    """One has the workers, the others run on their own threads."""
    found: dict[int, list[int]] = {}
    users = [threading.Thread(target=lambda k=k: found.update({k: counted(pool, 300)})) for k in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert found == {k: [300] * 100 for k in range(4)}


def test_runs_of_several_pools_at_once() -> None:
    found: dict[int, list[int]] = {}
    pools = [Pool(2), Pool(2), Pool(3)]
    users = [threading.Thread(target=lambda k=k, p=p: found.update({k: counted(p, 200)})) for k, p in enumerate(pools)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for pool in pools:
        pool.close()
    assert found == {k: [200] * 100 for k in range(3)}


def test_a_busy_machine_with_more_threads_than_cores() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    pool = Pool(2 * available_threads() + 1)
    try:
        assert counted(pool, 200) == [200] * 100
    finally:
        pool.close()
        for process in busy:
            process.kill()
            process.wait()


@FORK
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("state", ["unused", "used"])
def test_a_forked_child_has_threads_of_its_own(pool: Pool, state: str) -> None:
    if state == "used":
        assert met(pool, 3)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if pool.workers == 0 and met(pool, 3) and counted(pool, 20) == [20] * 100 else 2
            pool.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert met(pool, 3)


def test_sessions_of_as_many_threads_share_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_shared", WeakValueDictionary())  # sessions of other tests may not be collected yet
    one, other = shared_pool(3), shared_pool(3)
    assert one is other and one is not shared_pool(2)
    assert shared_pool().threads == available_threads()
    assert counted(one) == [1] * 100
    del one, other
    assert shared_pool(3).workers == 0, "it ended with its last user"


def test_the_number_of_threads_must_be_positive() -> None:
    with pytest.raises(ArgumentError, match="threads must be a positive int, got 0"):
        Pool(0)


def test_bits_are_the_same_for_any_number_of_threads() -> None:
    """What each call does is fixed by units and cost; here, the ranges that calls were made with."""
    commands = CommandList([command("own", units=1000, cost=COSTLY)])
    starts = []
    for threads in (2, 3, 5):
        pool, y = Pool(threads), np.zeros(1000, np.int64)
        ran(commands, y, pool)
        pool.close()
        starts.append(np.flatnonzero(y).tolist())
    assert len(starts[0]) > 100
    assert starts[0] == starts[1] == starts[2]


# ------------------------------------------------------------------------------------------- other processes


def output(code: str) -> str:
    """What a new interpreter prints."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-W", "error", "-c", head + textwrap.dedent(code)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENT_S)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.strip()


@pytest.mark.parametrize(
    "last", ["", "time.sleep(0.05)", "threading.Thread(target=lambda: counted(pool, 200)).start()"]
)
@pytest.mark.parametrize("futex", [True, False], ids=["futex", "condition"])
def test_the_interpreter_exits_cleanly(last: str, futex: bool) -> None:
    code = f"""
        import threading, time
        from test_cpu_threads import Pool, counted
        pool = Pool(3, futex={futex})
        print(counted(pool) == [1] * 100)
        {last}
    """
    assert output(code) == "True"


@LINUX
def test_a_process_uses_no_more_threads_than_its_affinity_allows() -> None:
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from test_cpu_threads import Pool, counted
        pool = Pool()
        print(pool.threads, counted(pool) == [1] * 100, pool.workers)
    """
    assert output(code) == "1 True 0"


@pytest.mark.parametrize(
    ("membership", "files", "quotas"),
    [
        ("0::/", {"cpu.max": "max 100000"}, []),
        ("0::/", {"cpu.max": "150000 100000"}, [1.5]),
        ("0::/", {"cpu.max": ""}, []),
        ("0::/", {"cpu.max": "nonsense 0"}, []),
        ("0::/", {"cpu.max": "100000 0"}, []),
        ("0::/user/mine", {"user/cpu.max": "200000 100000", "user/mine/cpu.max": "50000 100000"}, [2.0, 0.5]),
        ("0::/elsewhere/mine", {"cpu.max": "200000 100000"}, [2.0]),
        (
            "4:memory:/\n3:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
            [3.0],
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("2:cpuset:/\n0::/", {"cpu.max": "100000 100000", "cpuset/cpu.max": "1 100000"}, [1.0]),
        ("", {}, []),
    ],
)
def test_the_quotas_of_control_groups_count(
    tmp_path: Path, membership: str, files: dict[str, str], quotas: list[float]
) -> None:
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    assert cgroup_quotas(tmp_path / "self", tmp_path / "groups") == quotas
    assert cgroup_quotas(tmp_path / "missing", tmp_path) == []
