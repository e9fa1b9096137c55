/* everything.efi: printing and counting of checks, and what several chapters use. */
#include "check.h"

static UINTN number, failures;

static BOOLEAN report(BOOLEAN good, const CHAR16 *what) {
    print(good ? L"ok %lu - %s\n" : L"not ok %lu - %s", ++number, what);
    if (!good) failures++;
    return good;
}

void chapter(const CHAR16 *title) { print(L"# %s\n", title); }

BOOLEAN check(BOOLEAN good, const CHAR16 *what) {
    if (!report(good, what)) print(L"\n");
    return good;
}

BOOLEAN check_equal(UINT64 saw, UINT64 wanted, const CHAR16 *what) {
    if (!report(saw == wanted, what)) print(L": wanted 0x%lx, saw 0x%lx\n", wanted, saw);
    return saw == wanted;
}

BOOLEAN check_status(EFI_STATUS saw, EFI_STATUS wanted, const CHAR16 *what) {
    if (!report(saw == wanted, what)) print(L": wanted %r, saw %r\n", wanted, saw);
    return saw == wanted;
}

BOOLEAN check_either(EFI_STATUS saw, EFI_STATUS wanted, EFI_STATUS or_this, const CHAR16 *what) {
    BOOLEAN good = saw == wanted || saw == or_this;
    if (!report(good, what)) print(L": wanted %r or %r, saw %r\n", wanted, or_this, saw);
    return good;
}

BOOLEAN check_text(const CHAR16 *saw, const CHAR16 *wanted, const CHAR16 *what) {
    BOOLEAN good = saw && text_equal(saw, wanted);
    if (!report(good, what)) print(L": wanted \"%s\", saw \"%s\"\n", wanted, saw);
    return good;
}

void skip(const CHAR16 *what, const CHAR16 *why) { print(L"ok %lu # skip %s: %s\n", ++number, what, why); }

UINTN failed_checks(void) { return failures; }

void summary(void) {
    print(L"1..%lu\n", number);
    print(L"passed %lu failed %lu\n", number - failures, failures);
}

void count_notify(EFI_EVENT event, void *context) {
    (void)event;
    ++*(volatile UINTN *)context;
}

void *find_protocol(EFI_GUID *guid) {
    void *interface;
    return EFI_ERROR(BS->LocateProtocol(guid, NULL, &interface)) ? NULL : interface;
}

EFI_STATUS get_memory_map(MEMORY_MAP *map) {
    map->size = 0;
    BS->GetMemoryMap(&map->size, NULL, &map->key, &map->step, &map->version);
    map->size += 8 * map->step; /* the allocation below may split a range */
    EFI_STATUS status = BS->AllocatePool(EfiLoaderData, map->size, (void **)&map->first);
    if (EFI_ERROR(status)) return status;
    status = BS->GetMemoryMap(&map->size, (EFI_MEMORY_DESCRIPTOR *)map->first, &map->key, &map->step, &map->version);
    if (EFI_ERROR(status)) BS->FreePool(map->first);
    return status;
}

EFI_MEMORY_DESCRIPTOR *next_range(MEMORY_MAP *map, EFI_MEMORY_DESCRIPTOR *last) {
    UINT8 *next = last ? (UINT8 *)last + map->step : map->first;
    return next + map->step <= map->first + map->size ? (EFI_MEMORY_DESCRIPTOR *)next : NULL;
}

EFI_MEMORY_DESCRIPTOR *range_of(MEMORY_MAP *map, UINT64 address) {
    for (EFI_MEMORY_DESCRIPTOR *at = next_range(map, NULL); at; at = next_range(map, at))
        if (address >= at->PhysicalStart && address - at->PhysicalStart < at->NumberOfPages * EFI_PAGE_SIZE) return at;
    return NULL;
}

UINT32 memory_type_of(UINT64 address) {
    MEMORY_MAP map;
    if (EFI_ERROR(get_memory_map(&map))) return EfiMaxMemoryType;
    EFI_MEMORY_DESCRIPTOR *range = range_of(&map, address);
    UINT32 type = range ? range->Type : EfiMaxMemoryType;
    BS->FreePool(map.first);
    return type;
}
