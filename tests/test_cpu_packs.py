"""Plans whose code is kept in one file: found by what the code depends on, never trusted where it is damaged."""

from __future__ import annotations

import gc as collector
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pack_testing import own_cache, unchanged_sources

import graphc as gc
from graphc.operands import primitive
from graphc.plan import Variant
from graphc.runtime.cache import ObjectCache
from graphc.runtime.cpu import jit, packs, target
from graphc.runtime.cpu.host import narrowed, this_host
from graphc.runtime.cpu.target import CpuExecutable

DEPTH = packs.MIN_KERNELS + 2


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache of the test's own, in a process that has loaded nothing."""
    return own_cache(tmp_path, (jit, packs), monkeypatch)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Variant]:
    """The kernels whose code was written since the list was cleared."""
    found: list[Variant] = []
    write = target.CpuTarget._written

    def noting(self: target.CpuTarget, variant: Variant) -> object:
        found.append(variant)
        return write(self, variant)

    monkeypatch.setattr(target.CpuTarget, "_written", noting)
    return found


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with unchanged_sources(monkeypatch):
        yield


def chain(depth: int = DEPTH, width: int = 5, act: Callable[..., gc.Node] = gc.tanh) -> np.ndarray:
    """What a chain of products of different sizes computes, in a graph and a session of their own."""
    with gc.Graph(), gc.Session(device="cpu") as session:
        h = x = gc.placeholder("x", shape=(3, width))
        for k in range(depth):
            h = act(h @ np.full((width + k, width + k + 1), 0.01, np.float32))
        return session.run(h, {x: np.linspace(0, 1, 3 * width, dtype=np.float32).reshape(3, width)})


def file_of(objects: ObjectCache) -> Path:
    assert objects.directory is not None
    (found,) = objects.directory.glob("*-plan.o")
    return found


def forget() -> None:
    """Let go of code that nothing uses, as the end of a process does."""
    collector.collect()
    jit._loaded.clear()


def test_a_plan_that_comes_again_needs_no_kernel_to_be_written(objects: ObjectCache, written: list[Variant]) -> None:
    first = chain()
    assert len(written) >= packs.MIN_KERNELS
    forget()
    written.clear()
    hits, misses = objects.hits, objects.misses
    assert chain().tobytes() == first.tobytes()
    assert written == []
    assert objects.hits > hits and objects.misses == misses


@pytest.mark.skipif("linux" not in this_host().triple, reason="object files have another format here")
def test_a_plan_is_kept_as_one_object_file(objects: ObjectCache) -> None:
    first = chain(act=lambda x: gc.tanh(x) + gc.sort(x, axis=-1))  # kernels that call functions of the library
    pack = packs.recalled(file_of(objects).name.removesuffix("-plan.o"))
    units = [unit for unit in pack.units if unit is not None]
    assert pack.whole and len(set(pack.objects.images.values())) == 1 and any(unit.calls for unit in units)
    assert all(unit.key in pack.objects.images for unit in units)
    assert not any(pack.loaded(unit).calls for unit in units)
    forget()
    assert chain(act=lambda x: gc.tanh(x) + gc.sort(x, axis=-1)).tobytes() == first.tobytes()


def test_a_plan_whose_object_files_cannot_be_merged_is_kept_as_they_are(
    objects: ObjectCache, written: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "merged", lambda images, aliases: None)
    first = chain()
    pack = packs.recalled(file_of(objects).name.removesuffix("-plan.o"))
    assert not pack.whole and len(set(pack.objects.images.values())) > packs.MIN_KERNELS // 2
    assert all(pack.loaded(unit) is unit for unit in pack.units if unit is not None)
    forget()
    written.clear()
    assert chain().tobytes() == first.tobytes() and written == []


def test_small_plans_are_not_kept(objects: ObjectCache) -> None:
    chain(depth=2)
    assert objects.directory is not None
    assert not list(objects.directory.glob("*-plan.o"))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:100] + b"\0" + data[101:], lambda data: b""]
)
def test_a_damaged_plan_is_written_again(
    objects: ObjectCache, written: list[Variant], damage: Callable[[bytes], bytes]
) -> None:
    first = chain()
    forget()
    written.clear()
    file = file_of(objects)
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert chain().tobytes() == first.tobytes()
    assert len(written) >= packs.MIN_KERNELS
    assert file_of(objects).read_bytes() == sound


def test_what_is_no_plan_counts_as_missing(objects: ObjectCache) -> None:
    objects.put("k-plan", b"no pickle")
    assert packs.recalled("k") == packs.EMPTY
    assert packs.recalled("other") == packs.EMPTY
    assert packs.recalled(None) == packs.EMPTY


def test_kernels_of_a_plan_that_was_found_serve_others(objects: ObjectCache, written: list[Variant]) -> None:
    first, longer = chain(), chain(DEPTH + 2)
    forget()
    for file in Path(objects.directory or "").iterdir():
        if file != min(Path(objects.directory or "").glob("*-plan.o"), key=lambda path: path.stat().st_size):
            file.unlink()
    with gc.Graph(), gc.Session(device="cpu") as session:
        x = gc.placeholder("x", shape=(3, 5))
        feed = {x: np.linspace(0, 1, 15, dtype=np.float32).reshape(3, 5)}
        levels = [x]
        for k in range(DEPTH + 2):
            levels.append(gc.tanh(levels[-1] @ np.full((5 + k, 6 + k), 0.01, np.float32)))
        written.clear()
        assert session.run(levels[DEPTH], feed).tobytes() == first.tobytes()
        assert written == []
        assert session.run(levels[-1], feed).tobytes() == longer.tobytes()


def variants_of(monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[Variant]:
    """The kernels of a chain."""
    plans: list[CpuExecutable] = []
    compile = target.CpuTarget.compile
    monkeypatch.setattr(
        target.CpuTarget, "compile", lambda *args, **more: plans.append(compile(*args, **more)) or plans[-1]
    )
    chain(**changes)
    return list(dict.fromkeys(step.variant for step in plans[-1].symbolic.steps))


def test_keys_tell_apart_what_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    variants, host = variants_of(monkeypatch), this_host()
    key = packs.key_of(variants, host, "winograd4")
    assert key is not None
    assert packs.key_of(variants_of(monkeypatch), host, "winograd4") == key
    others = [
        packs.key_of(variants, host, "exact"),
        packs.key_of(variants, narrowed(host, 16), "winograd4"),
        packs.key_of([variant._replace(steady=frozenset({0})) for variant in variants], host, "winograd4"),
        packs.key_of(variants[::-1], host, "winograd4"),
        packs.key_of(variants_of(monkeypatch, width=6), host, "winograd4"),
        packs.key_of(variants_of(monkeypatch, act=gc.sigmoid), host, "winograd4"),
        packs.key_of(variants_of(monkeypatch, act=lambda h: gc.tanh(h) * 0.5), host, "winograd4"),
        packs.key_of(variants_of(monkeypatch, act=lambda h: gc.tanh(h) * 0.25), host, "winograd4"),
    ]
    assert len({key, *others}) == 1 + len(others)
    monkeypatch.setattr(packs, "_sources", lambda: "changed since")
    assert packs.key_of(variants, host, "winograd4") not in {key, *others}


def test_ops_of_users_are_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = primitive("tanh", lambda x: x, lambda x: x + 1, None, "pointwise")
    variants = variants_of(monkeypatch, act=mine)
    assert len(variants) >= packs.MIN_KERNELS
    assert packs.key_of(variants, this_host(), "winograd4") is None


def test_code_of_files_that_were_changed_since_they_were_imported_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = variants_of(monkeypatch)
    assert packs.key_of(variants, this_host(), "winograd4") is not None
    monkeypatch.setattr(packs, "IMPORTED", 0)
    packs._sources.cache_clear()
    assert packs.key_of(variants, this_host(), "winograd4") is None
