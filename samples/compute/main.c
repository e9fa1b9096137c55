/* compute.efi: long computations for benchmarks, each in passes that print what they found.
 *
 * A line says the computation's name, the number of the pass and its result: whoever reads the console takes the time
 * between two lines, and sees whether the machine computes right. Load options: names of computations run only these;
 * `long` makes each pass 20 times as long (natively half a second or more).
 */
#include "kernels.h"
#include "sample.h"

static BOOLEAN wanted(const char *name) {
    CHAR16 word[16];
    format_text(word, COUNT_OF(word), L"%a", name);
    return has_option(word);
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    BS->SetWatchdogTimer(0, 0, 0, NULL);
    BOOLEAN chosen = FALSE;
    for (u32 i = 0; i < kernel_count; i++) chosen |= wanted(kernels[i].name);
    u32 times = has_option(L"long") ? 20 : 1;
    for (u32 i = 0; i < kernel_count; i++) {
        const KERNEL *kernel = kernels + i;
        if (chosen && !wanted(kernel->name)) continue;
        print(L"%a 0 of %u\n", kernel->name, PASSES);
        for (u32 pass = 1; pass <= PASSES; pass++)
            print(L"%a %u %016lx\n", kernel->name, pass, kernel->pass(kernel->rounds * times));
    }
    return EFI_SUCCESS;
}
