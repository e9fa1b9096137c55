/* everything.efi, 7.2: pages, pools, the memory map, and the memory helpers CopyMem and SetMem. */
#include "check.h"

#define MIB 0x100000ULL

static void check_page_errors(void) {
    EFI_PHYSICAL_ADDRESS page = 0;
    check_status(BS->AllocatePages(MaxAllocateType, EfiLoaderData, 1, &page), EFI_INVALID_PARAMETER,
                 L"AllocatePages with a wrong Type");
    check_status(BS->AllocatePages(AllocateAnyPages, EfiConventionalMemory, 1, &page), EFI_INVALID_PARAMETER,
                 L"AllocatePages of EfiConventionalMemory");
    check_status(BS->AllocatePages(AllocateAnyPages, EfiPersistentMemory, 1, &page), EFI_INVALID_PARAMETER,
                 L"AllocatePages of EfiPersistentMemory");
    check_status(BS->AllocatePages(AllocateAnyPages, (EFI_MEMORY_TYPE)0x6fffffff, 1, &page), EFI_INVALID_PARAMETER,
                 L"AllocatePages with a memory type between the defined and the free ones");
    check_status(BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1, NULL), EFI_INVALID_PARAMETER,
                 L"AllocatePages with Memory NULL");
    check_status(BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1ULL << 40, &page), EFI_OUT_OF_RESOURCES,
                 L"AllocatePages of more than any machine has");
    check(EFI_ERROR(BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 0, &page)), L"AllocatePages of no pages fails");
    page = 0;
    check_either(BS->AllocatePages(AllocateMaxAddress, EfiLoaderData, 1, &page), EFI_OUT_OF_RESOURCES, EFI_NOT_FOUND,
                 L"AllocatePages below address 0");
    check(EFI_ERROR(BS->FreePages(0x123, 1)), L"FreePages of an address that no page begins at");
    check_status(BS->FreePages(1ULL << 50, 1), EFI_NOT_FOUND, L"FreePages of an address beyond memory");
}

static void check_page_types(void) {
    EFI_PHYSICAL_ADDRESS page;
    check_status(BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 3, &page), EFI_SUCCESS, L"AllocatePages, any");
    check_equal(page & 0xfff, 0, L"pages begin at a multiple of 4096");
    check_equal(memory_type_of(page + 2 * EFI_PAGE_SIZE), EfiLoaderData, L"the map has the pages as EfiLoaderData");
    memset((void *)page, 0x5a, 3 * EFI_PAGE_SIZE);
    check_equal(*(UINT8 *)(page + 3 * EFI_PAGE_SIZE - 1), 0x5a, L"the pages can be written and read");
    check_status(BS->FreePages(page, 3), EFI_SUCCESS, L"FreePages");
    check_equal(memory_type_of(page), EfiConventionalMemory, L"freed pages are EfiConventionalMemory");
    check_status(BS->FreePages(page, 3), EFI_NOT_FOUND, L"FreePages twice");

    page = 64 * MIB;
    check_status(BS->AllocatePages(AllocateMaxAddress, EfiLoaderData, 16, &page), EFI_SUCCESS,
                 L"AllocatePages, below 64 MiB");
    check(page + 16 * EFI_PAGE_SIZE <= 64 * MIB, L"the pages lie below 64 MiB");
    BS->FreePages(page, 16);

    /* Types from 0x80000000 on are for operating system loaders, those from 0x70000000 on for manufacturers. */
    check_status(BS->AllocatePages(AllocateAnyPages, (EFI_MEMORY_TYPE)0x80000001, 1, &page), EFI_SUCCESS,
                 L"AllocatePages with a type for OS loaders");
    check_equal(memory_type_of(page), 0x80000001, L"the map has that type");
    BS->FreePages(page, 1);
    BS->AllocatePages(AllocateAnyPages, EfiRuntimeServicesData, 1, &page);
    MEMORY_MAP map;
    get_memory_map(&map);
    EFI_MEMORY_DESCRIPTOR *range = range_of(&map, page);
    check(range && range->Type == EfiRuntimeServicesData && range->Attribute & EFI_MEMORY_RUNTIME,
          L"EfiRuntimeServicesData has the attribute EFI_MEMORY_RUNTIME");
    BS->FreePool(map.first);
    BS->FreePages(page, 1);
}

static void check_fixed_address(void) {
    EFI_PHYSICAL_ADDRESS page, again, middle;
    BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 8, &page); /* a place that is free afterwards */
    BS->FreePages(page, 8);
    check_status(BS->AllocatePages(AllocateAddress, EfiLoaderData, 8, &page), EFI_SUCCESS,
                 L"AllocatePages at an address");
    again = page;
    check_status(BS->AllocatePages(AllocateAddress, EfiLoaderData, 8, &again), EFI_NOT_FOUND,
                 L"AllocatePages at the same address twice");
    again = page + 7 * EFI_PAGE_SIZE;
    check_status(BS->AllocatePages(AllocateAddress, EfiLoaderData, 1, &again), EFI_NOT_FOUND,
                 L"AllocatePages at an address within taken pages");
    again = 1ULL << 50;
    check_either(BS->AllocatePages(AllocateAddress, EfiLoaderData, 1, &again), EFI_NOT_FOUND, EFI_OUT_OF_RESOURCES,
                 L"AllocatePages at an address beyond memory");

    middle = page + 3 * EFI_PAGE_SIZE;
    check_status(BS->FreePages(middle, 2), EFI_SUCCESS, L"FreePages of the middle of an allocation");
    MEMORY_MAP map;
    get_memory_map(&map);
    EFI_MEMORY_DESCRIPTOR *left = range_of(&map, page), *hole = range_of(&map, middle);
    EFI_MEMORY_DESCRIPTOR *right = range_of(&map, page + 5 * EFI_PAGE_SIZE);
    check(left && left->Type == EfiLoaderData && left->PhysicalStart + left->NumberOfPages * EFI_PAGE_SIZE == middle,
          L"the pages before the hole stay and end at it");
    check(hole && hole->Type == EfiConventionalMemory && hole->PhysicalStart == middle && hole->NumberOfPages == 2,
          L"the hole is a range of two free pages");
    check(right && right->Type == EfiLoaderData && right->PhysicalStart == middle + 2 * EFI_PAGE_SIZE,
          L"the pages behind the hole stay and begin at its end");
    BS->FreePool(map.first);
    check_status(BS->FreePages(page, 3), EFI_SUCCESS, L"FreePages of the left part");
    check_status(BS->FreePages(page + 5 * EFI_PAGE_SIZE, 3), EFI_SUCCESS, L"FreePages of the right part");
    get_memory_map(&map);
    hole = range_of(&map, middle);
    check(hole && hole->Type == EfiConventionalMemory && hole->PhysicalStart <= page &&
              hole->PhysicalStart + hole->NumberOfPages * EFI_PAGE_SIZE >= page + 8 * EFI_PAGE_SIZE,
          L"all eight pages are one free range again");
    BS->FreePool(map.first);
}

void check_pages(void) {
    chapter(L"7.2: pages");
    check_page_errors();
    check_page_types();
    check_fixed_address();
}

static void check_copy_and_set(void) {
    UINT8 bytes[16];
    BS->SetMem(bytes, sizeof(bytes), 0xa5);
    check(bytes[0] == 0xa5 && bytes[15] == 0xa5, L"SetMem fills");
    for (UINTN i = 0; i < 16; i++) bytes[i] = (UINT8)i;
    BS->CopyMem(bytes + 2, bytes, 8);
    check(bytes[1] == 1 && bytes[2] == 0 && bytes[9] == 7 && bytes[10] == 10, L"CopyMem upwards over itself");
    for (UINTN i = 0; i < 16; i++) bytes[i] = (UINT8)i;
    BS->CopyMem(bytes, bytes + 2, 8);
    check(bytes[0] == 2 && bytes[7] == 9 && bytes[8] == 8, L"CopyMem downwards over itself");
    BS->SetMem(bytes, 0, 0xff);
    BS->CopyMem(bytes, bytes + 1, 0);
    check_equal(bytes[0], 2, L"SetMem and CopyMem of nothing change nothing");
}

void check_pool(void) {
    UINT8 *first = NULL, *second = NULL;
    chapter(L"7.2: pools");
    check_status(BS->AllocatePool(EfiLoaderData, 100, (void **)&first), EFI_SUCCESS, L"AllocatePool of 100 bytes");
    check_equal((UINT64)first & 7, 0, L"pool memory begins at a multiple of 8");
    check_equal(memory_type_of((UINT64)first), EfiLoaderData, L"pool memory has its type in the map");
    memset(first, 0x11, 100);
    BS->AllocatePool(EfiLoaderData, 100, (void **)&second);
    memset(second, 0x22, 100);
    check(second >= first + 100 || first >= second + 100, L"two allocations do not overlap");
    check(first[0] == 0x11 && first[99] == 0x11, L"the first keeps its content");
    check_status(BS->FreePool(second), EFI_SUCCESS, L"FreePool");
    check_status(BS->FreePool(first), EFI_SUCCESS, L"FreePool of the other");
    check_status(BS->AllocatePool(EfiBootServicesData, 3 * MIB, (void **)&first), EFI_SUCCESS,
                 L"AllocatePool of 3 MiB");
    memset(first, 0x33, 3 * MIB);
    check_equal(memory_type_of((UINT64)first + 3 * MIB - 1), EfiBootServicesData, L"all of it has its type in the map");
    check_status(BS->FreePool(first), EFI_SUCCESS, L"FreePool of 3 MiB");
    check_status(BS->AllocatePool(EfiLoaderData, 0, (void **)&first), EFI_SUCCESS, L"AllocatePool of no bytes");
    check_status(BS->FreePool(first), EFI_SUCCESS, L"FreePool of no bytes");
    check_status(BS->AllocatePool(EfiConventionalMemory, 10, (void **)&first), EFI_INVALID_PARAMETER,
                 L"AllocatePool of EfiConventionalMemory");
    check_status(BS->AllocatePool(EfiMaxMemoryType, 10, (void **)&first), EFI_INVALID_PARAMETER,
                 L"AllocatePool of EfiMaxMemoryType");
    check_status(BS->AllocatePool(EfiLoaderData, 10, NULL), EFI_INVALID_PARAMETER, L"AllocatePool with Buffer NULL");
    check_status(BS->AllocatePool(EfiLoaderData, 1ULL << 50, (void **)&first), EFI_OUT_OF_RESOURCES,
                 L"AllocatePool of more than any machine has");
    check_status(BS->FreePool(NULL), EFI_INVALID_PARAMETER, L"FreePool of NULL");
    check_copy_and_set();
}

static void check_map_call(void) {
    static UINT8 small[16];
    UINTN size = 0, key = 0, step = 0, key_after;
    UINT32 version = 0;
    EFI_PHYSICAL_ADDRESS page;
    MEMORY_MAP map;
    check_status(BS->GetMemoryMap(&size, NULL, &key, &step, &version), EFI_BUFFER_TOO_SMALL, L"GetMemoryMap, no room");
    check(size >= step && step >= sizeof(EFI_MEMORY_DESCRIPTOR), L"it answers the sizes of map and descriptor");
    check_equal(step % 8, 0, L"the descriptor size is a multiple of 8");
    check(step > sizeof(EFI_MEMORY_DESCRIPTOR), L"the descriptor size differs from that of the C structure");
    check_equal(version, 1, L"the descriptor version is 1");
    check_status(BS->GetMemoryMap(NULL, NULL, &key, &step, &version), EFI_INVALID_PARAMETER,
                 L"GetMemoryMap with MemoryMapSize NULL");
    UINTN large = 1 << 20;
    check_status(BS->GetMemoryMap(&large, NULL, &key, &step, &version), EFI_INVALID_PARAMETER,
                 L"GetMemoryMap with MemoryMap NULL and room said to be there");
    size = sizeof(small);
    check_status(BS->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)small, &key, &step, &version), EFI_BUFFER_TOO_SMALL,
                 L"GetMemoryMap, too little room");
    check_equal(small[0], 0, L"it wrote nothing");

    /* Nothing may come between the two calls: even printing may allocate memory. */
    EFI_STATUS status = get_memory_map(&map);
    size = map.size + 8 * map.step;
    BS->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)map.first, &key_after, &step, &version);
    check_status(status, EFI_SUCCESS, L"GetMemoryMap");
    check(map.size % map.step == 0 && map.size / map.step > 3, L"the map has whole descriptors");
    check_equal(key_after, map.key, L"asked twice, the key is the same");
    BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1, &page);
    size = map.size + 8 * map.step;
    BS->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)map.first, &key_after, &step, &version);
    check(key_after != map.key, L"after AllocatePages the key is another");
    BS->FreePages(page, 1);
    BS->FreePool(map.first);
}

static BOOLEAN overlaps(MEMORY_MAP *map) {
    for (EFI_MEMORY_DESCRIPTOR *a = next_range(map, NULL); a; a = next_range(map, a))
        for (EFI_MEMORY_DESCRIPTOR *b = next_range(map, a); b; b = next_range(map, b))
            if (a->PhysicalStart < b->PhysicalStart + b->NumberOfPages * EFI_PAGE_SIZE &&
                b->PhysicalStart < a->PhysicalStart + a->NumberOfPages * EFI_PAGE_SIZE)
                return TRUE;
    return FALSE;
}

static void check_map_content(void) {
    MEMORY_MAP map;
    UINT64 free_pages = 0;
    BOOLEAN aligned = TRUE, filled = TRUE, unmapped = TRUE, runtime = TRUE, cached = TRUE, code = FALSE;
    get_memory_map(&map);
    for (EFI_MEMORY_DESCRIPTOR *at = next_range(&map, NULL); at; at = next_range(&map, at)) {
        BOOLEAN is_runtime = at->Type == EfiRuntimeServicesCode || at->Type == EfiRuntimeServicesData;
        aligned &= at->PhysicalStart % EFI_PAGE_SIZE == 0;
        filled &= at->NumberOfPages > 0;
        unmapped &= at->VirtualStart == 0;
        if (is_runtime) runtime &= (at->Attribute & EFI_MEMORY_RUNTIME) != 0;
        if (at->Type == EfiConventionalMemory) {
            free_pages += at->NumberOfPages;
            cached &= (at->Attribute & EFI_MEMORY_WB) != 0;
        }
        code |= at->Type == EfiRuntimeServicesCode;
    }
    check(aligned, L"every range begins at a multiple of 4096");
    check(filled, L"no range is empty");
    check(unmapped, L"VirtualStart is 0 before SetVirtualAddressMap");
    check(!overlaps(&map), L"no two ranges overlap");
    check(runtime, L"ranges of runtime services have the attribute EFI_MEMORY_RUNTIME");
    check(code, L"there is a range of runtime services' code");
    check(cached, L"free memory can be cached write-back");
    check(free_pages > 16 * MIB / EFI_PAGE_SIZE, L"more than 16 MiB are free");
    EFI_MEMORY_DESCRIPTOR *own = range_of(&map, (UINT64)LOADED->ImageBase);
    check(own && own->Type == EfiLoaderCode, L"our own image lies in EfiLoaderCode");
    UINT8 here = 0;
    EFI_MEMORY_DESCRIPTOR *stack = range_of(&map, (UINT64)&here);
    check(stack && stack->Type != EfiConventionalMemory, L"our stack is not free memory");
    check(stack && stack->PhysicalStart + 64 * 1024 <= (UINT64)&here, L"our stack has 64 KiB and more to grow");
    BS->FreePool(map.first);
}

void check_memory_map(void) {
    chapter(L"7.2.3: memory map");
    check_map_call();
    check_map_content();
}
