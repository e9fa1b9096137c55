/* Long computations, the same C for every machine that runs them: no header of a host or of UEFI is needed. */
#ifndef KERNELS_H
#define KERNELS_H

#define PASSES 6 /* of each computation */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

/* One pass of a computation: `rounds` times its unit of work. Every pass of a kernel gives the same result. */
typedef struct {
    const char *name;
    u32 rounds;
    u64 (*pass)(u32 rounds);
    int shareable; /* it keeps nothing in static variables: several processors may run it at once */
} KERNEL;

extern const KERNEL kernels[];
extern const u32 kernel_count;

u64 sha256_pass(u32 rounds);
u64 p256_pass(u32 rounds);
u64 sort_pass(u32 rounds);
u64 nbody_pass(u32 rounds);

#endif
