"""Nested fetches: lists, tuples, named tuples, dicts and dataclasses, flattened and put together again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from graphc.errors import FetchError


class Build(NamedTuple):
    """What puts values into a form.

    Attributes:
        of: gives the form of an iterator of values.
        plain: whether none of the user's code runs in it, so that it can't fail.
    """

    of: Callable[[Iterator[Any]], Any]
    plain: bool


MAX_DEPTH = 100  # of containers in each other; a list that contains itself is deeper than any


def flatten(structure: Any, is_leaf: Callable[[Any], bool], depth: int = 0) -> tuple[list[Any], Build]:
    """The leaves of `structure`, and the function that puts as many values into its form.

    Raises:
        FetchError: containers in each other more than `MAX_DEPTH` deep.
    """
    if is_leaf(structure):
        return [structure], LEAF
    if depth > MAX_DEPTH:
        raise FetchError(f"what is fetched is nested more than {MAX_DEPTH} deep: does a list contain itself?")
    for matches, take_apart in _CONTAINERS:
        if matches(structure):
            children, rebuild = take_apart(structure)
            parts = [flatten(child, is_leaf, depth + 1) for child in children]
            builders = [build for _, build in parts]
            plain = not _is_users(structure) and all(build.plain for build in builders)
            return [leaf for leaves, _ in parts for leaf in leaves], Build(_joined(rebuild, builders), plain)
    return [structure], LEAF


LEAF = Build(next, True)


def _joined(rebuild: Callable[[list[Any]], Any], builders: list[Build]) -> Callable[[Iterator[Any]], Any]:
    parts = [build.of for build in builders]
    return lambda values: rebuild([of(values) for of in parts])


def _is_users(structure: Any) -> bool:
    """Whether a container is rebuilt by code of the user's: all but dicts, lists, tuples and plain named tuples."""
    named = hasattr(structure, "_fields") and type(structure).__bases__ != (tuple,)
    return named or dataclasses.is_dataclass(structure)


def _mapping(value: Mapping[Any, Any]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    keys = list(value)
    return list(value.values()), lambda found: dict(zip(keys, found, strict=True))


def _dataclass(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    names = [f.name for f in dataclasses.fields(value) if f.init]
    children = [getattr(value, name) for name in names]
    return children, lambda found: dataclasses.replace(value, **dict(zip(names, found, strict=True)))


def _sequence(value: Sequence[Any]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    if hasattr(value, "_fields"):
        return list(value), lambda found: type(value)(*found)
    return list(value), tuple if isinstance(value, tuple) else list


_CONTAINERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (lambda value: isinstance(value, (list, tuple)), _sequence),
    (lambda value: isinstance(value, Mapping), _mapping),
    (lambda value: dataclasses.is_dataclass(value) and not isinstance(value, type), _dataclass),
)
