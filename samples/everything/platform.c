/* everything.efi: what the firmware says of the machine: ACPI and SMBIOS (4.6). */
#include "check.h"

static void *find_table(EFI_GUID *guid) {
    for (UINTN i = 0; i < ST->NumberOfTableEntries; i++)
        if (guid_equal(&ST->ConfigurationTable[i].VendorGuid, guid)) return ST->ConfigurationTable[i].VendorTable;
    return NULL;
}

/* Tables of ACPI and SMBIOS add up to 0, modulo 256. */
static BOOLEAN sums_to_zero(const UINT8 *bytes, UINTN size) {
    UINT8 sum = 0;
    for (UINTN i = 0; i < size; i++) sum += bytes[i];
    return sum == 0;
}

static UINT32 read32(const UINT8 *at) { return at[0] | at[1] << 8 | at[2] << 16 | (UINT32)at[3] << 24; }

static UINT64 read64(const UINT8 *at) { return read32(at) | (UINT64)read32(at + 4) << 32; }

static BOOLEAN good_acpi_table(const UINT8 *table) {
    return table && read32(table + 4) >= 36 && sums_to_zero(table, read32(table + 4));
}

void check_acpi(void) {
    const UINT8 *root = find_table(GUID_OF(EFI_ACPI_20_TABLE_GUID));
    const UINT8 *fixed = NULL, *apic = NULL;
    BOOLEAN good = TRUE;
    chapter(L"4.6: ACPI");
    if (!check(root != NULL, L"there is an ACPI 2.0 table")) return;
    check(memcmp(root, "RSD PTR ", 8) == 0, L"it is a root system description pointer");
    check(root[15] >= 2 && read32(root + 20) >= 36, L"its revision is 2 or later");
    check(sums_to_zero(root, 20), L"its first 20 bytes add up to 0");
    check(sums_to_zero(root, read32(root + 20)), L"all of it adds up to 0");
    const UINT8 *list = (const UINT8 *)read64(root + 24);
    if (!check(list && memcmp(list, "XSDT", 4) == 0, L"it points at an extended system description table")) return;
    check(good_acpi_table(list), L"which adds up to 0");
    for (UINT32 at = 36; at + 8 <= read32(list + 4); at += 8) {
        const UINT8 *table = (const UINT8 *)read64(list + at);
        good &= good_acpi_table(table);
        if (memcmp(table, "FACP", 4) == 0) fixed = table;
        if (memcmp(table, "APIC", 4) == 0) apic = table;
    }
    check(good, L"so do all tables in it");
    check(apic != NULL, L"there is a multiple APIC description table");
    if (!check(fixed != NULL, L"there is a fixed ACPI description table")) return;
    const UINT8 *dsdt = (const UINT8 *)(UINT64)read32(fixed + 40);
    if (read32(fixed + 4) >= 148 && read64(fixed + 140)) dsdt = (const UINT8 *)read64(fixed + 140);
    check(dsdt && memcmp(dsdt, "DSDT", 4) == 0 && good_acpi_table(dsdt), L"its DSDT adds up to 0");
    UINT32 type = memory_type_of((UINT64)fixed);
    check(type == EfiACPIReclaimMemory || type == EfiACPIMemoryNVS || type == EfiReservedMemoryType,
          L"it lies in memory for ACPI");
}

/* Structures follow each other: type, length, handle; after `length` bytes come texts, ended by two zeros. */
static void check_structures(const UINT8 *at, const UINT8 *end) {
    BOOLEAN firmware = FALSE, system = FALSE, last = FALSE;
    while (!last && at + 4 <= end && at[1] >= 4) {
        firmware |= at[0] == 0;
        system |= at[0] == 1;
        last = at[0] == 127;
        at += at[1];
        while (at + 2 <= end && (at[0] || at[1])) at++;
        at += 2;
    }
    check(firmware, L"there is a structure on the firmware (type 0)");
    check(system, L"there is a structure on the system (type 1)");
    check(last, L"the list ends with a structure of type 127");
}

void check_smbios(void) {
    const UINT8 *new = find_table(GUID_OF(SMBIOS3_TABLE_GUID)), *old = find_table(GUID_OF(SMBIOS_TABLE_GUID));
    chapter(L"4.6: SMBIOS");
    if (new) {
        check(memcmp(new, "_SM3_", 5) == 0, L"SMBIOS 3 entry point");
        check(sums_to_zero(new, new[6]), L"it adds up to 0");
        const UINT8 *first = (const UINT8 *)read64(new + 16);
        check_structures(first, first + read32(new + 12));
    } else if (old) {
        check(memcmp(old, "_SM_", 4) == 0, L"SMBIOS 2 entry point");
        check(sums_to_zero(old, old[5]), L"it adds up to 0");
        check(memcmp(old + 16, "_DMI_", 5) == 0 && sums_to_zero(old + 16, 15), L"so does its inner part");
        const UINT8 *first = (const UINT8 *)(UINT64)read32(old + 24);
        check_structures(first, first + (old[22] | old[23] << 8));
    } else {
        skip(L"SMBIOS", L"there is no SMBIOS table");
    }
}
