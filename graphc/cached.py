"""What is computed of an object when it is first asked for, and then kept with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
Owner = TypeVar("Owner")


class cached_property(Generic[T]):
    """A method without arguments as an attribute, whose first value is kept in the object's `__dict__`.

    That of `functools` takes a lock in Python 3.11, which all objects of a class share: a process that is forked while
    another thread has it would wait for ever. Here threads that ask at the same time may each compute the value; the
    one that is kept first is what all of them get.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> cached_property[T] | T:
        if instance is None:
            return self
        value: T = instance.__dict__.setdefault(self._name, self._compute(instance))
        return value


def kept_with(compute: Callable[[Owner], T]) -> Callable[[Owner], T]:
    """A function of one object, whose value is kept in the object's `__dict__`.

    It is to an object what a `cached_property` is, for what isn't the business of the object's own module.
    """
    name = f"{compute.__module__}.{compute.__qualname__}"

    @wraps(compute)
    def found(owner: Owner) -> T:
        kept = owner.__dict__
        value: T = kept[name] if name in kept else kept.setdefault(name, compute(owner))
        return value

    return found
