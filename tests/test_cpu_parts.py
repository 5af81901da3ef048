"""Modules that serve all plans: begun early, by other threads, and never in the way of who needs one."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from state_testing import output_of

from graphc.errors import InternalError
from graphc.runtime.cache import ObjectCache
from graphc.runtime.cpu import driver, jit, parts
from graphc.runtime.cpu.host import this_host
from graphc.runtime.cpu.parts import Batch, Part, begin


@pytest.fixture(autouse=True)
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache of the test's own."""
    made = ObjectCache(tmp_path / "graphc")
    monkeypatch.setattr(jit, "object_cache", lambda: made)
    monkeypatch.setattr(parts, "object_cache", lambda: made)
    return made


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What LLVM compiles from now on."""
    texts: list[str] = []
    emit = jit.emitted

    def noted(assembly: str, machine: Any) -> bytes:
        texts.append(assembly)
        return emit(assembly, machine)

    monkeypatch.setattr(jit, "emitted", noted)
    return texts


def part(number: int, text: str = "") -> Part:
    """Its function `f` returns the number."""
    return Part(f"test {number}", ("f",), lambda: text or f"define i64 @f() {{\nret i64 {number}\n}}\n")


def result(of: Part) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(of.code.address("f"))())


def test_what_was_begun_is_compiled_once(emitted: list[str]) -> None:
    first, second, third = made = [part(k) for k in (101, 102, 103)]
    begin([first])
    begin(made)
    assert None not in [one.begun for one in made] and first.begun is not second.begun is third.begun
    assert [result(one) for one in (third, first, second)] == [103, 101, 102]
    assert len(emitted) == 3
    begin(made)
    assert [one.begun for one in made] == [None] * 3 and len(emitted) == 3


def test_what_was_begun_is_found_by_who_loads_it_along_with_others(emitted: list[str]) -> None:
    early, late = part(111), part(112)
    begin([early])
    loading = jit.Loading()
    for one in (late, early):
        one.take(loading)
    codes = loading.codes()
    assert codes[1] is early.loaded and late.loaded is None
    assert result(late) == 112 and late.code is codes[0] and len(emitted) == 2


def test_what_is_kept_on_disk_is_at_hand(emitted: list[str]) -> None:
    assert not part(121).is_at_hand
    first = part(121)
    assert result(first) == 121 and first.is_at_hand
    jit._loaded.clear()
    again = part(121)
    assert again.is_at_hand and again.loaded is None
    begin([again])
    assert result(again) == 121 and len(emitted) == 1


def test_a_part_that_llvm_refuses_tells_each_who_asks_and_leaves_others_alone() -> None:
    broken, sound = part(131, "define nonsense\n"), part(132)
    begin([broken])
    begin([sound])
    for _ in range(2):
        with pytest.raises(InternalError, match="generated code"):
            _ = broken.code
        assert broken.loaded is None is broken.begun
    assert result(sound) == 132


def test_after_an_interrupt_each_part_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: jit.Compiler, key: str) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(jit, "available_threads", lambda: 1)  # so that nothing is compiled before it is asked for
    parts._compiler.cache_clear()
    together, alone = [part(141), part(142)], part(143)
    begin(together)
    begin([alone])
    with monkeypatch.context() as interrupts:
        interrupts.setattr(jit.Compiler, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = together[0].code
    assert [one.begun is None for one in (*together, alone)] == [True, True, False]
    assert [result(one) for one in (*together, alone)] == [141, 142, 143]
    parts._compiler.cache_clear()


def test_stopping_leaves_what_others_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    compiler = jit.Compiler(this_host())
    for key in ("a", "b"):
        compiler.begin(key, f"define i64 @{key}() {{\nret i64 0\n}}\n")
    compiler.stop(["a", "unknown"])
    assert b"b" in compiler.take("b")
    compiler.begin("a", "define i64 @again() {\nret i64 0\n}\n")
    compiler.begin("a", "define nonsense\n")
    assert b"again" in compiler.take("a"), "what is on its way isn't begun twice"


def test_threads_that_ask_at_the_same_time_get_one(emitted: list[str]) -> None:
    wanted, found = part(151), []
    asking = [threading.Thread(target=lambda: found.append(wanted.code)) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(emitted) == 1 and len(found) == 4 and len(set(map(id, found))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_compiles_what_its_parent_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    make = jit.Compiler._make

    def slow(self: jit.Compiler, *args: Any) -> None:
        begun.set()
        may_go_on.wait()
        make(self, *args)

    monkeypatch.setattr(jit, "available_threads", lambda: 2)
    monkeypatch.setattr(jit.Compiler, "_make", slow)
    parts._compiler.cache_clear()
    wanted = part(61)
    begin([wanted])
    begun.wait()
    child = os.fork()
    if not child:
        may_go_on.set()
        os._exit(result(wanted) if wanted.begun is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 61
    may_go_on.set()
    assert isinstance(wanted.begun, Batch) and result(wanted) == 61
    parts._compiler.cache_clear()


def test_a_process_may_end_while_parts_are_compiled(tmp_path: Path) -> None:
    script = """
from graphc.runtime.cpu import copies, driver, entry
from graphc.runtime.cpu.parts import begin
begin([driver.module(), copies.MODULE, entry.MODULE])
print("ends")
"""
    assert output_of(script, XDG_CACHE_HOME=str(tmp_path)) == "ends\n"


def test_code_that_can_be_run_is_required_without_the_driver(emitted: list[str], monkeypatch: Any) -> None:
    fresh = part(171)
    monkeypatch.setattr(driver, "module", lambda: fresh)
    driver.require_code.__wrapped__()
    assert fresh.loaded is None and len(emitted) == 1
