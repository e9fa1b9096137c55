"""Which classes and functions may be part of a snapshot: those that are listed, and no others."""

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import BuiltinFunctionType, FunctionType

from cvmboot.snapshots.errors import BadState, NotState


class Registry:
    """`classes` and `functions` list names by module. A module is imported when one of its names is first wanted."""

    def __init__(self, classes: Mapping[str, Iterable[str]], functions: Mapping[str, Iterable[str]]) -> None:
        self._classes = frozenset(f"{module}:{name}" for module, names in classes.items() for name in names)
        self._functions = frozenset(f"{module}:{name}" for module, names in functions.items() for name in names)
        self._found: dict[str, type] = {}
        self._slots: dict[type, frozenset[str] | None] = {}

    @property
    def classes(self) -> list[str]:
        """Every class, as module:Class."""
        return sorted(self._classes)

    @property
    def functions(self) -> list[str]:
        """Every function, as module:function."""
        return sorted(self._functions)

    def __contains__(self, kind: type) -> bool:
        return self.name(kind) in self._classes

    @staticmethod
    def name(kind: type) -> str:
        """How a class is written."""
        return f"{kind.__module__}:{kind.__qualname__}"

    def find(self, name: str) -> type:
        """The class of that name. BadState if it is not listed."""
        found = self._found.get(name)
        if found is None:
            if name not in self._classes:
                raise BadState(f"{name!r} is nothing that a machine is made of")
            module, _, attribute = name.partition(":")
            found = getattr(import_module(module), attribute)
            assert isinstance(found, type)
            self._found[name] = found
        return found

    def slots(self, kind: type) -> frozenset[str] | None:
        """The attributes that objects of a class can have; None where they can have any."""
        if kind not in self._slots:
            bases = [base for base in kind.__mro__ if base is not object]
            free = any("__slots__" not in base.__dict__ for base in bases)
            names = frozenset(name for base in bases for name in base.__dict__.get("__slots__", ()))
            self._slots[kind] = None if free else names
        return self._slots[kind]

    def function_name(self, function: FunctionType | BuiltinFunctionType, way: str) -> str:
        """How a function is written. NotState if it is not listed, or somewhere else."""
        name = f"{function.__module__}:{function.__qualname__}"
        if (
            name not in self._functions
            or getattr(sys.modules[function.__module__], function.__qualname__) is not function
        ):
            raise NotState(f"{way}: {name} is not registered")
        return name

    def function(self, name: str) -> object:
        """The function of that name. BadState if it is not listed."""
        if name not in self._functions:
            raise BadState(f"{name!r} is no callback")
        module, _, attribute = name.partition(":")
        found: object = getattr(import_module(module), attribute)
        return found
