"""SNP_GUEST_REQUEST on the hypervisor's side: pages checked, the secure processor asked, certificates handed out, busy times
(AMD 56421 GHCB, 4.1.7 and 4.1.8; SW_EXITINFO2 as KVM fills it)."""

from collections.abc import Callable

from machine.callbacks import nothing
from machine.cpu import Cpu
from machine.memory import PhysicalMemory
from sev.errors import Refused, SevError
from sev.firmware_status import INVALID_PARAM, SUCCESS
from sev.guest.checker import Checker
from sev.guest.ghcb_page import INVALID_INPUT, Malformed
from sev.guest.secure_processor import SecureProcessor

PAGE_SIZE = 4096
# SW_EXITINFO2[63:32]
BUFFER_TOO_SMALL, BUSY, HOST_ERROR = 1 << 32, 2 << 32, 0x8000_0000 << 32


class GuestRequests:
    """Carries messages between a guest's shared pages and the secure processor.

    `certificates` gives the table for extended requests; `busy` is how many times each message is answered BUSY before it
    is served. `on_refused` gets a line for people when the secure processor refuses a message.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        checker: Checker,
        processor: SecureProcessor,
        certificates: Callable[[], bytes],
        busy: int = 0,
    ) -> None:
        self._memory = memory
        self._checker = checker
        self._processor = processor
        self._certificates = certificates
        self._busy = busy
        self.busy_left = busy
        self.on_refused: Callable[[str], None] = nothing

    def run(self, cpu: Cpu, request: int, response: int) -> int:
        """Serve the message at guest physical `request`, the answer to `response`; gives SW_EXITINFO2.

        Malformed for addresses that are not those of two different pages of RAM.
        """
        self._check_addresses(request, response)
        if self._throttled():
            return BUSY
        return self._serve(cpu, request, response)

    def run_extended(self, cpu: Cpu, request: int, response: int, data: int, pages: int) -> tuple[int, int]:
        """The same with the certificate table put to `data` (`pages` pages): SW_EXITINFO2 and RBX, the pages it takes."""
        self._check_addresses(request, response)
        try:
            table = self._certificates()
        except SevError as error:
            self.on_refused(f"certificates for the guest: {error}")
            return HOST_ERROR, pages
        needed = -(-len(table) // PAGE_SIZE)
        if pages < needed:
            return BUFFER_TOO_SMALL, needed
        if data % PAGE_SIZE:
            raise Malformed(INVALID_INPUT, f"certificate buffer at {data:#x}, not at a page's start")
        if not self._checker.host_access(data, needed * PAGE_SIZE, "certificate buffer", cpu):
            raise Malformed(INVALID_INPUT, f"certificate buffer at {data:#x} is not shared memory")
        if self._throttled():
            return BUSY, pages
        result = self._serve(cpu, request, response)
        if not result:
            self._memory.write(data, table)
        return result, pages

    def _check_addresses(self, request: int, response: int) -> None:
        for name, address in (("request", request), ("response", response)):
            if address % PAGE_SIZE or not self._memory.is_ram(address):
                raise Malformed(INVALID_INPUT, f"{name} page at {address:#x}, which is no page of memory")
        if request == response:
            raise Malformed(INVALID_INPUT, f"request and response in one page, {request:#x}")

    def _throttled(self) -> bool:
        if self.busy_left:
            self.busy_left -= 1
            return True
        self.busy_left = self._busy
        return False

    def _serve(self, cpu: Cpu, request: int, response: int) -> int:
        """Firmware status in the lower half of SW_EXITINFO2; pages that are not shared are refused like a bad message."""
        checker = self._checker
        shared = [
            checker.host_access(page, PAGE_SIZE, what, cpu)
            for page, what in ((request, "request page"), (response, "response page"))
        ]
        if not all(shared):
            self.on_refused("guest message: request or response page is not shared")
            return INVALID_PARAM
        checker.look_for_keys(request >> 12, 1, cpu, "in a request page")
        try:
            answer = self._processor.request(self._memory.read(request, PAGE_SIZE))
        except Refused as refused:
            self.on_refused(str(refused))
            return refused.status
        self._memory.write(response, answer)
        return SUCCESS
