/* The table of computations. A pass takes 20 to 50 ms where it runs natively. */
#include "kernels.h"

const KERNEL kernels[] = {
    { "sha256", 160, sha256_pass, 0 }, /* SHA-256 of 64 KiB */
    { "p256", 400, p256_pass, 1 },     /* a scalar times P-256's base point */
    { "sort", 20, sort_pass, 0 },      /* 32,768 integers by heap sort */
    { "nbody", 250000, nbody_pass, 1 } /* a step of five bodies, in doubles */
};
const u32 kernel_count = sizeof kernels / sizeof *kernels;
