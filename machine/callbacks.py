"""Callbacks that do nothing or always answer the same.

Functions and objects with a name, where a lambda would do otherwise: a snapshot writes down who is called back, and can
name what stands in a module, but nothing anonymous.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


def nothing(*_arguments: object) -> None:
    """Do nothing."""


def never(*_arguments: object) -> bool:
    """No."""
    return False


def always(*_arguments: object) -> bool:
    """Yes."""
    return True


def zero(*_arguments: object) -> int:
    """0, as registers that cannot be read give it."""
    return 0


class Constant(Generic[T]):
    """Answers every call with `value`."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __call__(self, *_arguments: object) -> T:
        return self.value
