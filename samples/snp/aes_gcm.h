/* AES-256-GCM (FIPS 197, NIST SP 800-38D) for short messages with 96-bit IVs. Small, not fast, not constant-time. */
#ifndef AES_GCM_H
#define AES_GCM_H

#include "efi.h"

#define GCM_TAG_SIZE 16
#define GCM_IV_SIZE 12

/* Encrypts `size` bytes in place and writes the tag over them and `aad`. */
void gcm_seal(const UINT8 key[32], const UINT8 iv[GCM_IV_SIZE], const UINT8 *aad, UINTN aad_size, UINT8 *data, UINTN size,
              UINT8 tag[GCM_TAG_SIZE]);

/* Checks the tag, then decrypts in place. FALSE, with nothing changed, if the tag is wrong. */
BOOLEAN gcm_open(const UINT8 key[32], const UINT8 iv[GCM_IV_SIZE], const UINT8 *aad, UINTN aad_size, UINT8 *data,
                 UINTN size, const UINT8 tag[GCM_TAG_SIZE]);

#endif
