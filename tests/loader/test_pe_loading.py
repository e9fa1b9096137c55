"""Images in memory: where each byte comes from, what relocations change, which bases are refused."""

import mmap
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pe_builder import DATA, SectionSpec, build, relocation_blocks

from loader import pe
from loader.errors import BaseTakenError, DamagedImageError, UnsupportedImageError

ABSOLUTE, HIGH, LOW, HIGHLOW, DIR64 = 0, 1, 2, 3, 10
PREFERRED = 0x10000000


def load(data: bytes, base: int | None = None) -> bytearray:
    image = pe.parse(data)
    memory = bytearray(image.size_of_image)
    image.load_into(memoryview(memory), image.image_base if base is None else base)
    return memory


def test_headers_say_what_the_image_is() -> None:
    data = build(
        [SectionSpec(".text", b"\x90\xc3"), SectionSpec(".data", b"data", virtual_size=0x1800, characteristics=DATA)],
        subsystem=12,
        relocations=[(0x2000, DIR64)],
    )
    image = pe.parse(data)
    assert (image.machine, image.machine_name) == (0x8664, "x86-64")
    assert (image.subsystem, image.subsystem_name) == (12, "EFI runtime driver")
    assert (image.image_base, image.entry_rva, image.size_of_image) == (PREFERRED, 0x1000, 0x5000)
    assert image.relocatable
    assert not image.needs_preferred_base
    text, bss, reloc = image.sections
    assert (text.name, text.rva, text.virtual_size, text.executable, text.writable) == (".text", 0x1000, 2, True, False)
    assert (bss.name, bss.rva, bss.virtual_size, bss.raw_size, bss.writable) == (".data", 0x2000, 0x1800, 0x200, True)
    assert reloc.name == ".reloc"
    assert data[text.raw_offset : text.raw_offset + 2] == b"\x90\xc3"
    assert image.directory(5) == (reloc.rva, 12)
    assert image.directory(99) == (0, 0)


def test_headers_and_sections_lie_at_their_addresses_and_the_rest_is_zero() -> None:
    data = build(
        [SectionSpec(".text", b"code"), SectionSpec(".data", b"data", virtual_size=0x2345, characteristics=DATA)]
    )
    memory = load(data)
    assert memory[:0x200] == data[:0x200]
    assert memory[0x1000:0x1004] == b"code"
    assert memory[0x2000:0x2004] == b"data"
    assert not any(memory[0x2004:])


def test_sections_with_tamagos_odd_alignment_load() -> None:
    data = build(
        [
            SectionSpec(".note", b"n" * 24, rva=0xFF60),
            SectionSpec(".more", b"m" * 100, rva=0xFF78),
            SectionSpec(".text", b"t" * 0x333, rva=0x10000),
            SectionSpec(".noptrbss", b"", rva=0x10340, virtual_size=0x380, characteristics=DATA),
        ],
        entry_rva=0x10000,
        characteristics=0x0226,
        size_of_image=0x106C0,
    )
    memory = load(data)
    assert len(memory) == 0x106C0
    assert memory[0xFF60:0xFFDC] == b"n" * 24 + b"m" * 100
    assert memory[0x10000:0x10333] == b"t" * 0x333
    assert not any(memory[0x10333:])


def test_raw_data_beyond_the_virtual_size_is_dropped() -> None:
    memory = load(
        build([SectionSpec(".text", b"A" * 0x200, virtual_size=0x80), SectionSpec(".data", b"B", rva=0x1080)])
    )
    assert memory[0x1000:0x1082] == b"A" * 0x80 + b"B\0"


def test_a_virtual_size_of_zero_stands_for_the_raw_size() -> None:
    data = build([SectionSpec(".text", b"A" * 0x200, virtual_size=0)])
    assert pe.parse(data).sections[0].virtual_size == 0x200
    assert load(data)[0x1000:0x1200] == b"A" * 0x200


def test_an_empty_section_at_any_address_is_harmless() -> None:
    memory = load(
        build([SectionSpec(".text", b"A"), SectionSpec(".empty", rva=0xFFFF0000, virtual_size=0)], size_of_image=0x2000)
    )
    assert memory[0x1000] == ord("A")


POINTERS = struct.pack("<QIHHQ", PREFERRED + 0x1234, PREFERRED + 0x10, 0x1000, 0x0010, PREFERRED)
"""At RVA 0x2000: an address to be changed by each type, then one without a relocation."""


def test_each_relocation_type_changes_its_own_bits() -> None:
    data = build(
        [SectionSpec(".text", b"\xc3"), SectionSpec(".data", POINTERS, characteristics=DATA)],
        relocations=[(0x2000, DIR64), (0x2008, HIGHLOW), (0x200C, HIGH), (0x200E, LOW), (0x2010, ABSOLUTE)],
    )
    base = 0x7_2345_6000
    delta = base - PREFERRED
    memory = load(data, base)
    values = struct.unpack_from("<QIHHQ", memory, 0x2000)
    assert values == (
        base + 0x1234,
        (PREFERRED + 0x10 + delta) & 0xFFFFFFFF,
        (0x1000 + (delta >> 16)) & 0xFFFF,
        (0x0010 + delta) & 0xFFFF,
        PREFERRED,
    )


def test_the_loaded_header_names_the_real_base() -> None:
    data = build(relocations=[])
    image = pe.parse(build([SectionSpec(".text", b"\xc3" * 8)], relocations=[(0x1000, DIR64)]))
    memory = bytearray(image.size_of_image)
    assert image.load_into(memoryview(memory), 0x40000000) == 1
    assert struct.unpack_from("<Q", memory, 0x80 + 24 + 24) == (0x40000000,)
    assert load(data)[:0x200] == data[:0x200]


def test_nothing_is_relocated_at_the_preferred_base() -> None:
    image = pe.parse(build([SectionSpec(".text", b"\xc3" * 8)], relocations=[(0x1000, DIR64)]))
    memory = bytearray(image.size_of_image)
    assert image.load_into(memoryview(memory), PREFERRED) == 0
    assert memory[0x1000:0x1008] == b"\xc3" * 8


@given(
    delta=st.integers(-(1 << 40), 1 << 40),
    sites=st.lists(
        st.tuples(st.integers(0, 0x1FF8), st.sampled_from([ABSOLUTE, HIGH, LOW, HIGHLOW, DIR64])), min_size=1
    ),
)
def test_relocations_add_up_at_any_alignment_even_when_they_overlap(delta: int, sites: list[tuple[int, int]]) -> None:
    content = bytes(range(256)) * 32
    table = b"".join(relocation_blocks([(0x1000 + site, kind)]) for site, kind in sites)
    data = build([SectionSpec(".text", content), SectionSpec(".reloc", table)], image_base=1 << 41)
    expected = bytearray(content)
    for site, kind in sites:
        width, shift = {ABSOLUTE: (0, 0), HIGH: (2, 16), LOW: (2, 0), HIGHLOW: (4, 0), DIR64: (8, 0)}[kind]
        value = int.from_bytes(expected[site : site + width], "little") + (delta >> shift)
        expected[site : site + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    assert load(data, (1 << 41) + delta)[0x1000:0x3000] == expected


def test_a_relocation_across_the_end_of_the_last_page_is_refused() -> None:
    table = struct.pack("<IIHH", 0x1000, 12, DIR64 << 12 | 0xFFC, 0)
    with pytest.raises(DamagedImageError, match=r"RVA 0x1ffc lies outside the image of 0x2000 bytes"):
        load(build([SectionSpec(".reloc", table)]), 0x40000000)


def test_a_relocation_in_the_last_bytes_of_the_image_is_applied_and_one_beyond_is_refused() -> None:
    def image(site: int) -> bytes:
        table = struct.pack("<IIHH", 0x1000, 12, DIR64 << 12 | site, 0)
        section = SectionSpec(".reloc", table + struct.pack("<Q", PREFERRED))
        return build([section], size_of_image=0x1014, directories={5: (0x1000, 12)})

    assert struct.unpack_from("<Q", load(image(12), 0x40000000), 0x100C) == (0x40000000,)
    with pytest.raises(DamagedImageError, match=r"RVA 0x100d lies outside the image of 0x1014 bytes"):
        load(image(13), 0x40000000)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (struct.pack("<IIHH", 0x1000, 12, 4 << 12, 0), "RVA 0x1000 has type 4, want"),
        (struct.pack("<II", 0x1000, 0), "has size 0x0, want an even number of 8 to 0x10"),
        (struct.pack("<II", 0x1000, 7), "has size 0x7, want"),
        (struct.pack("<IIB", 0x1000, 9, 0), "has size 0x9, want"),
        (struct.pack("<II", 0x1000, 0x18), "has size 0x18, want"),
        (struct.pack("<IIHH", 0xFFFFF000, 12, DIR64 << 12, 0), "RVA 0xfffff000 lies outside the image"),
    ],
)
def test_damaged_relocations_are_refused(table: bytes, message: str) -> None:
    data = build([SectionSpec(".text", b"\xc3"), SectionSpec(".reloc", table.ljust(16, b"\0"))])
    with pytest.raises(DamagedImageError, match=message):
        load(data, 0x40000000)


def test_an_image_without_relocations_takes_its_preferred_base_only() -> None:
    image = pe.parse(build(characteristics=0x0226))
    assert image.needs_preferred_base
    assert not image.relocatable
    memory = memoryview(bytearray(image.size_of_image))
    assert image.load_into(memory, PREFERRED) == 0
    with pytest.raises(BaseTakenError, match=r"runs at 0x10000000 only .* cannot lie at 0x20000000"):
        image.load_into(memory, 0x20000000)


def test_stripped_relocations_are_not_applied() -> None:
    image = pe.parse(build(relocations=[(0x1000, DIR64)], characteristics=0x0023))
    assert not image.relocatable
    assert image.needs_preferred_base


def test_a_linux_kernel_with_base_zero_and_no_relocations_lies_anywhere() -> None:
    data = build(image_base=0, characteristics=0x0206)
    assert not pe.parse(data).needs_preferred_base
    assert load(data, 0x40000000)[0x1000] == 0xC3
    assert pe.parse(build(image_base=0, characteristics=0x0207)).needs_preferred_base


def test_a_small_program_by_lld_lies_anywhere() -> None:
    """It has no relocations because it holds no address, and says DYNAMIC_BASE."""
    data = build(image_base=0x1_4000_0000, dll_characteristics=0x8160)
    assert not pe.parse(data).needs_preferred_base
    assert load(data, 0x40000000)[0x1000] == 0xC3
    assert pe.parse(build(characteristics=0x0023, dll_characteristics=0x8160)).needs_preferred_base


def test_a_buffer_that_is_too_small_is_a_programming_error() -> None:
    image = pe.parse(build())
    with pytest.raises(ValueError, match="buffer has 0x1fff bytes, the image needs 0x2000"):
        image.load_into(memoryview(bytearray(0x1FFF)), PREFERRED)


def test_a_larger_buffer_keeps_its_other_bytes() -> None:
    image = pe.parse(build())
    memory = bytearray(b"\0" * image.size_of_image + b"neighbour")
    image.load_into(memoryview(memory), PREFERRED)
    assert memory[image.size_of_image :] == b"neighbour"


def test_bytes_memoryview_and_mmap_are_taken() -> None:
    data = build([SectionSpec(".text", b"same")])
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert load(memoryview(data)) == load(bytearray(data)) == load(mapped) == load(data)  # type: ignore[arg-type]


def test_a_large_image_with_many_relocations_loads() -> None:
    code = bytes(15 << 20)
    data = build([SectionSpec(".text", code)], relocations=[(0x1000 + 64 * n, DIR64) for n in range(20_000)])
    image = pe.parse(data)
    assert image.load_into(memoryview(bytearray(image.size_of_image)), 0x40000000) == 20_000


GUESTS = os.environ.get("CVMBOOT_GUESTS")


@pytest.mark.guests
@pytest.mark.skipif(not GUESTS, reason="CVMBOOT_GUESTS does not name a folder of guest programs")
def test_real_programs_load() -> None:
    """Whatever x86-64 image the folder holds: TamaGo's, GRUB's, shim's, iPXE's, Linux, edk2's Shell."""
    loaded = 0
    for path in Path(GUESTS or "").rglob("*"):
        if not path.is_file() or path.open("rb").read(2) != b"MZ":
            continue
        try:
            image = pe.parse(path.read_bytes())
        except UnsupportedImageError as error:
            assert "want x86-64" in str(error), path.name
            continue
        memory = bytearray(image.size_of_image)
        image.load_into(memoryview(memory), image.image_base if image.needs_preferred_base else 0x4000_0000)
        assert any(memory[image.entry_rva : image.entry_rva + 16]), path.name
        loaded += 1
    assert loaded
