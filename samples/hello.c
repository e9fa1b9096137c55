/* hello.efi: greets, and says which firmware and machine it found itself on.
 *
 * An EFI application is a PE file whose entry point is a function of two arguments: the handle of its own image, and
 * the system table, from which all else is reached. Returning ends it; the status goes to whoever started it.
 */
#include "sample.h"

/* A label in one colour, to be followed by its value in another. */
static void label(const CHAR16 *text) {
    ST->ConOut->SetAttribute(ST->ConOut, EFI_LIGHTCYAN);
    print(L"  %-12s", text);
    ST->ConOut->SetAttribute(ST->ConOut, EFI_LIGHTGRAY);
}

/* Adds up the memory map: all RAM, and the part of it that nobody uses yet (both in KiB). */
static EFI_STATUS count_memory(UINT64 *total, UINT64 *available) {
    UINTN size = 0, key, step;
    UINT32 version;
    UINT8 *map;
    /* Asked with no room, the service answers how much is needed. The allocation itself may add to the map. */
    BS->GetMemoryMap(&size, NULL, &key, &step, &version);
    size += 4 * step;
    EFI_STATUS status = BS->AllocatePool(EfiLoaderData, size, (void **)&map);
    if (EFI_ERROR(status)) return status;
    status = BS->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)map, &key, &step, &version);
    *total = *available = 0;
    for (UINT8 *at = map; !EFI_ERROR(status) && at < map + size; at += step) {
        EFI_MEMORY_DESCRIPTOR *range = (EFI_MEMORY_DESCRIPTOR *)at;
        UINT64 kib = range->NumberOfPages * (EFI_PAGE_SIZE / 1024);
        if (range->Type == EfiReservedMemoryType || range->Type == EfiMemoryMappedIO ||
            range->Type == EfiMemoryMappedIOPortSpace || range->Type == EfiUnusableMemory)
            continue;
        *total += kib;
        if (range->Type == EfiConventionalMemory) *available += kib;
    }
    BS->FreePool(map);
    return status;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    INT32 colours = ST->ConOut->Mode->Attribute; /* to be put back at the end */

    ST->ConOut->SetAttribute(ST->ConOut, EFI_WHITE | EFI_BLUE << 4);
    print(L"  Hello from an EFI application!  ");
    ST->ConOut->SetAttribute(ST->ConOut, EFI_LIGHTGRAY);
    print(L"\n\n");

    label(L"firmware");
    UINT32 revision = ST->FirmwareRevision;
    print(L"%s, revision %u.%u\n", ST->FirmwareVendor, revision >> 16, revision & 0xffff);

    label(L"UEFI");
    revision = ST->Hdr.Revision;
    print(L"%u.%u", revision >> 16, (revision & 0xffff) / 10);
    if (revision % 0x10000 % 10) print(L".%u", (revision & 0xffff) % 10);
    print(L"\n");

    UINT64 total, available;
    if (count_memory(&total, &available) == EFI_SUCCESS) {
        label(L"memory");
        print(L"%lu MiB, of which %lu MiB are free\n", total / 1024, available / 1024);
    }

    EFI_TIME now;
    if (RT->GetTime(&now, NULL) == EFI_SUCCESS) {
        label(L"time");
        print(L"%u-%02u-%02u %02u:%02u:%02u\n", now.Year, now.Month, now.Day, now.Hour, now.Minute, now.Second);
    }

    label(L"image");
    print(L"%lu KiB at 0x%lx\n", LOADED->ImageSize / 1024, (UINT64)LOADED->ImageBase);
    label(L"options");
    print(*load_options() ? L"\"%s\"\n" : L"none\n", load_options());

    ST->ConOut->SetAttribute(ST->ConOut, EFI_LIGHTGREEN);
    print(L"\n  All is well. Goodbye.\n");
    ST->ConOut->SetAttribute(ST->ConOut, colours);
    return EFI_SUCCESS;
}
