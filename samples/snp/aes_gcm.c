/* AES-256-GCM: see aes_gcm.h. */
#include "aes_gcm.h"
#include "sample.h"

#define ROUNDS 14

static UINT8 sbox[256];

/* Doubles in GF(2^8) with AES's polynomial. */
static UINT8 twice(UINT8 value) { return (UINT8)(value << 1) ^ (value & 0x80 ? 0x1b : 0); }

/* The S-box by its definition (FIPS 197, 5.1.1): the inverse in GF(2^8), then an affine map. p runs through the powers
 * of 3, q through those of its inverse, so q is always 1/p. */
static void make_sbox(void) {
    UINT8 p = 1, q = 1;
    do {
        p = p ^ twice(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if (q & 0x80) q ^= 0x09;
        UINT8 x = q;
        for (int turn = 1; turn < 5; turn++) x ^= (UINT8)(q << turn | q >> (8 - turn));
        sbox[p] = x ^ 0x63;
    } while (p != 1);
    sbox[0] = 0x63;
}

typedef struct {
    UINT8 round[ROUNDS + 1][16];
    UINT8 hash[16]; /* GCM's H: the cipher of a block of zeros */
} KEY;

static void encrypt_block(const KEY *key, const UINT8 in[16], UINT8 out[16]) {
    UINT8 state[16], next[16];
    for (int i = 0; i < 16; i++) state[i] = in[i] ^ key->round[0][i];
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < 16; i++) next[i] = sbox[state[(i + 4 * (i % 4)) % 16]]; /* SubBytes, ShiftRows */
        for (int column = 0; column < 16 && round < ROUNDS; column += 4) {          /* MixColumns */
            UINT8 *c = next + column, all = c[0] ^ c[1] ^ c[2] ^ c[3], first = c[0];
            for (int i = 0; i < 4; i++) c[i] ^= all ^ twice(c[i] ^ (i < 3 ? c[i + 1] : first));
        }
        for (int i = 0; i < 16; i++) state[i] = next[i] ^ key->round[round][i];
    }
    memcpy(out, state, 16);
}

static void expand_key(KEY *key, const UINT8 bytes[32]) {
    UINT8 *words = &key->round[0][0], constant = 1;
    if (!sbox[0]) make_sbox();
    memcpy(words, bytes, 32);
    for (int at = 32; at < 16 * (ROUNDS + 1); at += 4) {
        UINT8 word[4];
        memcpy(word, words + at - 4, 4);
        if (at % 32 == 0) {
            UINT8 first = word[0];
            for (int i = 0; i < 4; i++) word[i] = sbox[i < 3 ? word[i + 1] : first];
            word[0] ^= constant;
            constant = twice(constant);
        } else if (at % 32 == 16) {
            for (int i = 0; i < 4; i++) word[i] = sbox[word[i]];
        }
        for (int i = 0; i < 4; i++) words[at + i] = words[at + i - 32] ^ word[i];
    }
    UINT8 zero[16] = {0};
    encrypt_block(key, zero, key->hash);
}

/* hash = hash * H in GF(2^128), bits in GCM's order. */
static void multiply(const KEY *key, UINT8 hash[16]) {
    UINT8 product[16] = {0}, factor[16];
    memcpy(factor, key->hash, 16);
    for (int bit = 0; bit < 128; bit++) {
        if (hash[bit / 8] & 0x80 >> bit % 8)
            for (int i = 0; i < 16; i++) product[i] ^= factor[i];
        UINT8 low = factor[15] & 1;
        for (int i = 15; i > 0; i--) factor[i] = (UINT8)(factor[i] >> 1 | factor[i - 1] << 7);
        factor[0] = factor[0] >> 1 ^ (low ? 0xe1 : 0);
    }
    memcpy(hash, product, 16);
}

static void absorb(const KEY *key, UINT8 hash[16], const UINT8 *data, UINTN size) {
    for (UINTN at = 0; at < size; at += 16) {
        for (UINTN i = 0; i < 16 && at + i < size; i++) hash[i] ^= data[at + i];
        multiply(key, hash);
    }
}

/* XORs `data` with the key stream of `iv` that starts at counter `counter`. */
static void stream(const KEY *key, const UINT8 iv[GCM_IV_SIZE], UINT32 counter, UINT8 *data, UINTN size) {
    UINT8 block[16], mask[16];
    memcpy(block, iv, GCM_IV_SIZE);
    for (UINTN at = 0; at < size; at += 16, counter++) {
        for (int i = 0; i < 4; i++) block[12 + i] = (UINT8)(counter >> (24 - 8 * i));
        encrypt_block(key, block, mask);
        for (UINTN i = 0; i < 16 && at + i < size; i++) data[at + i] ^= mask[i];
    }
}

static void make_tag(const KEY *key, const UINT8 *iv, const UINT8 *aad, UINTN aad_size, const UINT8 *data, UINTN size,
                     UINT8 tag[GCM_TAG_SIZE]) {
    UINT8 lengths[16];
    memset(tag, 0, GCM_TAG_SIZE);
    absorb(key, tag, aad, aad_size);
    absorb(key, tag, data, size);
    for (int i = 0; i < 8; i++) {
        lengths[i] = (UINT8)((UINT64)aad_size * 8 >> (56 - 8 * i));
        lengths[8 + i] = (UINT8)((UINT64)size * 8 >> (56 - 8 * i));
    }
    absorb(key, tag, lengths, 16);
    stream(key, iv, 1, tag, GCM_TAG_SIZE);
}

void gcm_seal(const UINT8 bytes[32], const UINT8 *iv, const UINT8 *aad, UINTN aad_size, UINT8 *data, UINTN size,
              UINT8 tag[GCM_TAG_SIZE]) {
    KEY key;
    expand_key(&key, bytes);
    stream(&key, iv, 2, data, size);
    make_tag(&key, iv, aad, aad_size, data, size, tag);
    memset(&key, 0, sizeof key);
}

BOOLEAN gcm_open(const UINT8 bytes[32], const UINT8 *iv, const UINT8 *aad, UINTN aad_size, UINT8 *data, UINTN size,
                 const UINT8 tag[GCM_TAG_SIZE]) {
    KEY key;
    UINT8 expected[GCM_TAG_SIZE], difference = 0;
    expand_key(&key, bytes);
    make_tag(&key, iv, aad, aad_size, data, size, expected);
    for (int i = 0; i < GCM_TAG_SIZE; i++) difference |= expected[i] ^ tag[i];
    if (!difference) stream(&key, iv, 2, data, size);
    memset(&key, 0, sizeof key);
    return difference == 0;
}
