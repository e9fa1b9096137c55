/* What the samples share: printing, strings, load options. The code is in lib/sample.c. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include "efi.h"

/* Set by sample_init(). */
extern EFI_HANDLE IMAGE;
extern EFI_SYSTEM_TABLE *ST;
extern EFI_BOOT_SERVICES *BS;
extern EFI_RUNTIME_SERVICES *RT;
extern EFI_LOADED_IMAGE_PROTOCOL *LOADED; /* our own image */

/* The first call of every sample's efi_main(). */
void sample_init(EFI_HANDLE image, EFI_SYSTEM_TABLE *table);

/* Prints to the console. In the format, \n starts a new line, and these are replaced:
 *   %s CHAR16 text   %a CHAR8 text   %c character   %d signed   %u unsigned   %x hexadecimal   %r status   %g GUID *
 * `l` before d, u and x takes 64 bits instead of 32. A width pads with spaces, `0` before it with zeros, `-` before it
 * on the right.
 */
void print(const CHAR16 *format, ...);

/* The same into a buffer of `size` characters, always ended by NUL. */
void format_text(CHAR16 *buffer, UINTN size, const CHAR16 *format, ...);
void format_list(CHAR16 *buffer, UINTN size, const CHAR16 *format, __builtin_ms_va_list list);

/* From now on print() writes to the serial port COM1 by itself: it works after ExitBootServices. */
void print_to_serial_port(void);

/* "EFI_NOT_FOUND" and so on; NULL for a value without a name. */
const CHAR16 *status_name(EFI_STATUS status);

/* Our load options as text that ends with NUL (never NULL). */
const CHAR16 *load_options(void);
/* Whether `word` stands in our load options, between blanks. */
BOOLEAN has_option(const CHAR16 *word);

/* The root directory of the file system that we were loaded from, or NULL. */
EFI_FILE_PROTOCOL *open_root(void);
/* A whole file in pool memory (free it with FreePool) and its size. */
EFI_STATUS read_file(const CHAR16 *path, void **data, UINTN *size);

UINTN text_length(const CHAR16 *text);
BOOLEAN text_equal(const CHAR16 *first, const CHAR16 *second);
void text_copy(CHAR16 *target, UINTN size, const CHAR16 *source);
BOOLEAN guid_equal(const EFI_GUID *first, const EFI_GUID *second);

/* The compiler may call these for structure copies and loops. */
void *memcpy(void *target, const void *source, UINTN size);
void *memset(void *target, int value, UINTN size);
int memcmp(const void *first, const void *second, UINTN size);

static inline void out8(UINT16 port, UINT8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline UINT8 in8(UINT16 port) {
    UINT8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

#endif
