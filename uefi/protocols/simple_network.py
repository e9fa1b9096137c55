"""EFI_SIMPLE_NETWORK_PROTOCOL over the port of the machine's network device.

Where the specification is silent, EDK II's SnpDxe decides. What go-boot does otherwise is tolerated and named in the trace.
"""

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from machine.callbacks import nothing
from machine.cpu import Cpu
from machine.errors import BadAddress
from uefi import guids
from uefi.interface import Interface, function
from uefi.network import interface as net
from uefi.network.interface import ADDRESS, FILTERS, HEADER, INITIALIZED, LONGEST, MTU, STARTED, STATISTICS, STOPPED
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

# EFI_SIMPLE_NETWORK_MODE (UEFI 2.10, 24.1): ten words, the multicast filter, three addresses, five bytes.
_MODE = struct.Struct("<10I512s32s32s32sB????xxx")
_IF_TYPE_ETHERNET = 1
_MAC = 32
"""Bytes of an EFI_MAC_ADDRESS, of which Ethernet uses six."""

_RECEIVE_INTERRUPT, _TRANSMIT_INTERRUPT = 0x01, 0x02
_STATISTICS_SIZE = 8 * len(STATISTICS)
_LOWEST_POINTER = 0x10000
"""Filter bits are below this number; go-boot's pointers are above."""


class SimpleNetwork(Interface):
    """EFI_SIMPLE_NETWORK_PROTOCOL (UEFI 2.10, 24.1)."""

    NAME = "EFI_SIMPLE_NETWORK_PROTOCOL"
    GUID = guids.SIMPLE_NETWORK_PROTOCOL
    SIZE = 0x80
    REVISION = 0x0001_0000

    def __init__(self, firmware: "Firmware", network: net.NetworkInterface) -> None:
        super().__init__(firmware)
        self.network = network
        self._mode = 0
        self._event = 0
        network.changed = self._tell

    def fill(self) -> None:
        """Revision, WaitForPacket and Mode."""
        firmware = self.firmware
        self._mode = firmware.pool(_MODE.size)
        self._event = firmware.events.create_host(on_wait=self._frame_waits)
        self.put_u64(0x00, self.REVISION)
        self.put_u64(0x70, self._event)
        self.put_u64(0x78, self._mode)
        self._tell()

    def remove(self) -> None:
        """Stop the interface and forget it."""
        self.stop_for_good()
        firmware = self.firmware
        if self._event in firmware.events:
            firmware.events.close(self._event)
        with suppress(EfiError):  # the guest may have freed what is ours
            firmware.free_pool(self._mode)
            super().remove()

    def stop_for_good(self) -> None:
        """The device is no longer ours: ExitBootServices, or the driver is being stopped."""
        self.network.changed = nothing
        self.network.shut_down()
        self.network.state = STOPPED

    def _frame_waits(self) -> bool:
        return bool(self.network.received)

    def _tell(self) -> None:
        """Write EFI_SIMPLE_NETWORK_MODE."""
        network = self.network
        multicast = b"".join(address.ljust(_MAC, b"\0") for address in network.multicast)
        limits = (ADDRESS, HEADER, MTU, 0, 0)
        filters = (FILTERS, network.filters, net.MAXIMUM_MULTICAST, len(network.multicast))
        addresses = (network.address, net.BROADCAST_ADDRESS, network.permanent)
        # Address changeable, multiple transmits, media present supported, media present.
        flags = (_IF_TYPE_ETHERNET, True, True, True, network.link)
        self.firmware.memory.write(
            self._mode, _MODE.pack(network.state, *limits, *filters, multicast, *addresses, *flags)
        )

    def _need(self, state: int) -> None:
        """EfiError unless the interface is in `state`: NOT_STARTED if it is stopped, DEVICE_ERROR otherwise."""
        if self.network.state != state:
            raise EfiError(Status.NOT_STARTED if self.network.state == STOPPED else Status.DEVICE_ERROR)

    def _need_device(self) -> None:
        """EfiError(DEVICE_ERROR) if a driver of the guest's has taken the device meanwhile."""
        self._need(INITIALIZED)
        if not self.network.holds_device:
            self.firmware.note("a driver of the guest's has reset the network device, which is its own until Reset()")
            raise EfiError(Status.DEVICE_ERROR)

    # -- states

    @function(0x08, "Start()")
    def start(self, cpu: Cpu) -> int:
        """From stopped to started."""
        if self.network.state != STOPPED:
            raise EfiError(Status.ALREADY_STARTED)
        self.network.state = STARTED
        self._tell()
        return Status.SUCCESS

    @function(0x10, "Stop()")
    def stop(self, cpu: Cpu) -> int:
        """From started to stopped."""
        self._need(STARTED)
        self.network.state = STOPPED
        self._tell()
        return Status.SUCCESS

    @function(0x18, "Initialize(u64 ExtraRxBufferSize, u64 ExtraTxBufferSize)")
    def initialize(self, cpu: Cpu, extra_receive: int, extra_transmit: int) -> int:
        """From started to initialized; queues are of no fixed size, so that more room means nothing."""
        self._need(STARTED)
        self.network.initialize()
        self._tell()
        return Status.SUCCESS

    @function(0x20, "Reset(bool ExtendedVerification)")
    def reset(self, cpu: Cpu, extended: int) -> int:
        """Empty the queues; filters, station address and statistics stay."""
        self._need(INITIALIZED)
        self.network.take_device()
        self._tell()
        return Status.SUCCESS

    @function(0x28, "Shutdown()")
    def shutdown(self, cpu: Cpu) -> int:
        """From initialized to started."""
        self._need(INITIALIZED)
        self.network.shut_down()
        self._tell()
        return Status.SUCCESS

    # -- settings

    @function(
        0x30,
        "ReceiveFilters(u32 Enable, u32 Disable, bool ResetMCastFilter, u64 MCastFilterCnt, ptr MCastFilter)",
    )
    def receive_filters(self, cpu: Cpu, enable: int, disable: int, reset: int, count: int, filter_at: int) -> int:
        """Enable and disable filters, and set the multicast list."""
        self._need(INITIALIZED)
        network = self.network
        if (enable | disable) & ~FILTERS:
            if self._is_station_address(cpu, enable):
                self.firmware.note(
                    "quirk: StationAddress(Reset, New) called through the slot of ReceiveFilters; answered EFI_SUCCESS "
                    "without a change, where other firmware answers EFI_INVALID_PARAMETER"
                )
                return Status.SUCCESS
            raise EfiError(Status.INVALID_PARAMETER)
        addresses: list[bytes] = []
        if reset:
            disable |= net.MULTICAST
        elif count:
            if count > net.MAXIMUM_MULTICAST or not filter_at:
                raise EfiError(Status.INVALID_PARAMETER)
            raw = self.firmware.memory.read(filter_at, _MAC * count)
            addresses = [raw[at : at + ADDRESS] for at in range(0, len(raw), _MAC)]
        if enable & net.MULTICAST & ~disable and (not addresses or not all(each[0] & 1 for each in addresses)):
            raise EfiError(Status.INVALID_PARAMETER)
        network.filters = (network.filters | enable) & ~disable
        if reset or addresses:
            network.multicast = addresses
        self._tell()
        return Status.SUCCESS

    def _is_station_address(self, cpu: Cpu, enable: int) -> bool:
        """Whether the arguments are those of StationAddress: a BOOLEAN, and a pointer to an EFI_MAC_ADDRESS."""
        pointer = cpu.arguments()[2]
        if enable > 1 or pointer < _LOWEST_POINTER:
            return False
        try:
            self.firmware.memory.check(pointer, _MAC)
        except BadAddress:
            return False
        return True

    @function(0x38, "StationAddress(bool Reset, ptr New)")
    def station_address(self, cpu: Cpu, reset: int, new_at: int) -> int:
        """Change the address, or put the permanent one back."""
        if not reset and not new_at:
            raise EfiError(Status.INVALID_PARAMETER)
        self._need(INITIALIZED)
        address = self.network.permanent if reset else self.firmware.memory.read(new_at, ADDRESS)
        if address[0] & 1:
            raise EfiError(Status.INVALID_PARAMETER)
        self.network.address = address
        self._tell()
        return Status.SUCCESS

    @function(0x40, "Statistics(bool Reset, ptr StatisticsSize, ptr StatisticsTable)")
    def statistics(self, cpu: Cpu, reset: int, size_at: int, table: int) -> int:
        """Give the counters, or begin to count anew; what is not counted is all ones."""
        self._need(INITIALIZED)
        network = self.network
        if reset:
            network.reset_statistics()
            return Status.SUCCESS
        if not size_at:
            return Status.INVALID_PARAMETER if table else Status.SUCCESS
        memory = self.firmware.memory
        room = memory.read_u64(size_at) if table else 0
        raw = b"".join(network.statistics[name].to_bytes(8, "little") for name in STATISTICS)
        if table:
            memory.write(table, raw[: room & ~7])
        memory.write_u64(size_at, _STATISTICS_SIZE)
        return Status.SUCCESS if room >= _STATISTICS_SIZE else Status.BUFFER_TOO_SMALL

    @function(0x48, "MCastIpToMac(bool IPv6, ptr IP, ptr MAC)")
    def multicast_address(self, cpu: Cpu, version_6: int, ip_at: int, result: int) -> int:
        """The Ethernet address of a multicast group (RFC 1112, 6.4; RFC 2464, 7)."""
        if not ip_at or not result:
            raise EfiError(Status.INVALID_PARAMETER)
        self._need(INITIALIZED)
        memory = self.firmware.memory
        if version_6:
            ip = memory.read(ip_at, 16)
            mac = b"\x33\x33" + ip[12:]
            group = ip[0] == 0xFF
        else:
            ip = memory.read(ip_at, 4)
            mac = bytes((0x01, 0x00, 0x5E, ip[1] & 0x7F)) + ip[2:]
            group = ip[0] & 0xF0 == 0xE0
        if not group:
            raise EfiError(Status.INVALID_PARAMETER)
        memory.write(result, mac)
        return Status.SUCCESS

    @function(0x50, "NvData(bool ReadWrite, u64 Offset, u64 BufferSize, ptr Buffer)")
    def nv_data(self, cpu: Cpu, reading: int, offset: int, size: int, buffer: int) -> int:
        """There is no memory on the device."""
        return Status.UNSUPPORTED

    # -- frames

    @function(0x58, "GetStatus(ptr InterruptStatus, ptr TxBuf)")
    def get_status(self, cpu: Cpu, interrupts_at: int, buffer_at: int) -> int:
        """What has happened, and one transmit buffer that is free again."""
        if not interrupts_at and not buffer_at:
            raise EfiError(Status.INVALID_PARAMETER)
        self._need_device()
        network = self.network
        memory = self.firmware.memory
        interrupts = _RECEIVE_INTERRUPT if network.received else 0
        interrupts |= _TRANSMIT_INTERRUPT if network.sent else 0
        self._found(bool(interrupts))
        if interrupts_at:
            memory.write_u32(interrupts_at, interrupts)
        if buffer_at:
            memory.write_u64(buffer_at, network.sent[0] if network.sent else 0)
            if network.sent:
                network.sent.popleft()
        return Status.SUCCESS

    @function(0x60, "Transmit(u64 HeaderSize, u64 BufferSize, ptr Buffer, ptr SrcAddr, ptr DestAddr, ptr Protocol)")
    def transmit(
        self, cpu: Cpu, header: int, size: int, buffer: int, source_at: int, destination_at: int, protocol_at: int
    ) -> int:
        """Send a frame. It is sent when this returns; its buffer is the firmware's until GetStatus names it."""
        self._need_device()
        network = self.network
        memory = self.firmware.memory
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        if size < HEADER:
            network.statistics["TxUndersizeFrames"] += 1
            raise EfiError(Status.BUFFER_TOO_SMALL)
        if size > LONGEST:
            network.statistics["TxOversizeFrames"] += 1
            raise EfiError(Status.INVALID_PARAMETER)
        if header and (header != HEADER or not destination_at or not protocol_at):
            raise EfiError(Status.INVALID_PARAMETER)
        if len(network.sent) >= net.MAXIMUM_SENT:
            network.statistics["TxDroppedFrames"] += 1
            raise EfiError(Status.NOT_READY)
        memory.check(buffer, size)
        if header:
            source = memory.read(source_at, ADDRESS) if source_at else network.address
            protocol = memory.read_u16(protocol_at).to_bytes(2, "big")
            memory.write(buffer, memory.read(destination_at, ADDRESS) + source + protocol)
        if buffer in network.sent:
            self.firmware.note("quirk: a buffer is transmitted again that GetStatus has not given back")
        network.transmit(buffer, memory.read(buffer, size))
        return Status.SUCCESS

    @function(0x68, "Receive(ptr HeaderSize, ptr BufferSize, ptr Buffer, ptr SrcAddr, ptr DestAddr, ptr Protocol)")
    def receive(
        self, cpu: Cpu, header_at: int, size_at: int, buffer: int, source_at: int, destination_at: int, protocol_at: int
    ) -> int:
        """Take the frame that has waited longest; one that does not fit into the buffer stays."""
        self._need_device()
        if not size_at or not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        network = self.network
        if not network.filters:
            raise EfiError(Status.DEVICE_ERROR)
        self._found(bool(network.received))
        if not network.received:
            return Status.NOT_READY
        memory = self.firmware.memory
        frame = network.received[0]
        room = memory.read_u64(size_at)
        memory.write_u64(size_at, len(frame))
        if room < len(frame):
            return Status.BUFFER_TOO_SMALL
        memory.write(buffer, frame)
        if header_at:
            memory.write_u64(header_at, HEADER)
        if source_at:
            memory.write(source_at, frame[ADDRESS : 2 * ADDRESS])
        if destination_at:
            memory.write(destination_at, frame[:ADDRESS])
        if protocol_at:
            memory.write_u16(protocol_at, int.from_bytes(frame[12:14], "big"))
        network.received.popleft()
        return Status.SUCCESS

    def _found(self, something: bool) -> None:
        """The guest has looked for frames."""
        idle = self.firmware.computer.idle
        if something:
            idle.effect()
        else:
            idle.input_poll()
