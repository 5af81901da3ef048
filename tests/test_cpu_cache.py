"""Compiled code on disk and in memory: found again, never trusted blindly, and never in the way of a run."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from graphc.errors import GraphcError, InternalError
from graphc.runtime import cache
from graphc.runtime.cache import MAGIC, ObjectCache, default_directory
from graphc.runtime.cpu import emitting, jit
from graphc.runtime.cpu.host import this_host

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs modes and owners of files")
KEY = "0" * 64


def module(number: int, name: str = "phase0") -> str:
    """A module whose function returns its argument plus a number."""
    return f"define i64 @{name}(i64 %x) nounwind {{\n  %y = add i64 %x, {number}\n  ret i64 %y\n}}\n"


def result(code: jit.Code, x: int, name: str = "phase0") -> int:
    """What the function returns; `code` keeps it in memory."""
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address(name))(x))


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache of the test's own, which `load` uses."""
    made = ObjectCache(tmp_path / "graphc")
    monkeypatch.setattr(jit, "object_cache", lambda: made)
    return made


def folder_of(objects: ObjectCache) -> Path:
    assert objects.directory is not None
    return objects.directory


def names_of_files(objects: ObjectCache) -> list[int]:
    """How many names each file has, which must all be there."""
    files = Counter(file.stat().st_ino for file in folder_of(objects).iterdir())
    assert files == {file.stat().st_ino: file.stat().st_nlink for file in folder_of(objects).iterdir()}
    return sorted(files.values())


# ------------------------------------------------------------------------------------------- files


def test_what_was_put_is_found_by_later_processes(tmp_path: Path) -> None:
    ObjectCache(tmp_path / "a" / "graphc").put(KEY, b"code")
    other = ObjectCache(tmp_path / "a" / "graphc")
    assert other.get(KEY) == b"code"
    assert other.get("1" * 64) is None
    info = other.info()
    assert (info.entries, info.hits, info.misses, info.disabled) == (1, 1, 1, None)
    assert info.bytes == len(MAGIC) + 32 + 4
    assert info.directory == str(tmp_path / "a" / "graphc")


@pytest.mark.parametrize("links", [True, False])
def test_one_file_has_several_keys(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    keys = [str(k) * 64 for k in range(3)]
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for data in (b"old", b"code of three"):
        objects.put(keys[0], data, *keys[1:])
        assert [objects.get(key) for key in keys] == [data] * 3
        assert names_of_files(objects) == ([3] if links else [1, 1, 1])
    info = objects.info()
    assert (info.entries, info.disabled) == (3, None)
    assert (len(MAGIC) + 32 + 13) * (1 if links else 3) - info.bytes in range(3), "each has its share"
    objects.put(keys[1], b"another")
    assert [objects.get(key) for key in keys] == [b"code of three", b"another", b"code of three"]


@POSIX
def test_only_the_user_can_read_and_write_it(objects: ObjectCache) -> None:
    objects.put(KEY, b"code")
    assert folder_of(objects).stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder_of(objects).iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:-1] + b"X",
        lambda content: b"x" + content[1:],
        lambda content: content.replace(MAGIC, b"graphc object 0\n"),
        lambda content: content[:20] + b"????" + content[24:],
        lambda content: b"#!/bin/sh\n" * 10,
    ],
)
def test_a_damaged_file_counts_as_missing(objects: ObjectCache, damage: object) -> None:
    objects.put(KEY, b"code")
    (file,) = folder_of(objects).iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert objects.get(KEY) is None
    objects.put(KEY, b"code")
    assert objects.get(KEY) == b"code"


@POSIX
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "graphc").mkdir()
    (tmp_path / "graphc").chmod(mode)
    objects = ObjectCache(tmp_path / "graphc")
    objects.put(KEY, b"code")
    assert objects.get(KEY) is None
    assert objects.info().disabled == (
        f"{str(tmp_path / 'graphc')!r} is open to other users (mode {mode:04o}); chmod 700 it"
    )
    assert list((tmp_path / "graphc").iterdir()) == []


@POSIX
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ObjectCache(tmp_path / "graphc").put(KEY, b"code")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    objects = ObjectCache(tmp_path / "graphc")
    assert objects.get(KEY) is None
    assert "not to 12345, who runs this" in str(objects.info().disabled)


@POSIX
def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "graphc").symlink_to(tmp_path / "real")
    objects = ObjectCache(tmp_path / "graphc")
    objects.put(KEY, b"code")
    assert "is a link" in str(objects.info().disabled)
    assert list((tmp_path / "real").iterdir()) == []


def test_where_no_folder_can_be_made_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    objects = ObjectCache(tmp_path / "file" / "graphc")
    objects.put(KEY, b"code")
    assert objects.get(KEY) is None
    info = objects.info()
    assert "can't be made" in str(info.disabled) and (info.entries, info.misses) == (0, 1)
    objects.clear()


def test_a_disk_that_is_full_or_read_only_disables_it(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", fail)
    objects.put(KEY, b"code")
    assert objects.info().disabled == f"{str(objects.directory)!r} can't be written to: Read-only file system"
    assert list(folder_of(objects).iterdir()) == []


def test_an_interrupted_write_leaves_nothing(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        objects.put(KEY, b"code")
    assert list(folder_of(objects).iterdir()) == []


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    objects = ObjectCache(tmp_path / "graphc", max_bytes=10_000)
    for k in range(9):
        objects.put(f"{k}", b"x" * 1000)
        os.utime(tmp_path / "graphc" / f"{k}.o", (k + 1, k + 1))
    assert objects.get("0") is not None
    objects.put("9", b"x" * 1000)
    kept = {k for k in range(10) if (tmp_path / "graphc" / f"{k}.o").exists()}
    assert objects.info().bytes <= 7500
    assert {0, 8, 9} <= kept and not {1, 2} & kept


def test_a_file_in_the_place_of_another_counts_as_missing(objects: ObjectCache) -> None:
    objects.put("0", b"code")
    (folder_of(objects) / "0.o").rename(folder_of(objects) / "1.o")
    assert objects.get("1") is None


def test_clearing(objects: ObjectCache) -> None:
    for k in range(3):
        objects.put(str(k), b"code")
    objects.clear()
    assert objects.info()[:2] == (0, 0)
    assert objects.get("0") is None
    objects.put("0", b"code")
    assert objects.get("0") == b"code"


def test_a_file_that_goes_while_files_are_counted(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(5):
        objects.put(str(k), b"code")
    (size,) = {file.stat().st_size for file in folder_of(objects).iterdir()}

    @contextmanager
    def listed(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            found = list(entries)
        os.unlink(found[1])
        yield found

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", listed)
    assert objects.info()[:2] == (4, 4 * size)


@pytest.mark.parametrize("others", [(), ("1", "2")])
def test_clearing_while_a_file_is_written(
    objects: ObjectCache, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    replace = os.replace

    def cleared(*names: str) -> None:
        objects.clear()
        replace(*names)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "replace", cleared)
        objects.put("0", b"code", *others)
    assert objects.info().disabled is None and not list(folder_of(objects).iterdir())
    objects.put("0", b"code")
    assert objects.get("0") == b"code"


def test_a_folder_that_is_gone_disables_it(objects: ObjectCache) -> None:
    folder_of(objects).rmdir()
    objects.put("0", b"code")
    assert str(objects.disabled).endswith("can't be written to: No such file or directory")


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "graphc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_directory() == tmp_path / ".cache" / "graphc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_directory() == tmp_path / ".cache" / "graphc"

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert default_directory() is None
    assert ObjectCache(None).info().disabled == "there is no home folder"


# ------------------------------------------------------------------------------------------- loading


def test_code_is_compiled_once_and_loaded_once(objects: ObjectCache) -> None:
    texts, symbols = [module(k) for k in range(5)], [["phase0"]] * 5
    codes = jit.load(texts, symbols)
    assert [result(code, 100) for code in codes] == [100, 101, 102, 103, 104]
    assert (objects.info().entries, objects.hits, objects.misses) == (5, 0, 5)
    again = jit.load([*texts, texts[0]], [*symbols, symbols[0]])
    assert again == [*codes, codes[0]], "it is in memory"
    assert (objects.hits, objects.misses) == (0, 5)
    del codes, again
    codes = jit.load(texts[:2], symbols[:2])
    assert (objects.hits, objects.misses) == (2, 5), "it was unloaded, and is on disk"
    assert [result(code, 0) for code in codes] == [0, 1]


def test_damaged_code_is_compiled_again(objects: ObjectCache) -> None:
    codes = jit.load([module(7)], [["phase0"]])
    del codes
    (file,) = folder_of(objects).iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    (code,) = jit.load([module(7)], [["phase0"]])
    assert result(code, 1) == 8
    assert (objects.hits, objects.misses) == (0, 2)


def test_without_a_cache_code_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ObjectCache(None)
    monkeypatch.setattr(jit, "object_cache", lambda: objects)
    assert result(jit.load([module(9)], [["phase0"]])[0], 1) == 10
    assert objects.misses == 1


def test_functions_of_one_module_keep_to_themselves(objects: ObjectCache) -> None:
    text = (
        "define internal i64 @work(i64 %x) {\n  ret i64 5\n}\n"
        "define i64 @worker(i64 %x) {\n  %y = call i64 @work(i64 %x)\n  ret i64 %y\n}\n"
        "define i64 @workers(i64 %x) {\n  %y = call i64 @worker(i64 %x)\n  %z = add i64 %y, %x\n  ret i64 %z\n}\n"
    )
    one, other = jit.load([text, text.replace("ret i64 5", "ret i64 6")], [["worker", "workers"]] * 2)
    assert [result(code, 1, "workers") for code in (one, other)] == [6, 7]


def test_functions_of_a_library_are_loaded_when_called(objects: ObjectCache) -> None:
    made: list[str] = []

    def library(name: str) -> str:
        made.append(name)
        calls = {"twice.i64": "thrice.i64", "thrice.i64": "labs"}[name]
        head = f"declare i64 @{calls}(i64)\n"
        return f"{head}define i64 @{name}(i64 %x) {{\n  %y = call i64 @{calls}(i64 %x)\n  ret i64 %y\n}}\n"

    caller = library("twice.i64").replace("twice.i64", "phase0").replace("thrice.i64", "twice.i64")
    made.clear()
    (code,) = jit.load([caller], [["phase0"]], library)
    assert made == ["twice.i64", "thrice.i64"]
    assert result(code, -3) == 3
    assert jit.load([caller], [["phase0"]], library) == [code]
    assert len(made) == 2


def test_compiling_in_parallel_makes_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    host, texts = this_host(), {str(k): module(k) for k in range(20)}
    wanted = {key: jit.compiled(text, host) for key, text in texts.items()}
    for threads in (1, 4):
        monkeypatch.setattr(jit, "available_threads", lambda threads=threads: threads)
        assert compiled_together(texts) == wanted
    for lookup in (emitting.short_call, emitting.long_call):
        monkeypatch.setattr(emitting, lookup.__name__, lookup.__wrapped__)
    monkeypatch.setattr(emitting, "unlocked", lambda function: function)
    assert compiled_together(texts) == wanted, "as where llvmlite's lock isn't as we know it"


def test_without_threads_who_asks_for_modules_compiles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    host, texts = this_host(), {str(k): module(k) for k in range(3)}
    monkeypatch.setattr(jit, "available_threads", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert compiled_together(texts) == {key: jit.compiled(text, host) for key, text in texts.items()}


def test_small_modules_have_one_object_file_that_is_kept_once(
    objects: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    (alone,) = jit.load([module(0)], [["phase0"]])
    texts, symbols = [module(k) for k in range(1, 9)], [["phase0"]] * 8
    codes = jit.load(texts, symbols)
    assert [result(code, 100) for code in [alone, *codes]] == [*range(100, 109)]
    assert (objects.info().entries, objects.misses) == (9, 9)
    assert names_of_files(objects) == [1, 8]
    del codes
    assert [result(code, 100) for code in jit.load(texts[3:6], symbols[3:6])] == [104, 105, 106]
    assert (objects.hits, objects.misses) == (3, 9)


@pytest.mark.parametrize("attributes", ["", "#1 "], ids=["others", "glue"])
def test_what_nobody_asks_for_may_call_what_is_missing(
    objects: ObjectCache, monkeypatch: pytest.MonkeyPatch, attributes: str
) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    text = (
        "declare i64 @work.WHICH(i64)\n"
        f"define i64 @phase0(i64 %x) {attributes}{{\n  %y = call i64 @work.WHICH(i64 %x)\n  ret i64 %y\n}}\n"
        f"{jit.hot_loops.GLUE if attributes else ''}\n"
    )
    modules = [text.replace("WHICH", name) for name in ("one", "two", "three")]
    numbers = {"work.one": 1, "work.two": 2, "work.three": 3}

    def load(texts: list[str]) -> list[jit.Code]:
        asked.clear()
        return jit.load(texts, [["phase0"]] * len(texts), library)

    def library(name: str) -> str:
        asked.append(name)
        return module(numbers[name], name)

    asked: list[str] = []
    assert [result(code, 10) for code in load(modules)] == [11, 12, 13]
    assert names_of_files(objects) == [3, 3], "those that call are in one file, and the functions in another"
    assert [result(code, 10) for code in load(modules[1:2])] == [12] and asked == ["work.two"]
    assert (objects.hits, objects.misses) == (2, 6)


def test_functions_that_two_object_files_have(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    one, two, three, four = [module(k) for k in range(4)]
    key = jit.unit_of(two, ["phase0"]).key
    jit.load([one, two, three], [["phase0"]] * 3)
    (folder_of(objects) / f"{key}.o").unlink()
    jit.load([four, two], [["phase0"]] * 2)
    codes = jit.load([one, two, four], [["phase0"]] * 3)
    assert objects.misses == 5, "the last are from both files, of which each has the second"
    assert [result(code, 5) for code in codes] == [5, 6, 8]


def test_an_object_file_that_is_gone_is_made_again(objects: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    texts, symbols = [module(k) for k in range(4)], [["phase0"]] * 4
    jit.load(texts, symbols)
    max(folder_of(objects).iterdir(), key=lambda file: file.stat().st_size).unlink()
    codes = jit.load(texts, symbols)
    assert [result(code, 5) for code in codes] == [5, 6, 7, 8]


@pytest.mark.parametrize("replaced", [b"in the object file of another", b"alone"])
def test_an_object_file_without_the_module_counts_as_missing(
    objects: ObjectCache, monkeypatch: pytest.MonkeyPatch, replaced: bytes
) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    texts, symbols = [module(k) for k in range(4)], [["phase0"]] * 4
    jit.load(texts, symbols)
    largest = max(folder_of(objects).iterdir(), key=lambda file: file.stat().st_size).stem
    if replaced == b"alone":
        (first,) = [text for text in texts if jit.unit_of(text, ["phase0"]).key == largest]
        replaced = jit.compiled(jit._renamed(first, jit._prefix(largest)), this_host())
    objects.put(largest, replaced)  # as another process does that compiled it at the same time in other company
    codes = jit.load(texts, symbols)
    assert [result(code, 5) for code in codes] == [5, 6, 7, 8]


def test_modules_in_company_keep_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    text = (
        "declare i64 @labs(i64)\n"
        "@table = private constant [1 x i64] [i64 VALUE]\n"
        "define internal i64 @work() #0 {\n  %x = load i64, ptr @table\n  ret i64 %x\n}\n"
        "define i64 @NAME(i64 %x) #0 {\n  %y = call i64 @work()\n  %z = call i64 @labs(i64 %x)\n"
        "  %s = add i64 %y, %z\n  ret i64 %s\n}\n"
        "attributes #0 = { nounwind }\n"
    )
    compiler = jit.Compiler(this_host(), 1 << 20)
    for k in range(3):
        compiler.begin(str(k), text.replace("VALUE", str(10 * k)).replace("NAME", f"f{k}"), "company")
    compiler.begin("large", text.replace("VALUE", "70").replace("NAME", "f3"))
    images = [compiler.take(key) for key in ("0", "1", "2", "large")]
    assert images[0] is images[1] is images[2] is not images[3], "one without company is alone"
    code = jit.Code([images[0], images[3]], ["f0", "f1", "f2", "f3"])
    assert [result(code, -5, f"f{k}") for k in range(4)] == [5, 15, 25, 75]


def test_the_module_in_company_is_told_that_llvm_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_threads", lambda: 1)
    compiler = jit.Compiler(this_host(), 1 << 20)
    for key, text in (("a", module(1)), ("b", "define nonsense\n"), ("c", module(2).replace("phase0", "phase1"))):
        compiler.begin(key, text, "company")
    assert compiler.take("a") == jit.compiled(module(1), this_host())
    assert compiler.take("c") != compiler.take("a")
    with pytest.raises(InternalError, match="generated code"):
        compiler.take("b")


def compiled_together(texts: dict[str, str]) -> dict[str, bytes]:
    compiler = jit.Compiler(this_host())
    for key, text in texts.items():
        compiler.begin(key, text)
    return {key: compiler.take(key) for key in texts}


def test_several_threads_load_at_once(objects: ObjectCache) -> None:
    found: dict[int, list[int]] = {}

    def use(k: int) -> None:
        texts = [module(number) for number in range(k, k + 6)]
        found[k] = [result(code, 0) for code in jit.load(texts, [["phase0"]] * 6)]

    users = [threading.Thread(target=use, args=(k,)) for k in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert found == {k: list(range(k, k + 6)) for k in range(4)}


@pytest.mark.parametrize("text", ["define nonsense", "define i64 @f() {\n  %x = add i64 1, 2.0\n  ret i64 %x\n}"])
def test_what_llvm_refuses_is_an_internal_error(objects: ObjectCache, text: str) -> None:
    with pytest.raises(InternalError, match="generated code"):
        jit.load([text], [[]])


def test_a_system_that_refuses_generated_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("memory can't be executable")

    monkeypatch.setattr(llvm, "check_jit_execution", refuse)
    with pytest.raises(GraphcError, match="refuses memory for generated code: memory can't be executable"):
        jit._engine.__wrapped__()


def test_the_next_process_finds_the_code(tmp_path: Path) -> None:
    code = (
        "from graphc.runtime.cache import cache_info, clear_cache\n"
        "from graphc.runtime.cpu.driver import driver\n"
        "driver()\n"
        "print(cache_info()[0], *cache_info()[2:4], cache_info().disabled)"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout.strip() for run in runs] == ["1 0 1 None", "1 1 0 None"]


def test_the_cache_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.object_cache.cache_clear()
    try:
        cache.object_cache().put(KEY, b"code")
        assert cache.cache_info().entries == 1
        cache.clear_cache()
        assert cache.cache_info().entries == 0
    finally:
        cache.object_cache.cache_clear()
