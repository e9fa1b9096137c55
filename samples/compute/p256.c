/* P-256 (SEC 2, 2.4.2): each round multiplies the base point by the x coordinate before, bit by bit.
 *
 * Field elements are four 64-bit limbs, least significant first, in Montgomery's form (times 2^256). The sums of products
 * are what such a guest needs most: MUL, ADC and no memory to speak of. Not in constant time, so not for secrets.
 */
#include "kernels.h"

typedef unsigned __int128 u128;
typedef struct {
    u64 limb[4];
} FIELD;
/* x = X / Z^2, y = Y / Z^3; Z = 0 is the point at infinity. */
typedef struct {
    FIELD x, y, z;
} POINT;

static const FIELD modulus = { { 0xffffffffffffffff, 0x00000000ffffffff, 0, 0xffffffff00000001 } };
static const FIELD one = { { 1, 0xffffffff00000000, 0xffffffffffffffff, 0x00000000fffffffe } }; /* 2^256 */
static const FIELD square_of_one = { { 3, 0xfffffffbffffffff, 0xfffffffffffffffe, 0x00000004fffffffd } }; /* 2^512 */
static const FIELD base_x = { { 0xf4a13945d898c296, 0x77037d812deb33a0, 0xf8bce6e563a440f2, 0x6b17d1f2e12c4247 } };
static const FIELD base_y = { { 0xcbb6406837bf51f5, 0x2bce33576b315ece, 0x8ee7eb4a7c0f9e16, 0x4fe342e2fe1a7f9b } };

/* `value` + 2^256 * `over` less the modulus, unless that is negative. */
static FIELD reduced(FIELD value, u64 over) {
    FIELD less;
    u64 borrow = 0;
    for (int i = 0; i < 4; i++) {
        u128 difference = (u128)value.limb[i] - modulus.limb[i] - borrow;
        less.limb[i] = (u64)difference;
        borrow = (u64)(difference >> 64) & 1;
    }
    return over >= borrow ? less : value;
}

static FIELD add(FIELD a, FIELD b) {
    u128 sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (u128)a.limb[i] + b.limb[i];
        a.limb[i] = (u64)sum;
        sum >>= 64;
    }
    return reduced(a, (u64)sum);
}

static FIELD subtract(FIELD a, FIELD b) {
    u64 borrow = 0;
    for (int i = 0; i < 4; i++) {
        u128 difference = (u128)a.limb[i] - b.limb[i] - borrow;
        a.limb[i] = (u64)difference;
        borrow = (u64)(difference >> 64) & 1;
    }
    u128 sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (u128)a.limb[i] + (borrow ? modulus.limb[i] : 0);
        a.limb[i] = (u64)sum;
        sum >>= 64;
    }
    return a;
}

/* a * b / 2^256. The modulus is -1 modulo 2^64, so that the lowest limb is the factor that clears it. */
static FIELD multiply(FIELD a, FIELD b) {
    u64 t[6] = { 0 };
    for (int i = 0; i < 4; i++) {
        u128 sum = 0;
        for (int j = 0; j < 4; j++) {
            sum += (u128)a.limb[i] * b.limb[j] + t[j];
            t[j] = (u64)sum;
            sum >>= 64;
        }
        sum += t[4];
        t[4] = (u64)sum;
        t[5] = (u64)(sum >> 64);
        u64 factor = t[0];
        sum = ((u128)factor * modulus.limb[0] + t[0]) >> 64;
        for (int j = 1; j < 4; j++) {
            sum += (u128)factor * modulus.limb[j] + t[j];
            t[j - 1] = (u64)sum;
            sum >>= 64;
        }
        sum += t[4];
        t[3] = (u64)sum;
        t[4] = t[5] + (u64)(sum >> 64);
    }
    FIELD product = { { t[0], t[1], t[2], t[3] } };
    return reduced(product, t[4]);
}

static int is_zero(FIELD a) { return !(a.limb[0] | a.limb[1] | a.limb[2] | a.limb[3]); }

/* By Fermat: to the power of the modulus less two. */
static FIELD inverse(FIELD a) {
    FIELD result = one;
    for (int bit = 255; bit >= 0; bit--) {
        result = multiply(result, result);
        if ((bit < 64 ? modulus.limb[0] - 2 : modulus.limb[bit / 64]) >> bit % 64 & 1) result = multiply(result, a);
    }
    return result;
}

static POINT doubled(POINT p) {
    FIELD delta = multiply(p.z, p.z), gamma = multiply(p.y, p.y), beta = multiply(p.x, gamma);
    FIELD alpha = multiply(subtract(p.x, delta), add(p.x, delta)), sum = add(p.y, p.z);
    alpha = add(add(alpha, alpha), alpha);
    FIELD four = add(add(beta, beta), add(beta, beta));
    POINT result;
    result.x = subtract(multiply(alpha, alpha), add(four, four));
    result.z = subtract(multiply(sum, sum), add(gamma, delta));
    FIELD eight = multiply(gamma, gamma);
    eight = add(eight, eight), eight = add(eight, eight), eight = add(eight, eight);
    result.y = subtract(multiply(alpha, subtract(four, result.x)), eight);
    return result;
}

/* p + q for q with Z = 1. */
static POINT added(POINT p, POINT q) {
    if (is_zero(p.z)) return q;
    FIELD zz = multiply(p.z, p.z);
    FIELD h = subtract(multiply(q.x, zz), p.x), r = subtract(multiply(q.y, multiply(p.z, zz)), p.y);
    if (is_zero(h)) {
        if (is_zero(r)) return doubled(p);
        POINT infinity = { one, one, { { 0 } } };
        return infinity;
    }
    FIELD hh = multiply(h, h), hhh = multiply(h, hh), v = multiply(p.x, hh);
    POINT result;
    result.x = subtract(subtract(multiply(r, r), hhh), add(v, v));
    result.y = subtract(multiply(r, subtract(v, result.x)), multiply(p.y, hhh));
    result.z = multiply(p.z, h);
    return result;
}

/* The lowest 64 bits of the last x coordinate. */
u64 p256_pass(u32 rounds) {
    POINT base = { multiply(base_x, square_of_one), multiply(base_y, square_of_one), one };
    FIELD plain_one = { { 1 } }, scalar = base_x;
    for (u32 round = 0; round < rounds; round++) {
        POINT point = { one, one, { { 0 } } };
        for (int bit = 255; bit >= 0; bit--) {
            point = doubled(point);
            if (scalar.limb[bit / 64] >> bit % 64 & 1) point = added(point, base);
        }
        FIELD z = inverse(point.z);
        scalar = multiply(multiply(point.x, multiply(z, z)), plain_one);
    }
    return scalar.limb[0];
}
