/* The same computations as a program of the host: what compute.efi prints, without a machine in between. */
#include <stdio.h>
#include <string.h>

#include "kernels.h"

static int wanted(const char *name, int count, char **words) {
    for (int i = 1; i < count; i++)
        if (!strcmp(words[i], name)) return 1;
    return 0;
}

int main(int count, char **words) {
    int chosen = 0;
    for (u32 i = 0; i < kernel_count; i++) chosen |= wanted(kernels[i].name, count, words);
    u32 times = wanted("long", count, words) ? 20 : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (u32 i = 0; i < kernel_count; i++) {
        const KERNEL *kernel = kernels + i;
        if (chosen && !wanted(kernel->name, count, words)) continue;
        printf("%s 0 of %u\n", kernel->name, PASSES);
        for (u32 pass = 1; pass <= PASSES; pass++)
            printf("%s %u %016llx\n", kernel->name, pass, kernel->pass(kernel->rounds * times));
    }
    return 0;
}
