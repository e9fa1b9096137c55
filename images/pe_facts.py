"""What a PE image says about itself, as plain data: for `image inspect`."""

from collections.abc import Callable
from typing import Any

from loader import authenticode, pe
from loader.errors import LoaderError

# PE/COFF specification, "DLL Characteristics"
_DLL_CHARACTERISTICS = {
    0x0020: "HIGH_ENTROPY_VA",
    0x0040: "DYNAMIC_BASE",
    0x0080: "FORCE_INTEGRITY",
    0x0100: "NX_COMPAT",
    0x0200: "NO_ISOLATION",
    0x0400: "NO_SEH",
    0x0800: "NO_BIND",
    0x1000: "APPCONTAINER",
    0x2000: "WDM_DRIVER",
    0x4000: "GUARD_CF",
    0x8000: "TERMINAL_SERVER_AWARE",
}
NX_COMPAT = 0x0100
_READABLE = 0x40000000

SignatureFacts = Callable[[bytes, Callable[[str], bytes]], dict[str, Any]]
"""Of one PKCS#7 blob and the image's Authenticode hash by algorithm: who signed, and whether that is good."""


def pe_facts(data: bytes, signature_facts: SignatureFacts) -> dict[str, Any]:
    """Machine, subsystem, sections, Authenticode hash and signatures; only "problem" where the image is not for us."""
    try:
        image = pe.parse(data)
    except LoaderError as error:
        return {"problem": str(error)}
    facts: dict[str, Any] = {
        "problem": None,
        "machine": image.machine_name,
        "subsystem": image.subsystem_name,
        "size": len(data),
        "size_of_image": image.size_of_image,
        "image_base": f"{image.image_base:#x}",
        "entry": f"{image.entry_rva:#x}",
        "relocatable": image.relocatable,
        "needs_preferred_base": image.needs_preferred_base,
        "nx_compat": bool(image.dll_characteristics & NX_COMPAT),
        "dll_characteristics": [name for bit, name in _DLL_CHARACTERISTICS.items() if image.dll_characteristics & bit],
        "sections": [_section(section) for section in image.sections],
        "authenticode_sha256": None,
        "signatures": [],
    }
    try:
        facts["authenticode_sha256"] = authenticode.digest(image).hex()
        for certificate in authenticode.certificates(image):
            blob = certificate.pkcs7
            if blob is None:
                facts["signatures"].append({"problem": f"a certificate of type {certificate.type:#x}, no PKCS#7"})
            else:
                facts["signatures"].append(signature_facts(blob, lambda name: authenticode.digest(image, name)))
    except LoaderError as error:
        facts["problem"] = str(error)
    return facts


def _section(section: pe.Section) -> dict[str, Any]:
    rights = (
        (section.characteristics & _READABLE, "r"),
        (section.writable, "w"),
        (section.executable, "x"),
    )
    return {
        "name": section.name,
        "rva": f"{section.rva:#x}",
        "virtual_size": section.virtual_size,
        "raw_size": section.raw_size,
        "rights": "".join(letter if is_set else "-" for is_set, letter in rights),
    }
