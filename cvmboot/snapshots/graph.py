"""A graph of objects as JSON and bytes, and back: nothing in it is code, and only what is registered becomes an object.

The text holds four lists. `classes` and `shapes` (a class and names of attributes) are referred to by position. `objects` is
the graph: each entry is a list whose first item says what it is, see `_MAKERS`. Values are numbers, strings, true, false and
null as they are, and anything else as `[n]`, the object at position n. Runs of bytes lie behind each other in a second
part, by offset and size.

An object is made without its class's `__init__`: attributes are put in place, or handed to `__setstate__` where the class has
one, once everything they refer to exists. A class may say by `__getstate__` what its state is. Both must be plain
data or registered objects again. Bound methods, `functools.partial` and registered functions stand for callbacks. Objects that
belong to the host are not written: the caller gives them names, and objects for the same names when it reads.
"""

import json
import struct
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from cvmboot.snapshots.errors import BadState, NotState
from cvmboot.snapshots.registry import Registry

_PLAIN = (bool, int, float, str)
_LENGTH = struct.Struct("<Q")
_MISSING = object()


class Given:
    """An object of the host's that the graph refers to by name. `methods` are those that may be callbacks."""

    __slots__ = ("methods", "value")

    def __init__(self, value: object, *methods: str) -> None:
        self.value = value
        self.methods = methods


class Encoder:
    """Writes a graph down. `given` names the objects that are not part of it."""

    def __init__(self, registry: Registry, given: Mapping[str, Given]) -> None:
        self._registry = registry
        self._given = {id(each.value): name for name, each in given.items()}
        self._methods = {id(each.value): each.methods for each in given.values()}
        self._numbers: dict[int, int] = {}
        self._keep: list[object] = list(given.values())
        self._objects: list[list[Any]] = []
        self._classes: dict[type, int] = {}
        self._shapes: dict[tuple[type, tuple[str, ...]], int] = {}
        self._bytes: list[bytes | bytearray] = []
        self._size = 0
        self._waiting: deque[tuple[int, object, str]] = deque()

    def encode(self, root: object) -> bytes:
        """The graph that hangs on `root`. NotState for what is not registered, and the way that leads there."""
        first = self._value(root, "")
        while self._waiting:
            number, found, way = self._waiting.popleft()
            self._fill(number, found, way)
        shapes = [[self._classes[kind], *names] for kind, names in self._shapes]
        names = [self._registry.name(kind) for kind in self._classes]
        text = {"root": first, "classes": names, "shapes": shapes, "objects": self._objects}
        raw = json.dumps(text, separators=(",", ":")).encode()
        return b"".join((_LENGTH.pack(len(raw)), raw, *self._bytes))

    def _value(self, value: object, way: str) -> Any:
        if value is None or type(value) in _PLAIN:
            return value
        return [self._reference(value, way)]

    def _values(self, values: Iterable[object], way: str) -> list[Any]:
        return [self._value(value, way) for value in values]

    def _reference(self, value: object, way: str) -> int:
        """The number of an object; those that cannot be changed come after all that they are made of."""
        number = self._numbers.get(id(value))
        if number is not None:
            return number
        entry = self._immutable(value, way)
        number = len(self._objects)
        self._numbers[id(value)] = number
        self._keep.append(value)
        if entry is None:
            entry = []
            self._waiting.append((number, value, way))
        self._objects.append(entry)
        return number

    def _immutable(self, value: Any, way: str) -> list[Any] | None:
        kind = type(value)
        if id(value) in self._given:
            return ["given", self._given[id(value)]]
        if kind is tuple or kind is frozenset:
            return [kind.__name__, *self._values(value, way + "[]")]
        if kind is bytes or kind is memoryview:
            return ["bytes", *self._blob(bytes(value))]
        if kind is range:
            return ["range", value.start, value.stop, value.step]
        if kind is MethodType:
            return self._method(value, way)
        if kind is partial:
            function = self._value(value.func, way + ".func")
            return ["partial", function, *self._values((value.args, value.keywords), way + "()")]
        if kind in (FunctionType, BuiltinFunctionType):
            return ["function", self._registry.function_name(value, way)]
        if isinstance(value, type):
            return ["class", self._class(value, way)]
        if isinstance(value, Enum):
            return ["member", self._class(kind, way), value.name]
        if isinstance(value, tuple):
            return ["like tuple", self._class(kind, way), *self._values(tuple(value), way + "[]")]
        if isinstance(value, bytes):
            return ["like bytes", self._class(kind, way), *self._blob(bytes(value))]
        return None

    def _method(self, value: MethodType, way: str) -> list[Any]:
        owner, name = value.__self__, value.__func__.__name__
        methods = self._methods.get(id(owner))
        if methods is not None and name not in methods and type(owner) not in self._registry:
            raise NotState(f"{way}: {name} of {type(owner).__qualname__} is no callback that is known")
        if getattr(type(owner), name, None) is not value.__func__:
            raise NotState(f"{way}: {value!r}")
        return ["method", self._value(owner, f"{way}.__self__"), name]

    def _blob(self, data: bytes | bytearray) -> tuple[int, int]:
        at = self._size
        self._bytes.append(data)
        self._size += len(data)
        return at, len(data)

    def _class(self, kind: type, way: str) -> int:
        if kind not in self._registry:
            raise NotState(f"{way}: {kind.__module__}:{kind.__qualname__} is not registered as state")
        return self._classes.setdefault(kind, len(self._classes))

    def _fill(self, number: int, value: Any, way: str) -> None:
        """Write what an object that can change holds now."""
        entry = self._objects[number]
        kind = type(value)
        if kind is list or kind is set:
            entry += [kind.__name__, *self._values(value, way + "[]")]
        elif kind is dict:
            entry.append("dict")
            for key, item in value.items():
                name = f"{way}[{key!r}]" if type(key) in _PLAIN else f"{way}[...]"
                entry += (self._value(key, way + ".keys"), self._value(item, name))
        elif kind is deque:
            entry += ["deque", value.maxlen, *self._values(value, way + "[]")]
        elif kind is bytearray:
            entry += ["bytearray", *self._blob(bytes(value))]
        elif kind is array:
            entry += ["array", value.typecode, *self._blob(value.tobytes())]
        elif kind is Random:
            entry += ["random", self._value(value.getstate(), way)]
        else:
            self._fill_object(entry, value, way)

    def _fill_object(self, entry: list[Any], value: object, way: str) -> None:
        kind = type(value)
        self._class(kind, way)
        state: Any = value.__getstate__()
        if isinstance(state, tuple):  # (__dict__ or None, slots), as object.__getstate__ has it
            state = {**(state[0] or {}), **state[1]}
        state = state or {}
        self._keep.append(state)
        shape = self._shapes.setdefault((kind, tuple(state)), len(self._shapes))
        entry += ["object", shape]
        entry += [self._value(item, f"{way}.{name}") for name, item in state.items()]


class _Object:
    """An object whose attributes are still to come."""

    __slots__ = ("entry", "made", "shape")

    def __init__(self, made: Any, shape: "_Shape", entry: list[Any]) -> None:
        self.made = made
        self.shape = shape
        self.entry = entry


class _Shape:
    """A class and the names of the attributes that an object has."""

    __slots__ = ("kind", "names", "plain", "setter")

    def __init__(self, registry: Registry, kind: type, names: list[str]) -> None:
        self.kind = kind
        self.names = names
        self.setter: Callable[[Any, dict[str, Any]], None] | None = getattr(kind, "__setstate__", None)
        slots = registry.slots(kind)
        self.plain = slots is None
        if self.setter is None and slots is not None and not slots.issuperset(names):
            raise BadState(f"{kind.__qualname__} has no such attributes")
        if any(not name.isidentifier() or name.startswith("__") for name in names):
            raise BadState(f"{kind.__qualname__} has attributes with impossible names")


class Decoder:
    """Reads a graph that Encoder wrote. BadState for anything else; nothing that is not registered or given gets in."""

    def __init__(self, registry: Registry, given: Mapping[str, Given]) -> None:
        self._registry = registry
        self._given = given
        self._methods = {id(each.value): each.methods for each in given.values()}
        self._made: list[Any] = []
        self._blobs = memoryview(b"")
        self._classes: list[type] = []
        self._shapes: list[_Shape] = []
        self._containers: list[tuple[Any, list[Any]]] = []
        self._objects: list[_Object] = []

    def decode(self, data: bytes | memoryview) -> Any:
        """The root of the graph in `data`."""
        try:
            return self._decode(memoryview(data))
        except (BadState, MemoryError):
            raise
        except Exception as error:  # whatever a made-up file makes of the code above: it says nothing to its reader
            raise BadState(f"{type(error).__name__}: {error}") from error

    def _decode(self, data: memoryview) -> Any:
        (length,) = _LENGTH.unpack_from(data)
        if length > len(data) - _LENGTH.size:
            raise BadState("its text ends early")
        text = json.loads(bytes(data[_LENGTH.size : _LENGTH.size + length]))
        self._blobs = data[_LENGTH.size + length :]
        self._classes = [self._registry.find(name) for name in text["classes"]]
        self._shapes = [_Shape(self._registry, self._classes[shape[0]], shape[1:]) for shape in text["shapes"]]
        entries = text["objects"]
        self._made = made = [_MISSING] * len(entries)
        for number, entry in enumerate(entries):
            maker = _SHELLS.get(entry[0])
            if maker is not None:
                made[number] = maker(self, entry)
        for number, entry in enumerate(entries):
            if made[number] is _MISSING:
                made[number] = _MAKERS[entry[0]](self, entry)
        self._fill()
        return self._value(text["root"])

    def _value(self, value: Any) -> Any:
        if type(value) is list:
            found = self._made[value[0]]
            if found is _MISSING:
                raise BadState("an object is made of one that comes after it")
            return found
        return value

    def _values(self, entry: list[Any], first: int) -> list[Any]:
        """The items of an entry from `first` on. Every object exists by now."""
        made = self._made
        return [made[item[0]] if type(item) is list else item for item in entry[first:]]

    def _fill(self) -> None:
        """Put into lists, objects and dictionaries what they hold; objects first, since their hash may depend on it."""
        later: list[tuple[_Object, dict[str, Any]]] = []
        for each in self._objects:
            values = self._values(each.entry, 2)
            shape = each.shape
            if len(values) != len(shape.names):
                raise BadState(f"an object of {shape.kind.__qualname__} has {len(values)} attributes")
            if shape.setter is not None:
                later.append((each, dict(zip(shape.names, values, strict=True))))
            elif shape.plain:
                each.made.__dict__.update(zip(shape.names, values, strict=True))
            else:
                for name, value in zip(shape.names, values, strict=True):
                    setattr(each.made, name, value)
        for made, entry in self._containers:
            kind = type(made)
            if kind is dict:
                items = self._values(entry, 1)
                made.update(zip(items[::2], items[1::2], strict=True))
            elif kind is set:
                made.update(self._values(entry, 1))
            elif kind is Random:
                made.setstate(self._value(entry[1]))
            else:
                made.extend(self._values(entry, 2 if kind is deque else 1))
        for each, state in later:
            assert each.shape.setter is not None
            each.shape.setter(each.made, state)

    # -- what can be filled later

    def _container(self, entry: list[Any]) -> Any:
        made: Any = {"list": list, "dict": dict, "set": set, "random": Random}[entry[0]]()
        self._containers.append((made, entry))
        return made

    def _deque(self, entry: list[Any]) -> Any:
        made: deque[Any] = deque(maxlen=entry[1])
        self._containers.append((made, entry))
        return made

    def _bytearray(self, entry: list[Any]) -> bytearray:
        return bytearray(self._blob(entry[1], entry[2]))

    def _array(self, entry: list[Any]) -> "array[Any]":
        made: array[Any] = array(entry[1])
        made.frombytes(self._blob(entry[2], entry[3]))
        return made

    def _object(self, entry: list[Any]) -> Any:
        shape = self._shapes[entry[1]]
        made = object.__new__(shape.kind)
        self._objects.append(_Object(made, shape, entry))
        return made

    def _given_one(self, entry: list[Any]) -> Any:
        if entry[1] not in self._given:
            raise BadState(f"it refers to {entry[1]!r}, which this machine does not have")
        return self._given[entry[1]].value

    # -- what must be whole from the start

    def _blob(self, at: int, size: int) -> memoryview:
        if not 0 <= at <= at + size <= len(self._blobs):
            raise BadState("it refers to bytes beyond its end")
        return self._blobs[at : at + size]

    def _bytes(self, entry: list[Any]) -> bytes:
        return bytes(self._blob(entry[1], entry[2]))

    def _like_bytes(self, entry: list[Any]) -> Any:
        kind = self._classes[entry[1]]
        if not issubclass(kind, bytes):
            raise BadState(f"{kind.__qualname__} is not made of bytes")
        return bytes.__new__(kind, self._blob(entry[2], entry[3]))

    def _like_tuple(self, entry: list[Any]) -> Any:
        kind = self._classes[entry[1]]
        if not issubclass(kind, tuple):
            raise BadState(f"{kind.__qualname__} is no tuple")
        return tuple.__new__(kind, [self._value(item) for item in entry[2:]])

    def _tuple(self, entry: list[Any]) -> tuple[Any, ...]:
        return tuple([self._value(item) for item in entry[1:]])

    def _frozenset(self, entry: list[Any]) -> frozenset[Any]:
        return frozenset([self._value(item) for item in entry[1:]])

    def _range(self, entry: list[Any]) -> range:
        return range(*entry[1:])

    def _class(self, entry: list[Any]) -> type:
        kind: type = self._classes[entry[1]]
        return kind

    def _member(self, entry: list[Any]) -> Any:
        kind = self._classes[entry[1]]
        if not issubclass(kind, Enum):
            raise BadState(f"{kind.__qualname__} has no members")
        return kind[entry[2]]

    def _function(self, entry: list[Any]) -> Any:
        return self._registry.function(entry[1])

    def _method(self, entry: list[Any]) -> Any:
        owner, name = self._value(entry[1]), entry[2]
        kind = type(owner)
        if name not in self._methods.get(id(owner), ()) and (kind not in self._registry or name.startswith("__")):
            raise BadState(f"{name!r} of {kind.__qualname__} is no callback")
        function = getattr(kind, name, None)
        if type(function) is not FunctionType:
            raise BadState(f"{kind.__qualname__} has no method {name!r}")
        return MethodType(function, owner)

    def _partial(self, entry: list[Any]) -> Any:
        function, arguments, keywords = (self._value(item) for item in entry[1:])
        if type(arguments) is not tuple or keywords:
            raise BadState("a callback has arguments of another kind")
        return partial(function, *arguments)


_SHELLS: dict[str, Callable[[Decoder, list[Any]], Any]] = {
    **dict.fromkeys(("list", "dict", "set", "random"), Decoder._container),
    "deque": Decoder._deque,
    "bytearray": Decoder._bytearray,
    "array": Decoder._array,
    "object": Decoder._object,
    "given": Decoder._given_one,
}
_MAKERS: dict[str, Callable[[Decoder, list[Any]], Any]] = {
    "bytes": Decoder._bytes,
    "like bytes": Decoder._like_bytes,
    "like tuple": Decoder._like_tuple,
    "tuple": Decoder._tuple,
    "frozenset": Decoder._frozenset,
    "range": Decoder._range,
    "class": Decoder._class,
    "member": Decoder._member,
    "function": Decoder._function,
    "method": Decoder._method,
    "partial": Decoder._partial,
}
