"""Whole device paths as bytes: parsing, joining, instances (the logic of EFI_DEVICE_PATH_UTILITIES_PROTOCOL, 10.5)."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from uefi.device_path.nodes import (
    END,
    END_ENTIRE,
    END_ENTIRE_SUBTYPE,
    END_INSTANCE,
    END_INSTANCE_SUBTYPE,
    HEADER_SIZE,
    MAX_PATH_SIZE,
    DevicePathError,
    Node,
)

END_PATH = END_ENTIRE.to_bytes()
"""An empty device path: the end node alone."""


class GuestMemory(Protocol):
    """What reading a path out of guest memory needs."""

    def read(self, address: int, size: int, /) -> bytes:
        """`size` bytes at `address`; raises an exception of its own where there is no memory."""
        ...


def _walk(data: bytes) -> Iterator[tuple[int, Node]]:
    """(offset after the node, node) up to and with the end of the entire path."""
    limit = min(len(data), MAX_PATH_SIZE)
    offset = 0
    while True:
        if offset + HEADER_SIZE > limit:
            raise DevicePathError(f"device path has no end node within its {limit} bytes")
        length = data[offset + 2] | data[offset + 3] << 8
        if length < HEADER_SIZE:
            raise DevicePathError(f"device path node at offset {offset} has length {length}, wanted 4 or more")
        if offset + length > limit:
            raise DevicePathError(
                f"device path node at offset {offset} has length {length}, only {limit - offset} bytes are left"
            )
        node = Node(data[offset], data[offset + 1], data[offset + HEADER_SIZE : offset + length])
        if node.type == END and node.subtype not in (END_INSTANCE_SUBTYPE, END_ENTIRE_SUBTYPE):
            raise DevicePathError(f"device path end node at offset {offset} has subtype {node.subtype:#x}")
        offset += length
        yield offset, node
        if node.ends_path:
            return


def parse(data: bytes) -> list[Node]:
    """The nodes of a device path, ends of instances among them, the final end node left off.

    Bytes after the end node are ignored. Raises DevicePathError for a node shorter than 4 bytes or longer than what
    is left, for an end node of unknown subtype, and for a path without end within 64 KiB.
    """
    return [node for _, node in _walk(data)][:-1]


def size(data: bytes) -> int:
    """Bytes of the path up to and with its end node (GetDevicePathSize). Raises DevicePathError as parse() does."""
    return max(offset for offset, _ in _walk(data))


def join(*nodes: Node) -> bytes:
    """A path of these nodes with its end node. Raises DevicePathError above 64 KiB."""
    return _limited([*(node.to_bytes() for node in nodes if not node.ends_path), END_PATH])


def _limited(pieces: Iterable[bytes]) -> bytes:
    data = b"".join(pieces)
    if len(data) > MAX_PATH_SIZE:
        raise DevicePathError(f"device path would take {len(data)} bytes, at most {MAX_PATH_SIZE} are allowed")
    return data


def _body(data: bytes) -> bytes:
    """The path without its final end node."""
    end = 0
    for offset, node in _walk(data):
        if not node.ends_path:
            end = offset
    return data[:end]


def append(first: bytes | None, second: bytes | None) -> bytes:
    """AppendDevicePath: the second path after the first; a missing one counts as empty."""
    return _limited([_body(first or END_PATH), _body(second or END_PATH), END_PATH])


def append_node(path: bytes | None, node: Node | None) -> bytes:
    """AppendDeviceNode: the node at the end of the path; a missing path or node counts as empty."""
    return _limited([_body(path or END_PATH), node.to_bytes() if node else b"", END_PATH])


def append_instance(path: bytes | None, instance: bytes) -> bytes:
    """AppendDevicePathInstance: a further instance after those of the path; without a path, the instance alone."""
    if path is None:
        return _limited([_body(instance), END_PATH])
    return _limited([_body(path), END_INSTANCE.to_bytes(), _body(instance), END_PATH])


def next_instance(data: bytes) -> tuple[bytes, int | None]:
    """GetNextDevicePathInstance: the first instance as a whole path, and the offset of the next (None: last)."""
    start = 0
    for offset, node in _walk(data):
        if node.is_end:
            return data[:start] + END_PATH, None if node.ends_path else offset
        start = offset
    raise DevicePathError("device path has no end node")


def is_multi_instance(data: bytes) -> bool:
    """IsDevicePathMultiInstance: whether an end-of-instance node comes before the end."""
    return any(node.is_end for node in parse(data))


def create_node(node_type: int, subtype: int, length: int) -> Node:
    """CreateDeviceNode: a zeroed node of `length` bytes, header included. Raises DevicePathError below 4 bytes."""
    if length < HEADER_SIZE:
        raise DevicePathError(f"device path node of {length} bytes, wanted 4 or more")
    return Node(node_type, subtype, bytes(length - HEADER_SIZE))


def read(memory: GuestMemory, address: int) -> bytes:
    """The whole path at a guest address. Raises DevicePathError as parse() does, and what `memory` raises."""
    pieces: list[bytes] = []
    total = 0
    while True:
        header = memory.read(address + total, HEADER_SIZE)
        length = header[2] | header[3] << 8
        if length < HEADER_SIZE:
            raise DevicePathError(f"device path node at {address + total:#x} has length {length}, wanted 4 or more")
        if total + length > MAX_PATH_SIZE:
            raise DevicePathError(f"device path at {address:#x} has no end node within {MAX_PATH_SIZE} bytes")
        pieces.append(memory.read(address + total, length))
        total += length
        if header[0] == END and header[1] == END_ENTIRE_SUBTYPE:
            return b"".join(pieces)


def read_node(memory: GuestMemory, address: int) -> Node:
    """The single node at a guest address. Raises DevicePathError for a length below 4, and what `memory` raises."""
    header = memory.read(address, HEADER_SIZE)
    length = header[2] | header[3] << 8
    if length < HEADER_SIZE:
        raise DevicePathError(f"device path node at {address:#x} has length {length}, wanted 4 or more")
    return Node(header[0], header[1], memory.read(address, length)[HEADER_SIZE:])
