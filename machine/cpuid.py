"""CPUID: what the processor says of itself.

An AMD processor of family 19h (Milan) as far as every engine can honour it. Only what both engines execute faithfully is
offered: no AVX, SHA, ADX, CLFLUSHOPT, SMAP (facts measured on Unicorn 2.1.4). Leaves that are not implemented answer
zero: TamaGo reads leaf 0x15 without looking at the maximum, and an echo of another leaf would spoil its clock.

Hypervisor leaves (0x40000000 to 0x40000010): the hypervisor bit is set, the signature is our own, and leaf 0x40000010 holds TSC
and APIC bus frequency in kHz in the place that VMware, KVM and QEMU share. We do not call ourselves KVM: a guest that
believes so expects kvmclock and hypercalls. AMD64 APM volume 3, appendix E; leaf 0x15 and 0x16 as Intel's SDM has them.

What an engine that translates code cannot do, speculate, is told by the bits that spare the guest its defences: AMD_SSB_NO,
SRSO_NO, TSA_SQ_NO, TSA_L1_NO. On KVM the host would know better, but there the guest has no ring 3 to defend itself against.
"""

from collections.abc import Callable

from machine import registers as reg
from machine.callbacks import Constant
from machine.cpu import Cpu
from machine.interrupts import apic_timer

Answer = tuple[int, int, int, int]
Leaf = Callable[[Cpu, int], Answer]

VENDOR = b"AuthenticAMD"
BRAND = b"AMD EPYC-Milan Processor (cvmboot)"
HYPERVISOR = b"cvmbootcvmbo"
CRYSTAL_HZ = 25_000_000
CR4_OSXSAVE = 1 << 18

FAMILY_19H_MODEL_01H = 0x00A00F11

_EDX_1 = (
    sum(1 << n for n in (0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19))  # FPU to CLFSH
    | sum(1 << n for n in (23, 24, 25, 26))  # MMX FXSR SSE SSE2
)
_ECX_1 = sum(1 << n for n in (0, 1, 9, 13, 19, 20, 21, 22, 23, 24, 25, 26, 30, 31))
_EBX_7 = sum(1 << n for n in (0, 1, 3, 8, 9, 18))  # FSGSBASE TSC_ADJUST BMI1 BMI2 ERMS RDSEED
_ECX_80000001 = sum(1 << n for n in (0, 4, 5, 6, 8))  # LAHF CR8 LZCNT SSE4A PREFETCHW
_ECX_80000001_SEVERAL = sum(1 << n for n in (1, 22))  # CmpLegacy TopologyExtensions
_CACHES = (  # type (1 data, 2 instructions, 3 both), level, ways, sets, whether all processors share it: as leaves 0x80000005, 6
    *((1, 1, 8, 64, False), (2, 1, 8, 64, False), (3, 2, 8, 1024, False), (3, 3, 64, 8192, True)),
)
_EDX_80000001 = (_EDX_1 & 0x0183_F3FF) | sum(1 << n for n in (11, 20, 26, 27, 29))  # SYSCALL NX 1G RDTSCP LM
PHYSICAL_BITS, LINEAR_BITS = 48, 48


def _quarter(text: bytes, index: int) -> int:
    return int.from_bytes(text[4 * index : 4 * index + 4].ljust(4, b"\0"), "little")


class CpuidTable:
    """The leaves of one machine. Others may add or replace leaves (SEV, paravirtualisation) with `set_leaf`."""

    def __init__(self, tsc_frequency: int, cpus: int = 1, brand: bytes = BRAND) -> None:
        self.cpus = cpus
        self.signature = FAMILY_19H_MODEL_01H
        self._leaves: dict[int, Leaf] = {}
        signature = [_quarter(VENDOR, n) for n in range(3)]
        hypervisor = [_quarter(HYPERVISOR, n) for n in range(3)]
        fixed: dict[int, Answer] = {
            0: (0x16, signature[0], signature[2], signature[1]),
            0x15: (1, tsc_frequency // CRYSTAL_HZ, CRYSTAL_HZ, 0),
            0x16: (tsc_frequency // 1_000_000, tsc_frequency // 1_000_000, 100, 0),
            0x40000000: (0x40000010, hypervisor[0], hypervisor[1], hypervisor[2]),
            0x40000010: (tsc_frequency // 1000, apic_timer.FREQUENCY // 1000, 0, 0),
            0x80000000: (0x80000021, signature[0], signature[2], signature[1]),
            0x80000005: (0xFF40FF40, 0xFF40FF40, 0x20080140, 0x20080140),
            0x80000006: (0, 0x48006400, 0x02006140, 0x0100C140),
            0x80000007: (0, 0, 0, 1 << 8),  # invariant TSC
            0x80000008: (PHYSICAL_BITS | LINEAR_BITS << 8, 1 << 26, (cpus - 1) | 7 << 12, 0),  # AMD_SSB_NO
            0x80000021: (1 << 29, 0, 1 << 1 | 1 << 2, 0),  # SRSO_NO; TSA_SQ_NO TSA_L1_NO
        }
        for leaf, answer in fixed.items():
            self.set_leaf(leaf, Constant(answer))
        self.identify(FAMILY_19H_MODEL_01H, brand)
        self._leaves[1] = self._features
        self._leaves[7] = self._structured_features
        self._leaves[0x0B] = self._topology
        self._leaves[0x0D] = self._xsave
        if cpus > 1:
            self._leaves[0x8000001D] = self._cache
            self._leaves[0x8000001E] = self._identifiers

    def identify(self, signature: int, brand: bytes) -> None:
        """Be another processor: family, model and stepping as leaf 1 has them in EAX, and up to 47 characters of name."""
        self.signature = signature
        several = _ECX_80000001_SEVERAL if self.cpus > 1 else 0
        extended = (signature, 0x4000_0000, _ECX_80000001 | several, _EDX_80000001)
        self.set_leaf(0x80000001, Constant(extended))
        name = brand.ljust(48, b"\0")
        for n in range(3):
            words = (
                _quarter(name, 4 * n),
                _quarter(name, 4 * n + 1),
                _quarter(name, 4 * n + 2),
                _quarter(name, 4 * n + 3),
            )
            self.set_leaf(0x80000002 + n, Constant(words))

    def patch_level(self, _cpu: Cpu) -> int:
        """MSR PATCH_LEVEL: the processor's identity, and of its patches the last that the 8 bits have room for."""
        signature = self.signature
        family, model = (signature >> 20 & 0xFF) << 24 | (signature >> 16 & 0xF) << 20, (signature & 0xFF) << 8
        return family | model | 0xFF

    def leaves(self) -> list[int]:
        """Every leaf that is implemented, in order."""
        return sorted(self._leaves)

    def set_leaf(self, leaf: int, answer: Leaf) -> None:
        """Answer `leaf` by `answer(cpu, subleaf)` from now on."""
        self._leaves[leaf] = answer

    def __call__(self, cpu: Cpu, leaf: int, subleaf: int) -> Answer:
        """EAX, EBX, ECX, EDX; zeros where the leaf is not implemented."""
        found = self._leaves.get(leaf)
        return found(cpu, subleaf) if found else (0, 0, 0, 0)

    def _features(self, cpu: Cpu, _subleaf: int) -> Answer:
        ecx = _ECX_1 | (1 << 27 if cpu.get(reg.CR4) & CR4_OSXSAVE else 0)
        multi = 1 << 28 if self.cpus > 1 else 0
        return self.signature, cpu.index << 24 | self.cpus << 16 | 8 << 8, ecx, _EDX_1 | multi

    def _structured_features(self, _cpu: Cpu, subleaf: int) -> Answer:
        return (0, _EBX_7, 0, 0) if subleaf == 0 else (0, 0, 0, 0)

    def _topology(self, cpu: Cpu, subleaf: int) -> Answer:
        bits = (self.cpus - 1).bit_length()
        if subleaf == 0:
            return 0, 1, 1 << 8, cpu.index
        if subleaf == 1:
            return bits, self.cpus, 2 << 8 | 1, cpu.index
        return 0, 0, subleaf, cpu.index

    def _cache(self, _cpu: Cpu, subleaf: int) -> Answer:
        if subleaf >= len(_CACHES):
            return 0, 0, 0, 0
        kind, level, ways, sets, shared = _CACHES[subleaf]
        return kind | level << 5 | 1 << 8 | (self.cpus - 1 if shared else 0) << 14, 63 | (ways - 1) << 22, sets - 1, 0

    def _identifiers(self, cpu: Cpu, _subleaf: int) -> Answer:
        """Extended APIC id; core, of one thread; node, of one a processor."""
        return cpu.index, cpu.index & 0xFF, 0, 0

    def _xsave(self, _cpu: Cpu, subleaf: int) -> Answer:
        return (3, 576, 576, 0) if subleaf == 0 else (0, 0, 0, 0)
