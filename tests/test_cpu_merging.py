"""Object files as one: it computes what they do, however they call each other; what isn't known is left alone."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence

import pytest

from graphc.runtime.cpu.host import HOSTS, this_host
from graphc.runtime.cpu.jit import Code, compiled
from graphc.runtime.cpu.merging import FILE, SECTION, merged

on_elf = pytest.mark.skipif("linux" not in this_host().triple, reason="object files have another format here")

TABLE = """
@places = private unnamed_addr constant [4 x i64] [{numbers}]
define i64 @{name}(i64 %k) nounwind {{
  %place = getelementptr i64, ptr @places, i64 %k
  %found = load i64, ptr %place
  ret i64 %found
}}
"""
CALLS = """
declare i64 @{callee}(i64)
define internal i64 @inner(i64 %k) nounwind {{
  %found = call i64 @{callee}(i64 %k)
  %sum = add i64 %found, {more}
  ret i64 %sum
}}
define i64 @{name}(i64 %k) nounwind {{
  %found = call i64 @inner(i64 %k)
  ret i64 %found
}}
"""
WEAK = "define weak i64 @same(i64 %k) nounwind {{\n  ret i64 {number}\n}}\n"
USES = "define i64 @{name}(i64 %k) nounwind {{\n  %v = call i64 @same(i64 %k)\n  ret i64 %v\n}}\n"
COPIES = """
declare ptr @memcpy(ptr, ptr, i64)
define i64 @copied(i64 %k) nounwind {
  %from = alloca i64
  %to = alloca i64
  store i64 %k, ptr %from
  call ptr @memcpy(ptr %to, ptr %from, i64 8)
  %found = load i64, ptr %to
  ret i64 %found
}
"""
CASES = "".join(f"    i64 {k}, label %case{k}\n" for k in range(8))
BRANCHES = "".join(f"case{k}:\n  %v{k} = mul i64 %k, {k * k + 3}\n  br label %end\n" for k in range(8))
JOINED = ", ".join(f"[ %v{k}, %case{k} ]" for k in range(8))
SWITCH = (
    f"define i64 @chosen(i64 %k) nounwind {{\n  switch i64 %k, label %other [\n{CASES}  ]\n{BRANCHES}"
    f"other:\n  br label %end\nend:\n  %v = phi i64 {JOINED}, [ -1, %other ]\n  ret i64 %v\n}}\n"
)  # large enough for a table of addresses


def table(name: str, numbers: Sequence[int]) -> str:
    return TABLE.format(name=name, numbers=", ".join(f"i64 {number}" for number in numbers))


def images(*assemblies: str) -> list[bytes]:
    return [compiled(assembly, this_host()) for assembly in assemblies]


def functions(image: bytes | None, *names: str) -> list[Callable[[int], int]]:
    assert image is not None
    code = Code([image], names)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    found = [kind(code.address(name)) for name in names]
    for function in found:
        function.code = code  # type: ignore[attr-defined]
    return found


@on_elf
def test_constants_of_the_same_name_stay_apart() -> None:
    one = merged(images(table("a", (1, 2, 3, 4)), table("b", (5, 6, 7, 8)), table("c", (9, 10, 11, 12))), {})
    a, b, c = functions(one, "a", "b", "c")
    assert [[f(k) for k in range(4)] for f in (a, b, c)] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


@on_elf
def test_what_one_calls_another_defines_by_its_name_or_an_alias() -> None:
    first = CALLS.format(name="first", callee="lib.table", more=100)
    second = CALLS.format(name="second", callee="first", more=1000)
    for order in ([0, 1, 2], [2, 1, 0]):
        made = images(second, first, table("k1_table", (1, 2, 3, 4)))
        first_one, second_one = functions(
            merged([made[k] for k in order], {"lib.table": "k1_table"}), "first", "second"
        )
        assert [first_one(k) for k in range(4)] == [101, 102, 103, 104]
        assert [second_one(k) for k in range(4)] == [1101, 1102, 1103, 1104]


@on_elf
def test_of_several_definitions_the_first_one_counts() -> None:
    weak = [WEAK.format(number=number) + USES.format(name=f"use{number}") for number in (7, 8)]
    seven, eight = functions(merged(images(*weak), {}), "use7", "use8")
    assert seven(0) == eight(0) == 7


@on_elf
def test_functions_of_the_process_and_tables_of_addresses_are_found() -> None:
    copied, chosen = functions(merged(images(table("a", (1, 2, 3, 4)), COPIES, SWITCH), {}), "copied", "chosen")
    assert copied(2**62 + 5) == 2**62 + 5
    assert [chosen(k) for k in (0, 3, 7, 8)] == [0, 36, 364, -1]


@on_elf
def test_merging_again_changes_nothing() -> None:
    made = images(table("a", (1, 2, 3, 4)), CALLS.format(name="b", callee="a", more=1), SWITCH)
    once = merged(made, {})
    assert once is not None and merged(made, {}) == once
    (b,) = functions(merged([once], {}), "b")
    assert [b(k) for k in range(4)] == [2, 3, 4, 5]


def test_files_of_another_processor_are_merged_alike() -> None:
    made = [compiled(table(name, (1, 2, 3, 4)), HOSTS["neon"]) for name in ("a", "b")]
    one = merged(made, {})
    assert one is not None and FILE.unpack_from(one)[2] == FILE.unpack_from(made[0])[2]
    assert merged([made[0], *images(SWITCH)], {}) is None or "aarch64" in this_host().triple


def changed(image: bytes, at: int, value: bytes) -> bytes:
    return image[:at] + value + image[at + len(value) :]


def with_section(image: bytes, field: int, value: int, kind: int) -> bytes:
    """An object file whose first section of this type, in memory, has another value in a field of its header."""
    start = FILE.unpack_from(image)[6]
    for k in range(FILE.unpack_from(image)[12]):
        header = list(SECTION.unpack_from(image, start + k * SECTION.size))
        if header[1] == kind:
            header[field] = value
            return changed(image, start + k * SECTION.size, SECTION.pack(*header))
    raise AssertionError


@on_elf
@pytest.mark.parametrize(
    "damage",
    [
        lambda image: b"",
        lambda image: image[:40],
        lambda image: image[:-70],
        lambda image: b"\xcf\xfa\xed\xfe" + image[4:],
        lambda image: changed(image, 4, b"\x01"),
        lambda image: changed(image, 16, struct.pack("<H", 2)),
        lambda image: with_section(image, 1, 8, 1),
        lambda image: with_section(image, 1, 17, 4),
        lambda image: with_section(image, 2, 0x406, 1),
        lambda image: with_section(image, 7, 99, 4),
        lambda image: with_section(image, 6, 99, 2),
    ],
    ids=["nothing", "head", "cut", "Mach-O", "32 bits", "program", "no bits", "group", "threads", "target", "names"],
)
def test_what_is_not_known_is_not_merged(damage: Callable[[bytes], bytes]) -> None:
    (sound,) = images(CALLS.format(name="a", callee="b", more=1) + table("t", (1, 2, 3, 4)))
    assert merged([sound], {}) is not None
    assert merged([sound, damage(sound)], {}) is None


@on_elf
def test_what_can_be_unwound_is_not_merged() -> None:
    assert merged(images(table("a", (1, 2, 3, 4)).replace(" nounwind", " uwtable")), {}) is None


def test_nothing_is_merged_of_no_files() -> None:
    assert merged([], {}) is None
