/* Five bodies that attract each other, in steps: additions, products, a division and a root for each pair, in doubles. */
#include <emmintrin.h>

#include "kernels.h"

#define BODIES 5
#define STEP 0.001

int _fltused; /* the mark of a program that uses floating point, which the linker wants to see in a Windows object */

typedef struct {
    double at[3], speed[3], mass;
} BODY;

static double root(double value) { return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(value))); }

static void step(BODY *bodies) {
    for (int i = 0; i < BODIES; i++) {
        for (int j = i + 1; j < BODIES; j++) {
            double away[3], square = 0.01; /* softened: no two come close enough for the step to be too long */
            for (int k = 0; k < 3; k++) {
                away[k] = bodies[i].at[k] - bodies[j].at[k];
                square += away[k] * away[k];
            }
            double pull = STEP / (square * root(square));
            for (int k = 0; k < 3; k++) {
                bodies[i].speed[k] -= away[k] * bodies[j].mass * pull;
                bodies[j].speed[k] += away[k] * bodies[i].mass * pull;
            }
        }
    }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) bodies[i].at[k] += STEP * bodies[i].speed[k];
}

/* The bits of a coordinate at the end: IEEE 754 leaves no choice in any of them. */
u64 nbody_pass(u32 rounds) {
    BODY bodies[BODIES];
    for (int i = 0; i < BODIES; i++) {
        BODY *body = bodies + i;
        body->mass = i ? 0.1 * i : 10;
        for (int k = 0; k < 3; k++) {
            body->at[k] = i * (k == i % 3 ? 2.0 : 0.25);
            body->speed[k] = i && k == (i + 1) % 3 ? 3.0 / i : 0;
        }
    }
    for (u32 round = 0; round < rounds; round++) step(bodies);
    union {
        double number;
        u64 bits;
    } last = { bodies[1].at[0] };
    return last.bits;
}
