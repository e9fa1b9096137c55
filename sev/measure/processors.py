"""Processor models and their signatures: what CPUID Fn0000_0001 gives in EAX, and RDX holds at reset.

AMD 25481 "CPUID Specification", Fn0000_0001_EAX. The names are those of QEMU's -cpu option (target/i386/cpu.c).
"""

from sev.measure.errors import MeasureError


def signature(family: int, model: int, stepping: int) -> int:
    """The 32-bit signature of a processor. MeasureError for numbers that no signature can hold."""
    if not (0 <= family <= 0x10E and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise MeasureError(
            f"processor family {family}, model {model}, stepping {stepping}: wanted at most {0x10E}, {0xFF} and {0xF}"
        )
    base = min(family, 0xF)
    return (family - base) << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


def family_model_stepping(value: int) -> tuple[int, int, int]:
    """Family, model and stepping of a 32-bit signature."""
    family = value >> 8 & 0xF
    if family == 0xF:
        family += value >> 20 & 0xFF
    return family, (value >> 16 & 0xF) << 4 | value >> 4 & 0xF, value & 0xF


_NAPLES = signature(23, 1, 2)
_ROME = signature(23, 49, 0)
_MILAN = signature(25, 1, 1)
_GENOA = signature(25, 17, 0)
_TURIN = signature(26, 0, 0)

MODELS = {
    "EPYC": _NAPLES,
    "EPYC-v1": _NAPLES,
    "EPYC-v2": _NAPLES,
    "EPYC-IBPB": _NAPLES,
    "EPYC-v3": _NAPLES,
    "EPYC-v4": _NAPLES,
    "EPYC-v5": _NAPLES,
    "EPYC-Rome": _ROME,
    "EPYC-Rome-v1": _ROME,
    "EPYC-Rome-v2": _ROME,
    "EPYC-Rome-v3": _ROME,
    "EPYC-Rome-v4": _ROME,
    "EPYC-Rome-v5": _ROME,
    "EPYC-Milan": _MILAN,
    "EPYC-Milan-v1": _MILAN,
    "EPYC-Milan-v2": _MILAN,
    "EPYC-Milan-v3": _MILAN,
    "EPYC-Genoa": _GENOA,
    "EPYC-Genoa-v1": _GENOA,
    "EPYC-Genoa-v2": _GENOA,
    "EPYC-Turin": _TURIN,
    "EPYC-Turin-v1": _TURIN,
    "qemu64": signature(15, 107, 1),
    "kvm64": signature(15, 6, 1),
}
"""Signature of each model; the versions of one model share it."""

HOSTS = {
    "host (Milan B0)": signature(25, 1, 0),
    "host (Milan-X B2)": signature(25, 1, 2),
    "host (Genoa B1)": signature(25, 17, 1),
    "host (Genoa-X B2)": signature(25, 17, 2),
    "host (Bergamo A1)": signature(25, 160, 1),
    "host (Bergamo, Siena A2)": signature(25, 160, 2),
    "host (Turin B0)": signature(26, 2, 0),
    "host (Turin C1)": signature(26, 2, 1),
    "host (Turin Dense B0)": signature(26, 17, 0),
}
"""What `-cpu host` gives on server processors whose signature no model has; tried by a search only."""


def signature_of(name: str) -> int:
    """The signature of a model by its QEMU name, in any case. MeasureError for an unknown one."""
    for known, value in MODELS.items():
        if known.lower() == name.lower():
            return value
    raise MeasureError(f"processor model {name!r} is unknown; wanted one of {', '.join(MODELS)}, or a signature")


def names_of(value: int) -> list[str]:
    """The models and hosts with this signature; empty if none is known."""
    return [name for table in (MODELS, HOSTS) for name, known in table.items() if known == value]
