/* faults.efi: dies on demand, or asks the firmware for trouble. For testing how an emulator takes it.
 *
 * Load options: one of the names in the table at the end. Each says first what it is about to do. Those that the
 * firmware should survive print the answers, and say at their end that they survived.
 */
#include "sample.h"

#define WILD ((void *)0x0000600000000000ULL) /* an address that no page table maps */
#define NOT_CANONICAL ((void *)0x8000000000000000ULL)
#define TEST_GUID { 0x2c1f4b73, 0x8d3e, 0x4a55, { 0xb1, 0x62, 0x07, 0x5e, 0x91, 0xc3, 0x44, 0x0d } }

static EFI_STATUS survived(void) {
    print(L"faults: survived\n");
    return EFI_SUCCESS;
}

/* ---- deaths ---- */

static EFI_STATUS null_jump(void) {
    void (*volatile function)(void) = NULL;
    function();
    return survived();
}

/* In C the compiler may do what it likes with a division by zero, so the instruction is spelled out. */
static EFI_STATUS divide(void) {
    UINT32 low = 1, high = 0;
    __asm__ volatile("div %2" : "+a"(low), "+d"(high) : "r"(0));
    return survived();
}

static volatile BOOLEAN for_ever = TRUE;

static UINT64 recurse(UINT64 depth) {
    volatile UINT8 space[512];
    space[depth % sizeof(space)] = (UINT8)depth;
    return for_ever ? recurse(depth + 1) + space[0] : 0;
}

static EFI_STATUS stack(void) {
    recurse(0);
    return survived();
}

static EFI_STATUS loop(void) {
    for (;;) __asm__ volatile("");
}

static EFI_STATUS ud2(void) {
    __asm__ volatile("ud2");
    return survived();
}

static EFI_STATUS gp(void) {
    *(volatile UINT8 *)NOT_CANONICAL;
    return survived();
}

static EFI_STATUS page(void) {
    *(volatile UINT64 *)WILD = 1;
    return survived();
}

static EFI_STATUS int3(void) {
    __asm__ volatile("int3");
    return survived();
}

/* Without an interrupt descriptor table no exception can be delivered: not the first, and not that failure's own. */
static EFI_STATUS triple(void) {
    static const UINT8 empty[10];
    __asm__ volatile("lidt %0; int3" : : "m"(empty));
    return survived();
}

/* CopyMem has no status to answer with: on real firmware it is the copying itself that fails. */
static EFI_STATUS wild_copy(void) {
    UINT8 here[16];
    BS->CopyMem(here, WILD, sizeof(here));
    return survived();
}

static EFI_STATUS return_error(void) { return EFI_ABORTED; }

/* ---- trouble for the firmware ---- */

static void answer(const CHAR16 *what, EFI_STATUS status) { print(L"  %-44s %r\n", what, status); }

static void wild_calls(const CHAR16 *kind, void *wild) {
    UINTN size = 64, index;
    UINT32 crc;
    void *pool;
    CHAR16 name[16] = L"";
    EFI_GUID guid = TEST_GUID;
    print(L" %s pointers\n", kind);
    answer(L"HandleProtocol, handle", BS->HandleProtocol(wild, &guid, &pool));
    answer(L"HandleProtocol, GUID", BS->HandleProtocol(IMAGE, wild, &pool));
    answer(L"LocateProtocol, interface", BS->LocateProtocol(&guid, NULL, wild));
    answer(L"InstallProtocolInterface, handle", BS->InstallProtocolInterface(wild, &guid, EFI_NATIVE_INTERFACE, NULL));
    answer(L"LocateHandle, size", BS->LocateHandle(AllHandles, NULL, NULL, wild, NULL));
    answer(L"GetMemoryMap, size", BS->GetMemoryMap(wild, NULL, NULL, NULL, NULL));
    answer(L"AllocatePages, address", BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1, wild));
    answer(L"AllocatePool, buffer", BS->AllocatePool(EfiLoaderData, 8, wild));
    answer(L"FreePool, buffer", BS->FreePool(wild));
    answer(L"CreateEvent, event", BS->CreateEvent(0, 0, NULL, NULL, wild));
    answer(L"WaitForEvent, events", BS->WaitForEvent(1, wild, &index));
    answer(L"CalculateCrc32, data", BS->CalculateCrc32(wild, 8, &crc));
    answer(L"LoadImage, source", BS->LoadImage(FALSE, IMAGE, NULL, wild, 4096, &pool));
    answer(L"StartImage, handle", BS->StartImage(wild, NULL, NULL));
    answer(L"UnloadImage, handle", BS->UnloadImage(wild));
    answer(L"ProtocolsPerHandle, handle", BS->ProtocolsPerHandle(wild, (EFI_GUID ***)&pool, &size));
    answer(L"GetVariable, name", RT->GetVariable(wild, &guid, NULL, &size, NULL));
    answer(L"GetVariable, GUID", RT->GetVariable(L"Boot0000", wild, NULL, &size, NULL));
    answer(L"GetNextVariableName, size", RT->GetNextVariableName(wild, name, &guid));
    answer(L"SetVariable, data", RT->SetVariable(L"Wild", &guid, EFI_VARIABLE_BOOTSERVICE_ACCESS, 8, wild));
    answer(L"GetTime, time", RT->GetTime(wild, NULL));
    answer(L"OutputString, text", ST->ConOut->OutputString(ST->ConOut, wild));
    answer(L"ReadKeyStroke, key", ST->ConIn->ReadKeyStroke(ST->ConIn, wild));
}

/* Firmware in the same address space may die of these; one that watches its memory answers EFI_INVALID_PARAMETER. */
static EFI_STATUS wild_pointer(void) {
    wild_calls(L"unmapped", WILD);
    wild_calls(L"non-canonical", NOT_CANONICAL);
    return survived();
}

/* OVMF reads address 0 without a complaint, and takes some of these calls to mean something. */
static EFI_STATUS null_pointer(void) {
    wild_calls(L"null", NULL);
    return survived();
}

static EFI_STATUS double_free(void) {
    void *pool = NULL;
    EFI_PHYSICAL_ADDRESS pages = 0;
    BS->AllocatePool(EfiLoaderData, 64, &pool);
    BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 4, &pages);
    answer(L"FreePool", BS->FreePool(pool));
    answer(L"FreePool again", BS->FreePool(pool));
    answer(L"FreePages", BS->FreePages(pages, 4));
    answer(L"FreePages again", BS->FreePages(pages, 4));
    EFI_EVENT event;
    BS->CreateEvent(0, 0, NULL, NULL, &event);
    answer(L"CloseEvent", BS->CloseEvent(event));
    return survived();
}

#define MANY 100000

static EFI_STATUS protocols_100000(void) {
    EFI_GUID guid = TEST_GUID;
    EFI_HANDLE *handles;
    EFI_STATUS status = BS->AllocatePool(EfiLoaderData, MANY * sizeof(EFI_HANDLE), (void **)&handles);
    UINTN made = 0, removed = 0;
    for (; made < MANY && !EFI_ERROR(status); made += !EFI_ERROR(status)) {
        handles[made] = NULL;
        status = BS->InstallProtocolInterface(&handles[made], &guid, EFI_NATIVE_INTERFACE, NULL);
        if (made % 20000 == 0) print(L"  %lu installed\n", made);
    }
    print(L"  %lu installed: %r\n", made, status);
    for (UINTN i = made; i > 0; i--) /* last in, first out: what firmware with lists finds soonest */
        removed += BS->UninstallProtocolInterface(handles[i - 1], &guid, NULL) == EFI_SUCCESS;
    print(L"  %lu removed\n", removed);
    BS->FreePool(handles);
    return survived();
}

/* Chunks of one size until there are no more, each holding the address of the one before; then half that size. */
static EFI_STATUS allocate_all(void) {
    EFI_PHYSICAL_ADDRESS last = 0, chunk;
    UINT64 total = 0;
    EFI_STATUS status = EFI_SUCCESS;
    for (UINTN count = 4096; count > 0; count /= 2) {
        while ((status = BS->AllocatePages(AllocateAnyPages, EfiLoaderData, count, &chunk)) == EFI_SUCCESS) {
            ((UINT64 *)chunk)[0] = last;
            ((UINT64 *)chunk)[1] = count;
            last = chunk;
            total += count;
        }
    }
    void *pool = NULL;
    EFI_STATUS pool_status = BS->AllocatePool(EfiLoaderData, 1 << 20, &pool);
    UINTN freed = 0;
    while (last) {
        UINT64 *content = (UINT64 *)last;
        UINT64 next = content[0], count = content[1];
        if (BS->FreePages(last, count) == EFI_SUCCESS) freed += count;
        last = next;
    }
    print(L"  took %lu MiB, then %r, and for a pool of 1 MiB %r\n", total / 256, status, pool_status);
    print(L"  gave %lu MiB back\n", freed / 256);
    return survived();
}

static EFI_STATUS after_ebs(void) {
    static UINT8 map[65536];
    UINTN size = sizeof(map), key, step;
    UINT32 version;
    void *pool = NULL;
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *console = ST->ConOut;
    BS->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)map, &key, &step, &version);
    EFI_STATUS status = BS->ExitBootServices(IMAGE, key);
    print_to_serial_port();
    answer(L"ExitBootServices", status);
    answer(L"AllocatePool after it", BS->AllocatePool(EfiLoaderData, 64, &pool));
    answer(L"OutputString after it", console->OutputString(console, L"  a console that is no more\r\n"));
    survived();
    RT->ResetSystem(EfiResetShutdown, EFI_SUCCESS, 0, NULL);
    return EFI_SUCCESS;
}

static void count_up(EFI_EVENT event, void *context) {
    (void)event;
    ++*(volatile UINTN *)context;
}

/* Idles as an operating system does: the processor halts until an interrupt, here the firmware's timer. */
static EFI_STATUS hlt(void) {
    EFI_EVENT timer;
    volatile UINTN ticks = 0;
    BS->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_up, (void *)&ticks, &timer);
    BS->SetTimer(timer, TimerPeriodic, 100000);
    UINTN halts = 0;
    for (; ticks < 10; halts++) __asm__ volatile("sti; hlt");
    BS->CloseEvent(timer);
    print(L"  10 ticks of 10 ms passed in %s\n", halts < 1000 ? L"sleep" : L"a busy loop");
    return survived();
}

/* What other processors do that may call no service but WhoAmI (PI, volume 2, 13.4.1). */
static EFI_MP_SERVICES_PROTOCOL *processors;
static EFI_EVENT notified;
static volatile EFI_STATUS other_answers[4];
static volatile UINTN notified_on = 99;

static void note_processor(EFI_EVENT event, void *context) {
    UINTN number;
    (void)event, (void)context;
    if (!EFI_ERROR(processors->WhoAmI(processors, &number))) notified_on = number;
}

static void call_from_elsewhere(void *argument) {
    UINTN index;
    void *memory;
    (void)argument;
    ST->ConOut->OutputString(ST->ConOut, L"  said by another processor\r\n");
    other_answers[0] = BS->Stall(20000);
    other_answers[1] = BS->AllocatePool(EfiLoaderData, 100, &memory);
    BS->FreePool(memory);
    other_answers[2] = BS->SignalEvent(notified);
    other_answers[3] = BS->WaitForEvent(1, &notified, &index);
}

static EFI_STATUS other_processors(void) {
    EFI_GUID guid = EFI_MP_SERVICES_PROTOCOL_GUID;
    BS->LocateProtocol(&guid, NULL, (void **)&processors);
    BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, note_processor, NULL, &notified);
    EFI_STATUS status = processors->StartupAllAPs(processors, call_from_elsewhere, TRUE, NULL, 5000000, NULL, NULL);
    BS->Stall(10000);
    BS->CloseEvent(notified);
    answer(L"StartupAllAPs", status);
    answer(L"Stall, elsewhere", other_answers[0]);
    answer(L"AllocatePool, elsewhere", other_answers[1]);
    answer(L"SignalEvent, elsewhere", other_answers[2]);
    answer(L"WaitForEvent, elsewhere", other_answers[3]);
    print(L"  notified on processor %lu\n", notified_on);
    return survived();
}

/* One of them dies while the boot processor waits for it. */
static void die(void *argument) {
    (void)argument;
    __asm__ volatile("ud2");
}

static EFI_STATUS dying_processor(void) {
    EFI_GUID guid = EFI_MP_SERVICES_PROTOCOL_GUID;
    BS->LocateProtocol(&guid, NULL, (void **)&processors);
    processors->StartupThisAP(processors, die, 1, NULL, 0, NULL, NULL);
    return survived();
}

static EFI_STATUS reset(EFI_RESET_TYPE type) {
    RT->ResetSystem(type, EFI_SUCCESS, 0, NULL);
    return survived();
}

static EFI_STATUS reset_cold(void) { return reset(EfiResetCold); }

static EFI_STATUS reset_warm(void) { return reset(EfiResetWarm); }

static EFI_STATUS reset_shutdown(void) { return reset(EfiResetShutdown); }

static const struct {
    const CHAR16 *name, *what;
    EFI_STATUS (*run)(void);
} faults[] = {
    { L"null-jump", L"calling a function at address 0", null_jump },
    { L"divide", L"dividing by zero", divide },
    { L"stack", L"recursing without end", stack },
    { L"loop", L"looping for ever", loop },
    { L"ud2", L"running an undefined instruction", ud2 },
    { L"gp", L"reading from a non-canonical address", gp },
    { L"page", L"writing to an unmapped address", page },
    { L"int3", L"running into a breakpoint", int3 },
    { L"triple", L"faulting without an interrupt table", triple },
    { L"wild-copy", L"CopyMem from an unmapped address", wild_copy },
    { L"return-error", L"returning EFI_ABORTED", return_error },
    { L"wild-pointer", L"handing wild pointers to services", wild_pointer },
    { L"null-pointer", L"handing null pointers to services", null_pointer },
    { L"double-free", L"freeing memory twice", double_free },
    { L"protocols-100000", L"installing a protocol 100000 times", protocols_100000 },
    { L"allocate-all", L"allocating all memory", allocate_all },
    { L"after-ebs", L"calling boot services after ExitBootServices", after_ebs },
    { L"hlt", L"halting until interrupts come", hlt },
    { L"other-processors", L"calling services on other processors", other_processors },
    { L"dying-processor", L"dying on another processor", dying_processor },
    { L"reset-cold", L"resetting, cold", reset_cold },
    { L"reset-warm", L"resetting, warm", reset_warm },
    { L"reset-shutdown", L"switching off", reset_shutdown },
};

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    for (UINTN i = 0; i < COUNT_OF(faults); i++) {
        if (!has_option(faults[i].name)) continue;
        print(L"faults: %s\n", faults[i].what);
        return faults[i].run();
    }
    print(L"faults: name one of these in the load options:\n");
    for (UINTN i = 0; i < COUNT_OF(faults); i++) print(L"  %-18s %s\n", faults[i].name, faults[i].what);
    return EFI_INVALID_PARAMETER;
}
