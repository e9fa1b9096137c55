"""EFI_RNG_PROTOCOL: random bytes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.guids import Guid
from uefi.interface import Interface, function
from uefi.status import Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_ALGORITHMS = (guids.RNG_ALGORITHM_RAW,)
_PIECE = 0x10000


class Rng(Interface):
    """EFI_RNG_PROTOCOL (UEFI 2.10, 37.5). `source(size)` gives that many random bytes."""

    NAME = "EFI_RNG_PROTOCOL"
    GUID = guids.RNG_PROTOCOL
    SIZE = 0x10

    def __init__(self, firmware: "Firmware", source: Callable[[int], bytes]) -> None:
        super().__init__(firmware)
        self._source = source

    @function(0x00, "GetInfo(ptr RNGAlgorithmListSize, ptr RNGAlgorithmList)")
    def get_info(self, cpu: Cpu, list_size: int, algorithm_list: int) -> int:
        """The GUIDs of the algorithms, the default one first."""
        if not list_size:
            return Status.INVALID_PARAMETER
        memory = self.firmware.memory
        data = b"".join(_ALGORITHMS)
        room = memory.read_u64(list_size)
        memory.write_u64(list_size, len(data))
        if room < len(data):
            return Status.BUFFER_TOO_SMALL
        if not algorithm_list:
            return Status.INVALID_PARAMETER
        memory.write(algorithm_list, data)
        return Status.SUCCESS

    @function(0x08, "GetRNG(guid RNGAlgorithm, u64 RNGValueLength, ptr RNGValue)")
    def get_rng(self, cpu: Cpu, algorithm: Guid | None, length: int, value: int) -> int:
        """Random bytes; without an algorithm, of the default one."""
        if not length or not value:
            return Status.INVALID_PARAMETER
        if algorithm is not None and algorithm not in _ALGORITHMS:
            return Status.UNSUPPORTED
        memory = self.firmware.memory
        memory.check(value, length)
        for done in range(0, length, _PIECE):
            memory.write(value + done, self._source(min(_PIECE, length - done)))
        return Status.SUCCESS
