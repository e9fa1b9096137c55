/* everything.efi, chapter 4: the system table, the tables of services, the configuration tables. */
#include "check.h"

/* The CRC over the table with its own CRC taken as zero, which is what the header must hold. */
static UINT32 table_crc(EFI_TABLE_HEADER *header) {
    UINT8 copy[512];
    UINT32 crc = 0;
    if (header->HeaderSize < sizeof(EFI_TABLE_HEADER) || header->HeaderSize > sizeof(copy)) return ~header->CRC32;
    memcpy(copy, header, header->HeaderSize);
    ((EFI_TABLE_HEADER *)copy)->CRC32 = 0;
    BS->CalculateCrc32(copy, header->HeaderSize, &crc);
    return crc;
}

/* A slot of a table that the firmware left empty would be a jump to nowhere. */
static BOOLEAN all_slots_filled(void *table, UINTN size, UINTN reserved_slot) {
    void **slots = table;
    for (UINTN i = sizeof(EFI_TABLE_HEADER) / 8; i < size / 8; i++)
        if (i * 8 != reserved_slot && !slots[i]) return FALSE;
    return TRUE;
}

static void check_crc32(void) {
    UINT32 crc = 0;
    check_status(BS->CalculateCrc32("123456789", 9, &crc), EFI_SUCCESS, L"CalculateCrc32 of nine digits");
    check_equal(crc, 0xcbf43926, L"CalculateCrc32 uses the polynomial of Ethernet");
    check_status(BS->CalculateCrc32(NULL, 9, &crc), EFI_INVALID_PARAMETER, L"CalculateCrc32 with Data NULL");
    check_status(BS->CalculateCrc32("1", 0, &crc), EFI_INVALID_PARAMETER, L"CalculateCrc32 with DataSize 0");
    check_status(BS->CalculateCrc32("1", 1, NULL), EFI_INVALID_PARAMETER, L"CalculateCrc32 with Crc32 NULL");
}

void check_tables(void) {
    chapter(L"4: system table");
    check_equal(ST->Hdr.Signature, EFI_SYSTEM_TABLE_SIGNATURE, L"system table signature");
    check_equal(BS->Hdr.Signature, EFI_BOOT_SERVICES_SIGNATURE, L"boot services signature");
    check_equal(RT->Hdr.Signature, EFI_RUNTIME_SERVICES_SIGNATURE, L"runtime services signature");
    check(ST->Hdr.Revision >= 0x00020000, L"system table revision is 2.0 or later");
    check_equal(BS->Hdr.Revision, ST->Hdr.Revision, L"boot services have the revision of the system table");
    check_equal(RT->Hdr.Revision, ST->Hdr.Revision, L"runtime services have the revision of the system table");
    check_equal(ST->Hdr.HeaderSize, sizeof(EFI_SYSTEM_TABLE), L"system table size");
    check(BS->Hdr.HeaderSize >= sizeof(EFI_BOOT_SERVICES), L"boot services size");
    check(RT->Hdr.HeaderSize >= sizeof(EFI_RUNTIME_SERVICES), L"runtime services size");
    check_crc32();
    check_equal(table_crc(&ST->Hdr), ST->Hdr.CRC32, L"system table CRC");
    check_equal(table_crc(&BS->Hdr), BS->Hdr.CRC32, L"boot services CRC");
    check_equal(table_crc(&RT->Hdr), RT->Hdr.CRC32, L"runtime services CRC");
    check(all_slots_filled(BS, sizeof(EFI_BOOT_SERVICES), OFFSET_OF(EFI_BOOT_SERVICES, Reserved)),
          L"every boot service has a function");
    check(all_slots_filled(RT, sizeof(EFI_RUNTIME_SERVICES), 0), L"every runtime service has a function");
    check(ST->FirmwareVendor && *ST->FirmwareVendor, L"firmware vendor is a text");
    check(ST->ConIn && ST->ConOut && ST->StdErr, L"ConIn, ConOut and StdErr are there");
    check(ST->ConsoleInHandle && ST->ConsoleOutHandle && ST->StandardErrorHandle, L"console handles are there");
    check_equal(memory_type_of((UINT64)ST), EfiRuntimeServicesData, L"system table lies in runtime memory");
    check_equal(memory_type_of((UINT64)RT), EfiRuntimeServicesData, L"runtime services table lies in runtime memory");
}

static void *find_table(EFI_GUID *guid) {
    for (UINTN i = 0; i < ST->NumberOfTableEntries; i++)
        if (guid_equal(&ST->ConfigurationTable[i].VendorGuid, guid)) return ST->ConfigurationTable[i].VendorTable;
    return NULL;
}

void check_configuration_tables(void) {
    static UINT64 first = 1, second = 2;
    EFI_GUID *guid = GUID_OF(TEST_VENDOR_GUID);
    UINTN count = ST->NumberOfTableEntries, changes = 0;
    EFI_EVENT event = NULL;

    chapter(L"4.6 and 7.5.6: configuration tables");
    check(count > 0 && ST->ConfigurationTable, L"there are configuration tables");
    check(find_table(guid) == NULL, L"our own table is not among them");
    check_status(BS->InstallConfigurationTable(guid, NULL), EFI_NOT_FOUND, L"removing a table that is not there");
    check_status(BS->InstallConfigurationTable(NULL, &first), EFI_INVALID_PARAMETER, L"a table with Guid NULL");
    /* The GUID of a table is an event group, too: its members hear of every change. */
    BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &changes, guid, &event);

    check_status(BS->InstallConfigurationTable(guid, &first), EFI_SUCCESS, L"adding a table");
    check_equal(ST->NumberOfTableEntries, count + 1, L"the table count grew by one");
    check(find_table(guid) == &first, L"the table is found");
    check_equal(table_crc(&ST->Hdr), ST->Hdr.CRC32, L"system table CRC after adding");
    check_equal(changes, 1, L"the event group of the table was signalled");

    check_status(BS->InstallConfigurationTable(guid, &second), EFI_SUCCESS, L"replacing the table");
    check_equal(ST->NumberOfTableEntries, count + 1, L"the table count stays");
    check(find_table(guid) == &second, L"the new table is found");

    check_status(BS->InstallConfigurationTable(guid, NULL), EFI_SUCCESS, L"removing the table");
    check_equal(ST->NumberOfTableEntries, count, L"the table count is as before");
    check(find_table(guid) == NULL, L"the table is found no more");
    check_equal(table_crc(&ST->Hdr), ST->Hdr.CRC32, L"system table CRC after removing");
    check_equal(changes, 3, L"the event group heard of each change");
    BS->CloseEvent(event);
}
