/* everything.efi: what the firmware says of the machine: ACPI, SMBIOS (4.6), processors (PI 1.7, volume 2, 13.3). */
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

static void count_processor(void *argument) { __asm__ volatile("lock incq %0" : "+m"(*(volatile UINT64 *)argument)); }

static void check_other_processors(EFI_MP_SERVICES_PROTOCOL *services, UINTN count) {
    volatile UINT64 ran = 0;
    BOOLEAN finished = FALSE;
    EFI_STATUS status = services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, NULL);
    if (count == 1) {
        check_status(status, EFI_NOT_STARTED, L"StartupAllAPs when there are none");
        return;
    }
    check_status(status, EFI_SUCCESS, L"StartupAllAPs");
    check_equal(ran, count - 1, L"all others ran the procedure");
    ran = 0;
    check_status(services->StartupThisAP(services, count_processor, 1, NULL, 0, (void *)&ran, &finished), EFI_SUCCESS,
                 L"StartupThisAP of processor 1");
    check_equal(ran, 1, L"it ran the procedure");
    check_status(services->EnableDisableAP(services, 1, FALSE, NULL), EFI_SUCCESS, L"EnableDisableAP, off");
    check_status(services->StartupThisAP(services, count_processor, 1, NULL, 0, (void *)&ran, NULL),
                 EFI_INVALID_PARAMETER, L"StartupThisAP of a disabled processor");
    check_status(services->EnableDisableAP(services, 1, TRUE, NULL), EFI_SUCCESS, L"EnableDisableAP, on");
}

void check_processors(void) {
    EFI_MP_SERVICES_PROTOCOL *services = find_protocol(GUID_OF(EFI_MP_SERVICES_PROTOCOL_GUID));
    UINTN count = 0, enabled = 0, me = 99;
    UINT64 ran = 0;
    struct {
        EFI_PROCESSOR_INFORMATION info;
        UINT64 behind; /* firmware that takes the structure for larger than it is writes here */
    } space;
    memset(&space, 0x5a, sizeof(space));
    chapter(L"PI, volume 2, 13.3: processors");
    if (!services) {
        skip(L"processors", L"there is no multiprocessor services protocol");
        return;
    }
    check_status(services->GetNumberOfProcessors(services, &count, &enabled), EFI_SUCCESS, L"GetNumberOfProcessors");
    check(count >= 1 && enabled >= 1 && enabled <= count, L"its numbers make sense");
    check_status(services->GetNumberOfProcessors(services, NULL, &enabled), EFI_INVALID_PARAMETER,
                 L"GetNumberOfProcessors with NumberOfProcessors NULL");
    check_status(services->WhoAmI(services, &me), EFI_SUCCESS, L"WhoAmI");
    check(me < count, L"we are one of the processors");
    check_status(services->GetProcessorInfo(services, me, &space.info), EFI_SUCCESS,
                 L"GetProcessorInfo of ourselves");
    check_equal(space.behind, 0x5a5a5a5a5a5a5a5a, L"it writes 48 bytes and no more");
    check_equal(space.info.StatusFlag & 7, PROCESSOR_AS_BSP_BIT | PROCESSOR_ENABLED_BIT | PROCESSOR_HEALTH_STATUS_BIT,
                L"we are the boot processor, enabled and healthy");
    check_status(services->GetProcessorInfo(services, count, &space.info), EFI_NOT_FOUND,
                 L"GetProcessorInfo of one too many");
    check_status(services->GetProcessorInfo(services, me, NULL), EFI_INVALID_PARAMETER,
                 L"GetProcessorInfo with ProcessorInfoBuffer NULL");
    check_status(services->StartupThisAP(services, count_processor, count, NULL, 0, &ran, NULL), EFI_NOT_FOUND,
                 L"StartupThisAP of one too many");
    check_status(services->StartupThisAP(services, count_processor, me, NULL, 0, &ran, NULL), EFI_INVALID_PARAMETER,
                 L"StartupThisAP of the boot processor");
    check_either(services->StartupAllAPs(services, NULL, FALSE, NULL, 0, NULL, NULL), EFI_INVALID_PARAMETER,
                 EFI_NOT_STARTED, L"StartupAllAPs without a procedure");
    check_other_processors(services, count);
}
