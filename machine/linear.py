"""Guest memory as guest code addresses it: through the page tables of a CPU."""

from machine.cpu import Cpu
from machine.errors import BadAddress
from machine.memory import PhysicalMemory
from machine.paging import READ, WRITE, Mode, NonCanonical, PageFault, walk


class LinearMemory:
    """Reads and writes at linear addresses of one CPU, page by page. BadAddress where the tables map no RAM.

    Supervisor access; accessed and dirty bits stay as they are, because it is the host that looks.
    """

    def __init__(self, memory: PhysicalMemory, cpu: Cpu, mode: Mode, mask: int = 0) -> None:
        self._memory = memory
        self._cpu = cpu
        self._mode = mode
        self._mask = mask

    def physical(self, address: int, access: int = READ) -> int:
        """The physical address behind a linear one."""
        try:
            found = walk(self._memory, self._mode, address, access, mask=self._mask, mark=False)
        except (PageFault, NonCanonical):
            raise BadAddress(address) from None
        return found.physical | (address & 0xFFF)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at a linear address."""
        parts = []
        while size > 0:
            n = min(size, 4096 - (address & 0xFFF))
            parts.append(self._memory.read(self.physical(address), n))
            address, size = address + n, size - n
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at a linear address."""
        view = memoryview(data).cast("B")
        while view:
            n = min(len(view), 4096 - (address & 0xFFF))
            self._memory.write(self.physical(address, WRITE), view[:n])
            address, view = address + n, view[n:]
