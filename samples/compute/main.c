/* compute.efi: long computations for benchmarks, each in passes that print what they found.
 *
 * A line says the computation's name, the number of the pass and its result: whoever reads the console takes the time
 * between two lines, and sees whether the machine computes right. Load options: names of computations run only these;
 * `long` makes each pass 20 times as long (natively half a second or more); `shared` has all processors of the machine do
 * 20 passes as one, where several can run the computation at once, and prints the sum of what they found.
 */
#include "kernels.h"
#include "sample.h"

#define PARTS 20

static BOOLEAN wanted(const char *name) {
    CHAR16 word[16];
    format_text(word, COUNT_OF(word), L"%a", name);
    return has_option(word);
}

/* What all processors work on: each takes the next part until there is none. */
static const KERNEL *shared;
static volatile u32 next_part;
static volatile u64 sum;
static EFI_MP_SERVICES_PROTOCOL *processors;
static EFI_EVENT done;

static void take_part(void *argument) {
    (void)argument;
    while (__sync_fetch_and_add(&next_part, 1) < PARTS) __sync_fetch_and_add(&sum, shared->pass(shared->rounds));
}

static u64 shared_pass(const KERNEL *kernel) {
    UINTN index;
    shared = kernel;
    next_part = 0;
    sum = 0;
    EFI_STATUS others = processors->StartupAllAPs(processors, take_part, FALSE, done, 0, NULL, NULL);
    take_part(NULL);
    if (!EFI_ERROR(others)) BS->WaitForEvent(1, &done, &index);
    return sum;
}

static EFI_STATUS find_processors(void) {
    EFI_GUID guid = EFI_MP_SERVICES_PROTOCOL_GUID;
    EFI_STATUS status = BS->LocateProtocol(&guid, NULL, (void **)&processors);
    return EFI_ERROR(status) ? status : BS->CreateEvent(0, 0, NULL, NULL, &done);
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    BS->SetWatchdogTimer(0, 0, 0, NULL);
    BOOLEAN chosen = FALSE;
    for (u32 i = 0; i < kernel_count; i++) chosen |= wanted(kernels[i].name);
    u32 times = has_option(L"long") ? PARTS : 1;
    BOOLEAN together = has_option(L"shared");
    EFI_STATUS status = together ? find_processors() : EFI_SUCCESS;
    if (EFI_ERROR(status)) return status;
    for (u32 i = 0; i < kernel_count; i++) {
        const KERNEL *kernel = kernels + i;
        if ((chosen && !wanted(kernel->name)) || (together && !kernel->shareable)) continue;
        print(L"%a 0 of %u\n", kernel->name, PASSES);
        for (u32 pass = 1; pass <= PASSES; pass++)
            print(L"%a %u %016lx\n", kernel->name, pass,
                  together ? shared_pass(kernel) : kernel->pass(kernel->rounds * times));
    }
    return EFI_SUCCESS;
}
