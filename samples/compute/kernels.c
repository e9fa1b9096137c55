/* The table of computations. A pass takes 20 to 50 ms where it runs natively. */
#include "kernels.h"

const KERNEL kernels[] = {
    { "sha256", 160, sha256_pass }, /* SHA-256 of 64 KiB */
    { "p256", 400, p256_pass },     /* a scalar times P-256's base point */
    { "sort", 20, sort_pass },       /* 32,768 integers by heap sort */
    { "nbody", 250000, nbody_pass } /* a step of five bodies, in doubles */
};
const u32 kernel_count = sizeof kernels / sizeof *kernels;
