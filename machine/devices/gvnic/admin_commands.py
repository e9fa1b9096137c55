"""The admin commands, each checked before it changes anything. Offsets in comments count from the slot's byte 8."""

import struct
from collections.abc import Callable
from typing import Any

from machine.clock import Clock
from machine.devices.dma import Dma
from machine.devices.gvnic import descriptor, offload
from machine.devices.gvnic.descriptor import Limits
from machine.devices.gvnic.errors import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OUT_OF_RANGE,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    Refused,
)
from machine.devices.gvnic.page_lists import PAGE, RAW, PageLists
from machine.devices.gvnic.queue import RESOURCES, Settings
from machine.devices.gvnic.resources import BLOCK_DOORBELLS, Resources
from machine.devices.gvnic.stats_report import StatsReport
from machine.net.port import NetworkPort

DESCRIBE_DEVICE, CONFIGURE_DEVICE_RESOURCES, REGISTER_PAGE_LIST, UNREGISTER_PAGE_LIST = 0x1, 0x2, 0x3, 0x4
CREATE_TX_QUEUE, CREATE_RX_QUEUE, DESTROY_TX_QUEUE, DESTROY_RX_QUEUE = 0x5, 0x6, 0x7, 0x8
DECONFIGURE_DEVICE_RESOURCES, SET_DRIVER_PARAMETER, REPORT_STATS, REPORT_LINK_SPEED = 0x9, 0xB, 0xC, 0xD
GET_PTYPE_MAP, VERIFY_DRIVER_COMPATIBILITY = 0xE, 0xF

LINK_SPEED = 10_000
"""Mbit/s."""

PARAMETER_MTU = 1
DRIVER_INFO = 304
"""Bytes of what a driver tells about itself."""

_DESCRIBE = struct.Struct(">QII")
_CONFIGURE = struct.Struct(">QQIIIIB")
_REGISTER = struct.Struct(">IIQQ")
_CREATE_TX = struct.Struct(">I4xQQIIQHH")
_CREATE_RX = struct.Struct(">II4xIQQQIHHHB")
_IDENTITY = struct.Struct(">I")
_PARAMETER = struct.Struct(">I4xQ")
_REPORT = struct.Struct(">QQQ")
_ADDRESS = struct.Struct(">Q")
_LENGTH_ADDRESS = struct.Struct(">QQ")

_STRIDES = range(4, PAGE + 1, 4)
_BUFFER_SIZES = range(256, PAGE + 1)
_DEFAULT_BUFFER = 2048
_RESOURCES_BYTES = 64
_GQI_TX, _GQI_RX, _GQI_SLOT, _DQO_TX, _DQO_COMPLETION, _DQO_RX = 16, 64, 8, 16, 8, 32


class AdminCommands:
    """Executes commands and holds what they set up; `mtu` is the device's own until the driver sets another."""

    def __init__(
        self,
        dma: Dma,
        port: NetworkPort,
        mac: bytes,
        mtu: int,
        formats: frozenset[int],
        vectors: int,
        notify: Callable[[int], object],
        clock: Clock | None,
    ) -> None:
        self._dma = dma
        self._port = port
        self._mac = mac
        self._default_mtu = mtu
        self._formats = formats
        self._vectors = vectors
        self._notify = notify
        self.mtu = mtu
        self.lists = PageLists(dma, Limits.REGISTERED_PAGES)
        self.resources: Resources | None = None
        self.report = StatsReport(dma, clock)
        self._handlers: dict[int, Callable[[bytes], None]] = {
            DESCRIBE_DEVICE: self._describe,
            CONFIGURE_DEVICE_RESOURCES: self._configure,
            REGISTER_PAGE_LIST: self._register,
            UNREGISTER_PAGE_LIST: self._unregister,
            CREATE_TX_QUEUE: self._create_tx,
            CREATE_RX_QUEUE: self._create_rx,
            DESTROY_TX_QUEUE: self._destroy_tx,
            DESTROY_RX_QUEUE: self._destroy_rx,
            DECONFIGURE_DEVICE_RESOURCES: self._deconfigure,
            SET_DRIVER_PARAMETER: self._set_parameter,
            REPORT_STATS: self._report_stats,
            REPORT_LINK_SPEED: self._link_speed,
            GET_PTYPE_MAP: self._packet_types,
            VERIFY_DRIVER_COMPATIBILITY: self._verify_driver,
        }

    def execute(self, opcode: int, command: bytes) -> None:
        """Carry out one command of 56 bytes. Refused, or BadAddress for an address that is not memory."""
        handler = self._handlers.get(opcode)
        if handler is None:
            raise Refused(UNIMPLEMENTED, "there is no such command")
        handler(command)

    def clear(self) -> None:
        """As after a reset."""
        self.resources = None
        self.lists.clear()
        self.report.clear()
        self.mtu = self._default_mtu

    # -- the device

    def _describe(self, command: bytes) -> None:
        address, version, available = _DESCRIBE.unpack_from(command)
        if version != descriptor.VERSION:
            raise Refused(INVALID_ARGUMENT, f"descriptor version {version}, wanted {descriptor.VERSION}")
        if available < descriptor.SIZE:
            raise Refused(INVALID_ARGUMENT, f"{available} bytes for the descriptor, wanted {descriptor.SIZE}")
        self._dma.write(address, descriptor.build(self._mac, self._default_mtu, self._formats, available))

    def _configure(self, command: bytes) -> None:
        counters, doorbells, counter_count, blocks, stride, first, queue_format = _CONFIGURE.unpack_from(command)
        if self.resources is not None:
            raise Refused(ALREADY_EXISTS, "the device is configured already")
        if queue_format not in self._formats:
            raise Refused(INVALID_ARGUMENT, f"queue format {queue_format}, wanted one of {sorted(self._formats)}")
        if counter_count < Limits.COUNTERS:
            raise Refused(INVALID_ARGUMENT, f"{counter_count} event counters, wanted {Limits.COUNTERS}")
        if not blocks or first + blocks >= self._vectors:
            raise Refused(OUT_OF_RANGE, f"blocks {first} to {first + blocks - 1}, wanted less than {self._vectors - 1}")
        if stride not in _STRIDES:
            raise Refused(INVALID_ARGUMENT, f"{stride} bytes between doorbell indices, wanted 4 to {PAGE}")
        self._check(counters, 4 * Limits.COUNTERS, 4)
        self._check(doorbells, stride * (blocks - 1) + 4, 4)
        for number in range(blocks):
            self._dma.write(doorbells + stride * number, (BLOCK_DOORBELLS + number).to_bytes(4, "big"))
        self.resources = Resources(
            self._dma,
            self._port,
            self._notify,
            queue_format=queue_format,
            counters=counters,
            blocks=blocks,
            first_vector=first,
        )

    def _deconfigure(self, command: bytes) -> None:
        resources = self._configured()
        if resources.transmit or resources.receive:
            raise Refused(FAILED_PRECONDITION, "there are queues still")
        self.report.clear()
        self.resources = None

    def _set_parameter(self, command: bytes) -> None:
        kind, value = _PARAMETER.unpack_from(command)
        if kind != PARAMETER_MTU:
            raise Refused(INVALID_ARGUMENT, f"driver parameter {kind}, wanted {PARAMETER_MTU} (MTU)")
        if not Limits.LEAST_MTU <= value <= Limits.MOST_MTU:
            raise Refused(OUT_OF_RANGE, f"an MTU of {value}, wanted {Limits.LEAST_MTU} to {Limits.MOST_MTU}")
        self.mtu = value

    def _report_stats(self, command: bytes) -> None:
        length, address, interval = _REPORT.unpack_from(command)
        resources = self._configured()
        if length:
            self.report.configure(length, address, interval, resources)
        else:
            self.report.clear()

    def _link_speed(self, command: bytes) -> None:
        (address,) = _ADDRESS.unpack_from(command)
        self._dma.write(address, LINK_SPEED.to_bytes(8, "big"))

    def _packet_types(self, command: bytes) -> None:
        length, address = _LENGTH_ADDRESS.unpack_from(command)
        types = offload.packet_type_map()
        if length < len(types):
            raise Refused(INVALID_ARGUMENT, f"{length} bytes for the packet types, wanted {len(types)}")
        self._dma.write(address, types)

    def _verify_driver(self, command: bytes) -> None:
        length, address = _LENGTH_ADDRESS.unpack_from(command)
        if length < DRIVER_INFO:
            raise Refused(INVALID_ARGUMENT, f"{length} bytes about the driver, wanted {DRIVER_INFO}")
        self._dma.read(address, DRIVER_INFO)

    # -- page lists

    def _register(self, command: bytes) -> None:
        self.lists.register(*_REGISTER.unpack_from(command))

    def _unregister(self, command: bytes) -> None:
        (identity,) = _IDENTITY.unpack_from(command)
        if self.resources is not None and self.resources.uses(identity):
            raise Refused(FAILED_PRECONDITION, f"a queue uses page list {identity:#x}")
        self.lists.unregister(identity)

    # -- queues

    def _create_tx(self, command: bytes) -> None:
        identity, told, ring, page_list, block, other, size, other_size = _CREATE_TX.unpack_from(command)
        resources = self._configured()
        page_list = self._check_queue(identity, resources.transmit, block, page_list)
        size = self._ring_size(size)
        if resources.out_of_order:
            other_size = self._ring_size(other_size)
            self._check(ring, size * _DQO_TX, _DQO_TX)
            self._check(other, other_size * _DQO_COMPLETION, _DQO_COMPLETION)
        else:
            other = other_size = 0
            self._check(ring, size * _GQI_TX, _GQI_TX)
        self._check(told, _RESOURCES_BYTES, 4)
        settings = Settings(identity, block, page_list, ring, size, other, other_size, 0)
        self._dma.write(told, RESOURCES.pack(*resources.create_transmit(settings, self.lists)))

    def _create_rx(self, command: bytes) -> None:
        fields = _CREATE_RX.unpack_from(command)
        identity, _, block, told, ring, other, page_list, size, buffer_size, other_size, _ = fields
        resources = self._configured()
        page_list = self._check_queue(identity, resources.receive, block, page_list)
        size = self._ring_size(size)
        if resources.out_of_order:
            other_size = self._ring_size(other_size)
            self._check(ring, size * _DQO_RX, _DQO_RX)
            self._check(other, other_size * _DQO_RX, _DQO_RX)
        else:
            other_size = size
            self._check(ring, size * _GQI_RX, _GQI_RX)
            self._check(other, size * _GQI_SLOT, _GQI_SLOT)
        buffer_size = buffer_size or _DEFAULT_BUFFER
        if buffer_size not in _BUFFER_SIZES:
            raise Refused(INVALID_ARGUMENT, f"buffers of {buffer_size} bytes, wanted 256 to {PAGE}")
        self._check(told, _RESOURCES_BYTES, 4)
        settings = Settings(identity, block, page_list, ring, size, other, other_size, buffer_size)
        self._dma.write(told, RESOURCES.pack(*resources.create_receive(settings, self.lists)))

    def _destroy_tx(self, command: bytes) -> None:
        self._destroy(self._configured().transmit, command)

    def _destroy_rx(self, command: bytes) -> None:
        self._destroy(self._configured().receive, command)

    @staticmethod
    def _destroy(queues: dict[int, Any], command: bytes) -> None:
        (identity,) = _IDENTITY.unpack_from(command)
        if identity not in queues:
            raise Refused(NOT_FOUND, f"there is no queue {identity}")
        del queues[identity]

    # -- checks

    def _configured(self) -> Resources:
        if self.resources is None:
            raise Refused(FAILED_PRECONDITION, "the device is not configured")
        return self.resources

    def _check_queue(self, identity: int, queues: dict[int, Any], block: int, page_list: int) -> int:
        """The page list that the queue shall use."""
        resources = self._configured()
        if identity >= Limits.QUEUES:
            raise Refused(RESOURCE_EXHAUSTED, f"queue {identity}, wanted less than {Limits.QUEUES}")
        if identity in queues:
            raise Refused(ALREADY_EXISTS, f"queue {identity} is there already")
        if block >= len(resources.blocks):
            raise Refused(OUT_OF_RANGE, f"notification block {block}, wanted less than {len(resources.blocks)}")
        if not resources.in_pages:
            return RAW  # Linux leaves the number at 0 for DQO
        self.lists.pages(page_list)
        return page_list

    @staticmethod
    def _ring_size(size: int) -> int:
        """The entries of a ring; drivers that do not choose leave it at 0."""
        size = size or Limits.RING
        if size & (size - 1) or not Limits.LEAST_RING <= size <= Limits.MOST_RING:
            least, most = Limits.LEAST_RING, Limits.MOST_RING
            raise Refused(INVALID_ARGUMENT, f"a ring of {size}, wanted a power of two from {least} to {most}")
        return size

    def _check(self, address: int, size: int, alignment: int) -> None:
        if address % alignment:
            raise Refused(INVALID_ARGUMENT, f"address {address:#x}, wanted a multiple of {alignment}")
        self._dma.read(address, size)

    # -- state

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "mtu": self.mtu,
            "lists": self.lists.save(),
            "resources": None if self.resources is None else self.resources.save(),
            "report": self.report.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.mtu = state["mtu"]
        self.lists.load(state["lists"])
        saved = state["resources"]
        self.resources = (
            None if saved is None else Resources.restore(saved, self._dma, self._port, self._notify, self.lists)
        )
        self.report.load(state["report"], self.resources)
