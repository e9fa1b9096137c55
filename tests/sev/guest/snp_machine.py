"""A bare computer that is an SNP guest: identity map with the C-bit, secrets, GHCB; runs small machine code."""

from machine import registers as reg
from machine.paging import IdentityMap
from sev.guest.guest import Guest
from sev.guest.launch import Launch
from sev.platform import Platform
from tests.machine.bare import CODE, DONE, TABLES, Bare

GHCB = 0x820000
REQUEST, RESPONSE, DATA = 0x500_0000, 0x500_1000, 0x510_0000
C_BIT = 1 << 51
VMGEXIT, VMGEXIT_F2, VMMCALL = "f30f01d9", "f20f01d9", "0f01d9"
PVALIDATE, RMPADJUST = "f20f01ff", "f30f01fe"
CF, ZF = 1, 1 << 6


def seeded(size: int) -> bytes:
    """Bytes that are the same in every test, and differ from each other."""
    seeded.count = getattr(seeded, "count", 0) + 1  # type: ignore[attr-defined]
    return bytes((seeded.count * 37 + n * 11) & 0xFF for n in range(size))  # type: ignore[attr-defined]


class SnpMachine:
    """One guest with an emulated platform; `ended` is the reason if it was terminated, `notes` what was refused."""

    def __init__(
        self,
        platform: Platform,
        check: str = "warn",
        busy: int = 0,
        vmpl: int = 0,
        cpus: int = 1,
        engine: str = "unicorn",
    ) -> None:
        self.bare = Bare(cpus=cpus, engine=engine)
        self.computer, self.cpu = self.bare.computer, self.bare.cpu
        self.memory = self.computer.memory
        self.ended = ""
        self.notes: list[str] = []
        self.launch = Launch(bytes(range(48)), seeded, vmpl=vmpl)
        self.guest = Guest(
            self.computer,
            self.launch,
            platform,
            check=check,
            busy=busy,
            terminate=self._terminate,
            note=self.notes.append,
            hidden_ports=frozenset((0x507,)),
        )
        self.rmp, self.checker = self.guest.rmp, self.guest.checker
        self.map = IdentityMap(self.memory, TABLES, self.memory.end, self.computer.encryption_mask)
        self.map.share(self.guest.shared)
        self.guest.place()
        self.cpu.set(reg.CR3, self.map.base)

    def _terminate(self, text: str) -> None:
        self.ended = text
        self.computer.finish("terminated")

    def share(self, *addresses: int) -> None:
        """Make pages shared in the RMP and in the page tables, as a guest does that knows how."""
        for address in addresses:
            self.rmp.share(address >> 12)
            self.map.share([(address, 4096)])
        self.computer.engine.flush_translations()

    def run(self, code: str) -> object:
        """Run machine code to its end (or what ended it before)."""
        self.bare.catch_faults()
        self.computer._end = None  # a computer that has ended stays ended; here it is used again
        return self.bare.run(code + DONE, CODE)

    def instruction(self, code: str, rax: int = 0, rcx: int = 0, rdx: int = 0) -> tuple[int, int]:
        """Run one instruction; RAX and RFLAGS behind it (RDX in R8)."""
        for register, value in ((reg.RAX, rax), (reg.RCX, rcx), (reg.RDX, rdx)):
            self.cpu.set(register, value)
        assert self.run(code + "4989c2 4989d0 9c 415b") == "done", self.bare.faults  # to R10, R8, R11
        return self.cpu.get(reg.R10), self.cpu.get(reg.R11)

    def exit(self, code: int, info1: int = 0, info2: int = 0, **fields: int) -> tuple[int, int]:
        """A VMGEXIT through the GHCB page, fields by name; SW_EXITINFO1 and SW_EXITINFO2 of the answer."""
        offsets = {
            **{"rax": 0x1F8, "rcx": 0x308, "rdx": 0x310, "rbx": 0x318, "scratch": 0x3A8, "xcr0": 0x3E8},
            **{"code": 0x390, "info1": 0x398, "info2": 0x3A0},
        }
        bitmap = 0
        for name, value in {"code": code, "info1": info1, "info2": info2, **fields}.items():
            self.memory.set_u64(GHCB + offsets[name], value)
            bitmap |= 1 << offsets[name] // 8
        self.memory.write(GHCB + 0x3F0, bitmap.to_bytes(16, "little"))
        assert self.run(VMGEXIT) == ("terminated" if self.ended else "done")
        return self.memory.u64(GHCB + 0x398), self.memory.u64(GHCB + 0x3A0)

    def field(self, offset: int) -> int:
        """A field of the GHCB; it must be marked valid."""
        bitmap = int.from_bytes(self.memory.read(GHCB + 0x3F0, 16), "little")
        assert bitmap >> offset // 8 & 1, f"field {offset:#x} is not marked valid"
        return self.memory.u64(GHCB + offset)

    def kinds(self) -> set[str]:
        """Names of the violations that were found."""
        return {finding.kind.name for finding in self.checker.findings}

    def close(self) -> None:
        """Free it."""
        self.bare.close()
