"""Vmm: in what the launches of QEMU, EC2, Compute Engine and libkrun differ."""

from sev.measure.errors import MeasureError

PAT_AT_RESET = 0x0007_0406_0007_0406


class Vmm:
    """One kind of host: the register values that it gives a guest, and its order of pages.

    `rdx` is None where RDX holds the processor's signature. Attributes of segments are in the VMCB's form.
    """

    __slots__ = (
        "boot_cs_attributes",
        "cpuid_pages_last",
        "cs_attributes",
        "fcw",
        "g_pat",
        "measures_sec_memory",
        "mxcsr",
        "name",
        "rdx",
        "ss_attributes",
        "text",
        "tr_attributes",
    )

    def __init__(
        self,
        name: str,
        text: str,
        *,
        rdx: int | None = None,
        g_pat: int = PAT_AT_RESET,
        boot_cs_attributes: int = 0x9B,
        cs_attributes: int = 0x9B,
        ss_attributes: int = 0x93,
        tr_attributes: int = 0x8B,
        mxcsr: int = 0,
        fcw: int = 0,
        cpuid_pages_last: bool = False,
        measures_sec_memory: bool = True,
    ) -> None:
        self.name = name
        self.text = text
        self.rdx = rdx
        self.g_pat = g_pat
        self.boot_cs_attributes = boot_cs_attributes
        self.cs_attributes = cs_attributes
        self.ss_attributes = ss_attributes
        self.tr_attributes = tr_attributes
        self.mxcsr = mxcsr
        self.fcw = fcw
        self.cpuid_pages_last = cpuid_pages_last
        self.measures_sec_memory = measures_sec_memory


QEMU = Vmm("qemu", "QEMU on KVM", mxcsr=0x1F80, fcw=0x37F)
QEMU_WITHOUT_FPU = Vmm("qemu-nofpu", "QEMU on a KVM that leaves MXCSR and FCW zero")
EC2 = Vmm(
    *("ec2", "Amazon EC2"),
    rdx=0x600,
    boot_cs_attributes=0x9A,
    ss_attributes=0x92,
    tr_attributes=0x83,
    cpuid_pages_last=True,
)
EC2_WITHOUT_RDX = Vmm(
    *("ec2-rdx0", "Amazon EC2 with RDX zero"),
    rdx=0,
    boot_cs_attributes=0x9A,
    ss_attributes=0x92,
    tr_attributes=0x83,
    cpuid_pages_last=True,
)
GCE = Vmm("gce", "Google Compute Engine", rdx=0x600, g_pat=0x0007_0106, measures_sec_memory=False)
KRUN = Vmm(
    *("krun", "libkrun, as the sev crate of virtee computes it; never compared with hardware"),
    rdx=0,
    boot_cs_attributes=0x9A,
    cs_attributes=0x9A,
    ss_attributes=0x92,
    tr_attributes=0x83,
)

VMMS = {vmm.name: vmm for vmm in (QEMU, EC2, GCE, KRUN, QEMU_WITHOUT_FPU, EC2_WITHOUT_RDX)}


def vmm_named(name: str) -> Vmm:
    """The kind of host with this name, in any case. MeasureError for an unknown one."""
    vmm = VMMS.get(name.lower())
    if vmm is None:
        raise MeasureError(f"VMM {name!r} is unknown; wanted one of {', '.join(VMMS)}")
    return vmm
