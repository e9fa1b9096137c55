/* everything.efi, 7.4.6, 8.2 to 8.5: leaving boot services, and the runtime services afterwards.
 *
 * After ExitBootServices there is no console. The checks go on over the serial port COM1, and the machine is switched
 * off at the end. With `shifted`, the runtime services are moved to the upper half of the address space: one more entry
 * in the top page table maps all memory there a second time, and SetVirtualAddressMap tells the firmware.
 */
#include "check.h"

#define TOP_ENTRY 256ULL
#define SHIFT 0xffff800000000000ULL /* where entry 256 of the top page table begins */

static UINTN exit_signals, exit_group_signals;
static volatile UINTN move_signals;
static EFI_STATUS convert_status, convert_null_status, convert_optional_status;
static void *converted;
static UINT8 *top_table; /* a page of our own, so that the firmware's tables stay as they are */

/* The processor still runs at the old addresses when this is called; ConvertPointer tells the new ones. */
static void on_move(EFI_EVENT event, void *context) {
    (void)event, (void)context;
    void *null = NULL;
    move_signals++;
    converted = RT;
    convert_status = RT->ConvertPointer(0, &converted);
    convert_null_status = RT->ConvertPointer(0, &null);
    convert_optional_status = RT->ConvertPointer(1, &null); /* 1: a NULL pointer is allowed */
}

static void prepare_events(void) {
    EFI_EVENT event;
    check_status(BS->CreateEvent(EVT_SIGNAL_EXIT_BOOT_SERVICES, TPL_NOTIFY, count_notify, &exit_signals, &event),
                 EFI_SUCCESS, L"an event of the type SIGNAL_EXIT_BOOT_SERVICES");
    check_status(BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_NOTIFY, count_notify, &exit_group_signals,
                                   GUID_OF(EFI_EVENT_GROUP_EXIT_BOOT_SERVICES), &event),
                 EFI_SUCCESS, L"an event in the group EXIT_BOOT_SERVICES");
    check_status(BS->CreateEvent(EVT_SIGNAL_VIRTUAL_ADDRESS_CHANGE, TPL_NOTIFY, on_move, NULL, &event), EFI_SUCCESS,
                 L"an event of the type SIGNAL_VIRTUAL_ADDRESS_CHANGE");
}

/* "Boot only" stays behind: at runtime it can be neither seen nor deleted. */
static void prepare_variables(void) {
    const UINT32 kind = EFI_VARIABLE_NON_VOLATILE | EFI_VARIABLE_BOOTSERVICE_ACCESS;
    RT->SetVariable(L"Boot only", GUID_OF(TEST_VENDOR_GUID), kind, 1, "b");
    RT->SetVariable(L"Runtime", GUID_OF(TEST_VENDOR_GUID), kind | EFI_VARIABLE_RUNTIME_ACCESS, 1, "r");
}

/* Between the last GetMemoryMap and ExitBootServices nothing may change the map, not even printing. */
static BOOLEAN leave(MEMORY_MAP *map) {
    UINTN room = map->size + 16 * map->step;
    BS->AllocatePool(EfiLoaderData, room, (void **)&map->first);
    EFI_PHYSICAL_ADDRESS page;
    map->size = room;
    BS->GetMemoryMap(&map->size, (EFI_MEMORY_DESCRIPTOR *)map->first, &map->key, &map->step, &map->version);
    BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1, &page);
    EFI_STATUS stale = BS->ExitBootServices(IMAGE, map->key);
    UINTN early = exit_group_signals;
    map->size = room;
    EFI_STATUS mapped =
        BS->GetMemoryMap(&map->size, (EFI_MEMORY_DESCRIPTOR *)map->first, &map->key, &map->step, &map->version);
    EFI_STATUS left = BS->ExitBootServices(IMAGE, map->key);
    print_to_serial_port();
    check_status(stale, EFI_INVALID_PARAMETER, L"ExitBootServices with a stale key");
    check_equal(early, 0, L"it did not signal EXIT_BOOT_SERVICES yet");
    check_status(mapped, EFI_SUCCESS, L"GetMemoryMap after that");
    return check_status(left, EFI_SUCCESS, L"ExitBootServices with the right key");
}

static UINT32 table_crc(EFI_TABLE_HEADER *header) {
    UINT8 copy[512];
    UINT32 crc = ~0u;
    memcpy(copy, header, header->HeaderSize);
    ((EFI_TABLE_HEADER *)copy)->CRC32 = 0;
    for (UINT32 i = 0; i < header->HeaderSize; i++) {
        crc ^= copy[i];
        for (UINTN bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

static void check_after_exit(void) {
    check_equal(exit_signals, 1, L"the event of the type SIGNAL_EXIT_BOOT_SERVICES was notified");
    check_equal(exit_group_signals, 1, L"the event in the group EXIT_BOOT_SERVICES was notified");
    check(ST->BootServices == NULL, L"the system table has no boot services any more");
    check(ST->ConIn == NULL && ST->ConOut == NULL && ST->StdErr == NULL, L"and no consoles");
    check(ST->ConsoleInHandle == NULL && ST->ConsoleOutHandle == NULL && ST->StandardErrorHandle == NULL,
          L"and no console handles");
    check_equal(table_crc(&ST->Hdr), ST->Hdr.CRC32, L"system table CRC");
    check_equal(table_crc(&RT->Hdr), RT->Hdr.CRC32, L"runtime services CRC");
}

/* What an operating system calls, whether the services were moved or not. */
static void check_runtime_services(void) {
    const UINT32 kind =
        EFI_VARIABLE_NON_VOLATILE | EFI_VARIABLE_BOOTSERVICE_ACCESS | EFI_VARIABLE_RUNTIME_ACCESS;
    EFI_GUID vendor = TEST_VENDOR_GUID, next = TEST_VENDOR_GUID;
    CHAR16 name[256] = L"";
    UINT8 data[8];
    UINTN size = sizeof(data), count = 0;
    UINT64 storage, remaining, largest;
    EFI_TIME time;
    check_status(RT->GetTime(&time, NULL), EFI_SUCCESS, L"GetTime at runtime");
    check_status(RT->GetVariable(L"Runtime", &vendor, NULL, &size, data), EFI_SUCCESS, L"GetVariable at runtime");
    check(size == 1 && data[0] == 'r', L"the data are right");
    size = sizeof(data);
    check_status(RT->GetVariable(L"Boot only", &vendor, NULL, &size, data), EFI_NOT_FOUND,
                 L"a variable without RUNTIME_ACCESS is not there at runtime");
    check_status(RT->SetVariable(L"Runtime", &vendor, kind, 2, "RT"), EFI_SUCCESS, L"SetVariable at runtime");
    size = sizeof(data);
    RT->GetVariable(L"Runtime", &vendor, NULL, &size, data);
    check(size == 2 && data[0] == 'R', L"the data are the new ones");
    check_status(RT->SetVariable(L"Runtime 2", &vendor, kind & ~EFI_VARIABLE_NON_VOLATILE, 1, "x"),
                 EFI_INVALID_PARAMETER, L"SetVariable of a volatile variable at runtime");
    check(EFI_ERROR(RT->SetVariable(L"Boot only", &vendor, kind & ~EFI_VARIABLE_RUNTIME_ACCESS, 1, "x")),
          L"SetVariable without RUNTIME_ACCESS at runtime fails");
    EFI_STATUS status = EFI_SUCCESS;
    for (; count < 10000; count++) {
        size = sizeof(name);
        status = RT->GetNextVariableName(&size, name, &next);
        if (EFI_ERROR(status)) break;
        if (text_equal(name, L"Boot only")) count += 100000;
    }
    check_status(status, EFI_NOT_FOUND, L"walking over the variables at runtime");
    check(count > 0 && count < 10000, L"it meets some, but none without RUNTIME_ACCESS");
    check_status(RT->QueryVariableInfo(kind, &storage, &remaining, &largest), EFI_SUCCESS,
                 L"QueryVariableInfo at runtime");
    check_status(RT->SetVariable(L"Runtime", &vendor, kind, 0, NULL), EFI_SUCCESS, L"deleting a variable at runtime");
}

/* Maps all memory a second time, in the upper half of the address space. */
static void map_twice(void) {
    UINT64 cr3;
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    memcpy(top_table, (void *)(cr3 & ~0xfffULL & ~(1ULL << 63)), EFI_PAGE_SIZE);
    ((UINT64 *)top_table)[TOP_ENTRY] = ((UINT64 *)top_table)[0];
    __asm__ volatile("mov %0, %%cr3" : : "r"(top_table) : "memory");
}

static void move(MEMORY_MAP *map, UINT64 shift) {
    EFI_RUNTIME_SERVICES *before = RT;
    void *function = (void *)RT->GetVariable;
    for (EFI_MEMORY_DESCRIPTOR *at = next_range(map, NULL); at; at = next_range(map, at))
        if (at->Attribute & EFI_MEMORY_RUNTIME) at->VirtualStart = at->PhysicalStart + shift;
    check_status(RT->SetVirtualAddressMap(map->size, map->step, map->version + 1, (void *)map->first),
                 EFI_INVALID_PARAMETER, L"SetVirtualAddressMap with a wrong version");
    check_status(RT->SetVirtualAddressMap(map->size, 8, map->version, (void *)map->first), EFI_INVALID_PARAMETER,
                 L"SetVirtualAddressMap with a wrong size of descriptors");
    check_status(RT->SetVirtualAddressMap(map->size, map->step, map->version, (void *)map->first), EFI_SUCCESS,
                 L"SetVirtualAddressMap");
    check_equal(move_signals, 1, L"the event of the type SIGNAL_VIRTUAL_ADDRESS_CHANGE was notified");
    check_status(convert_status, EFI_SUCCESS, L"ConvertPointer within the notification");
    check((UINT64)converted == (UINT64)before + shift, L"it answered the new address of the runtime services table");
    check_status(convert_null_status, EFI_INVALID_PARAMETER, L"ConvertPointer of NULL");
    check_status(convert_optional_status, EFI_SUCCESS, L"ConvertPointer of NULL when that is allowed");
    check((UINT64)ST->RuntimeServices == (UINT64)before + shift, L"the system table points at the new address");
    RT = ST->RuntimeServices;
    check((UINT64)RT->GetVariable == (UINT64)function + shift, L"the table's functions have their new addresses");
    check((UINT64)ST->ConfigurationTable >= shift, L"the system table's list of tables has its new address");
    check_equal(table_crc(&RT->Hdr), RT->Hdr.CRC32, L"runtime services CRC");
    check_equal(table_crc(&ST->Hdr), ST->Hdr.CRC32, L"system table CRC");
    check_status(RT->SetVirtualAddressMap(map->size, map->step, map->version, (void *)map->first), EFI_UNSUPPORTED,
                 L"SetVirtualAddressMap a second time");
    check(EFI_ERROR(RT->ConvertPointer(0, &converted)), L"ConvertPointer outside the notification fails");
}

void check_exit_boot_services(BOOLEAN shifted) {
    MEMORY_MAP map;
    EFI_PHYSICAL_ADDRESS page;
    chapter(L"7.4.6: leaving boot services");
    get_memory_map(&map);
    prepare_events();
    prepare_variables();
    BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1, &page);
    top_table = (UINT8 *)page;
    if (!leave(&map)) {
        summary();
        return;
    }
    check_after_exit();
    chapter(L"8: runtime services");
    check_runtime_services();
    __asm__ volatile("cli"); /* the firmware's interrupt handlers are gone */
    if (shifted) map_twice();
    chapter(shifted ? L"8.4: runtime services at other addresses" : L"8.4: runtime services at the same addresses");
    move(&map, shifted ? SHIFT : 0);
    const UINT32 kind =
        EFI_VARIABLE_NON_VOLATILE | EFI_VARIABLE_BOOTSERVICE_ACCESS | EFI_VARIABLE_RUNTIME_ACCESS;
    RT->SetVariable(L"Runtime", GUID_OF(TEST_VENDOR_GUID), kind, 1, "r");
    check_runtime_services();
    summary();
    RT->ResetSystem(EfiResetShutdown, EFI_SUCCESS, 0, NULL);
    print(L"ResetSystem returned, which it must not\n");
    for (;;) __asm__ volatile("cli; hlt");
}
