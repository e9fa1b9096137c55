"""EPYC products and their lines: which CPU a report names, and which certificates and TCB layout belong to it.

AMD 57230 (VCEK certificate and KDS interface): a line has one ARK, one ASK, one ASVK and one KDS path; Bergamo and Siena belong
to Genoa's. CPUID values as in ATTESTATION_REPORT, base and extended family and model already added up.
"""


class Line:
    """A product line. `hwid_size` is the length of the HWID extension and of the KDS path in bytes."""

    __slots__ = ("has_fmc", "hwid_size", "name")

    def __init__(self, name: str, hwid_size: int, has_fmc: bool) -> None:
        self.name = name
        self.hwid_size = hwid_size
        self.has_fmc = has_fmc

    def __repr__(self) -> str:
        return f"Line({self.name})"


MILAN = Line("Milan", 64, False)
GENOA = Line("Genoa", 64, False)
TURIN = Line("Turin", 8, True)
VENICE = Line("Venice", 8, True)
LINES = (MILAN, GENOA, TURIN, VENICE)


class Product:
    """One CPU product: its name and its line."""

    __slots__ = ("line", "name")

    def __init__(self, name: str, line: Line) -> None:
        self.name = name
        self.line = line

    def __repr__(self) -> str:
        return f"Product({self.name})"


# Bergamo and Siena share a family and a model range; no published field tells one from the other.
_PRODUCTS = (
    (0x19, 0x00, 0x0F, Product("Milan", MILAN)),
    (0x19, 0x10, 0x1F, Product("Genoa", GENOA)),
    (0x19, 0xA0, 0xAF, Product("Bergamo or Siena", GENOA)),
    (0x1A, 0x00, 0x11, Product("Turin", TURIN)),
    (0x1A, 0x50, 0x57, Product("Venice", VENICE)),
    (0x1A, 0x90, 0x9F, Product("Venice", VENICE)),
    (0x1A, 0xA0, 0xAF, Product("Venice", VENICE)),
    (0x1A, 0xC0, 0xC7, Product("Venice", VENICE)),
)


def product_of(family: int, model: int) -> Product | None:
    """The product with this CPUID family and model (CPUID_FAM_ID, CPUID_MOD_ID); None if it is not known."""
    for known, first, last, product in _PRODUCTS:
        if family == known and first <= model <= last:
            return product
    return None


def line_named(name: str) -> Line | None:
    """The line with this name, as in "SEV-Genoa" or a KDS path; case matters. None if there is none."""
    for line in LINES:
        if line.name == name:
            return line
    return None


def line_of_extension(text: str) -> Line | None:
    """The line in a certificate's product name: "Milan-B0", "Genoa", "Turin"; None if there is none."""
    return line_named(text.partition("-")[0])


def signature_of(family: int, model: int, stepping: int) -> int:
    """CPUID Fn0000_0001_EAX of a combined family, model and stepping (AMD 24594, CPUID Fn0000_0001_EAX)."""
    return (
        (max(family - 0xF, 0) << 20)
        | (model >> 4) << 16
        | min(family, 0xF) << 8
        | (model & 0xF) << 4
        | (stepping & 0xF)
    )
