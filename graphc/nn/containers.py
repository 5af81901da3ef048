"""Modules that hold other modules: chains, lists and dictionaries of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from graphc.errors import ArgumentError
from graphc.nn.module import Module


def _require_module(container: Module, part: Any) -> None:
    """Check that a part is a module; as anything else it would be kept but never called.

    Raises:
        ArgumentError: it isn't one.
    """
    if not isinstance(part, Module):
        called = "a module's forward() calls functions; many have a layer, such as gc.nn.ReLU()"
        raise ArgumentError(
            f"{type(container).__name__} holds modules, got {part!r}"[:200],
            hint=f"make one: {part.__name__}()" if isinstance(part, type) else called,
        )


class _Numbered(Module):
    """Modules in an order, called `0`, `1`, ... unless they were given names."""

    def __getitem__(self, index: int | slice | str) -> Any:
        """A module by its position or name, or a part of the container by a slice; the modules stay the same."""
        if isinstance(index, str):
            return self._children[index]
        if isinstance(index, slice):
            return self._part(dict(list(self._children.items())[index]))
        return list(self._children.values())[index]

    def _part(self, modules: Mapping[str, Module]) -> Module:
        return Sequential(modules)

    def __setitem__(self, index: int, module: Module) -> None:
        _require_module(self, module)
        setattr(self, list(self._children)[index], module)

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def append(self, module: Module) -> Self:
        """Add a module at the end, called by its number; returns the container."""
        _require_module(self, module)
        free = (str(k) for k in itertools.count(len(self)) if str(k) not in self._children)
        setattr(self, next(free), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; returns the container."""
        for module in modules:
            self.append(module)
        return self


class Sequential(_Numbered):
    """Modules called one after the other: `Sequential(a, b)`, or `Sequential({"first": a, "second": b})`.

    Args:
        name: prefix of all names when this is the outermost module; none by default.
    """

    def __init__(self, *modules: Module | Mapping[str, Module], name: str | None = None) -> None:
        super().__init__(name=name)
        for module in modules:
            if isinstance(module, Mapping):
                for key, part in module.items():
                    _require_module(self, part)
                    setattr(self, key, part)
            else:
                self.append(module)

    def forward(self, x: Any) -> Any:
        """`x` through all modules, in their order."""
        for module in self:
            x = module(x)
        return x


class ModuleList(_Numbered):
    """A list of modules, which it names; it isn't called itself."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _part(self, modules: Mapping[str, Module]) -> Module:
        return ModuleList(modules.values())


class ModuleDict(Module):
    """A dictionary of modules; it isn't called itself."""

    def __init__(self, modules: Mapping[str, Module] = {}) -> None:
        super().__init__()
        for key, module in modules.items():
            self[key] = module

    def __getitem__(self, key: str) -> Module:
        return self._children[key]

    def __setitem__(self, key: str, module: Module) -> None:
        _require_module(self, module)
        setattr(self, key, module)

    def __contains__(self, key: object) -> bool:
        return key in self._children

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._children))

    def keys(self) -> list[str]:
        """The names."""
        return list(self._children)

    def values(self) -> list[Module]:
        """The modules."""
        return list(self._children.values())

    def items(self) -> list[tuple[str, Module]]:
        """Names and modules."""
        return list(self._children.items())
