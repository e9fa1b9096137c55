/* Heap sort of 32,768 integers: comparisons that cannot be foretold, loads and stores all over 256 KiB. */
#include "kernels.h"

#define COUNT 32768

static u64 numbers[COUNT];

static void sift(u32 at, u32 count) {
    u64 value = numbers[at];
    for (u32 child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && numbers[child + 1] > numbers[child]) child++;
        if (numbers[child] <= value) break;
        numbers[at] = numbers[child];
    }
    numbers[at] = value;
}

/* A sum over the sorted numbers that each one's place enters. */
u64 sort_pass(u32 rounds) {
    u64 random = 0x9e3779b97f4a7c15, sum = 0;
    for (u32 round = 0; round < rounds; round++) {
        for (u32 i = 0; i < COUNT; i++) { /* xorshift64, Marsaglia 2003 */
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            numbers[i] = random;
        }
        for (u32 at = COUNT / 2; at-- > 0;) sift(at, COUNT);
        for (u32 last = COUNT - 1; last > 0; last--) {
            u64 largest = numbers[0];
            numbers[0] = numbers[last];
            numbers[last] = largest;
            sift(0, last);
        }
        for (u32 i = 0; i < COUNT; i++) sum = sum * 31 + numbers[i];
    }
    return sum;
}
