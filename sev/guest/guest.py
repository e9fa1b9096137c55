"""One SNP guest on a computer: puts RMP, checker, secure processor, hypervisor and processor together, and fills its pages."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from machine.callbacks import Constant, nothing
from machine.computer import Computer
from machine.memory import HIGH_START
from sev.guest import pages
from sev.guest.checker import COUNTER_RESTART, IV_REUSE, Checker, Kind
from sev.guest.dma import GuestDma
from sev.guest.ghcb_msr import C_BIT, PROTOCOL_MAX
from sev.guest.ghcb_page import PROTOCOL_VERSION
from sev.guest.guest_request import GuestRequests
from sev.guest.launch import Launch
from sev.guest.page_state import PageStates
from sev.guest.processor import SEV_FEATURES, SnpProcessor
from sev.guest.processors import Processors
from sev.guest.rmp import Rmp
from sev.guest.secure_processor import SecureProcessor
from sev.guest.services import Services
from sev.product import signature_of

if TYPE_CHECKING:
    from sev.platform import Platform

CHECKS = ("off", "warn", "strict")
ENCRYPTION_MASK = 1 << C_BIT


class Guest:
    """Made before the firmware, which builds its page tables with `computer.encryption_mask`.

    The firmware then keeps `reserved` free, maps `shared` without the C-bit, calls `place`, and announces `cc_blob`.
    `check` is off, warn or strict. `terminate` ends the guest as crashed, with a reason; `note` gets what was wrong with a
    request that was refused.
    """

    def __init__(
        self,
        computer: Computer,
        launch: Launch,
        platform: "Platform",
        *,
        check: str = "warn",
        busy: int = 0,
        terminate: Callable[[str], None],
        note: Callable[[str], None] = nothing,
        hidden_ports: frozenset[int] = frozenset(),
    ) -> None:
        self.computer = computer
        self.launch = launch
        self.platform = platform
        strict = check == "strict"
        memory = computer.memory
        self.rmp = Rmp(memory.low_size, HIGH_START, memory.end)
        self.checker = Checker(
            memory, self.rmp, computer.engine.flush_translations, reporting=check != "off", strict=strict
        )
        self.secure_processor = SecureProcessor(launch, Constant(platform), allow_counter_restart=not strict)
        self.secure_processor.on_restart = partial(self._key_misused, COUNTER_RESTART)
        self.secure_processor.on_iv_reuse = partial(self._key_misused, IV_REUSE)
        states = PageStates(memory, self.rmp, self.checker)
        requests = GuestRequests(memory, self.checker, self.secure_processor, platform.certificate_table, busy)
        requests.on_refused = note
        cpus = len(computer.engine.cpus)
        self.ghcbs = [pages.FIRST_GHCB + pages.PAGE_SIZE * n for n in range(cpus)]
        self.processors = Processors(computer, self.rmp, SEV_FEATURES)
        services = Services(
            self.checker, states, requests, self.processors, terminate, note, SEV_FEATURES, hidden_ports
        )
        computer.encryption_mask = ENCRYPTION_MASK
        computer.dma = self.dma
        self.processor = SnpProcessor(computer, self.rmp, services, self.ghcbs, launch.vmpl)
        settings = platform.settings
        brand = f"AMD EPYC-{settings.line.name} Processor (cvmboot)".encode()
        computer.cpuid.identify(signature_of(*settings.cpuid), brand)

    @property
    def shared(self) -> list[tuple[int, int]]:
        """(address, size) of memory that is shared from the start: the GHCBs."""
        return [(address, pages.PAGE_SIZE) for address in self.ghcbs]

    @property
    def reserved(self) -> list[tuple[int, int]]:
        """(address, size) of memory that is no longer free."""
        return [(pages.SECRETS_PAGE, pages.PAGE_SIZE), (pages.CPUID_PAGE, pages.PAGE_SIZE), *self.shared]

    @property
    def cc_blob(self) -> bytes:
        """The confidential computing blob."""
        return pages.cc_blob()

    def dma(self, device: str) -> GuestDma:
        """The guest's memory as a device (its name) may use it."""
        return GuestDma(self.computer.memory, self.checker, device)

    def _key_misused(self, rule: Kind, vmpck: int) -> None:
        self.checker.record(rule, self.computer.cpu, detail=f"VMPCK{vmpck}")

    def share(self, address: int, size: int) -> None:
        """Firmware gives whole pages to the host, as it does for buffers of devices."""
        self.rmp.share(address >> 12, size >> 12)
        self.checker.changed(address >> 12, size >> 12)

    def unshare(self, address: int, size: int) -> None:
        """Firmware takes whole pages back and validates them; zeros stand for what hardware would show of the contents."""
        first, count = address >> 12, size >> 12
        self.rmp.make_private(first, count)
        for frame in range(first, first + count):
            self.rmp.validate(frame, False, True)
        self.computer.memory.fill(address, size)
        self.checker.changed(first, count)

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot: all that is not in the guest's memory."""
        return {
            "rmp": self.rmp.save(),
            "launch": self.launch.save(),
            "secure_processor": self.secure_processor.save(),
            "processor": self.processor.save(),
            "processors": self.processors.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        self.rmp.load(state["rmp"])
        self.launch.load(state["launch"])
        self.secure_processor.load(state["secure_processor"])
        self.processor.load(state["processor"])
        self.processors.load(state["processors"])
        self.checker.guard(self.launch.guest_vmpcks)
        self.computer.engine.flush_translations()

    def place(self) -> None:
        """Fill secrets page, CPUID page and GHCBs, and share the GHCBs."""
        computer, memory = self.computer, self.computer.memory
        cpu = computer.engine.cpus[0]
        secrets = pages.secrets_page(
            computer.cpuid.signature,
            self.launch.guest_vmpcks,
            self.launch.tsc_factor,
            self.platform.settings.mitigation_vector,
        )
        memory.write(pages.SECRETS_PAGE, secrets)
        memory.write(
            pages.CPUID_PAGE, pages.cpuid_page(computer.cpuid.leaves(), lambda *leaf: computer.cpuid(cpu, *leaf))
        )
        for address in self.ghcbs:
            memory.fill(address, pages.PAGE_SIZE)
            memory.set_u16(address + PROTOCOL_VERSION, PROTOCOL_MAX)
            self.rmp.share(address >> 12)
        self.checker.guard(self.launch.guest_vmpcks)
