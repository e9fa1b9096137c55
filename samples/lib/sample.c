/* What the samples share: printing, strings, load options (see sample.h). */
#include "sample.h"

EFI_HANDLE IMAGE;
EFI_SYSTEM_TABLE *ST;
EFI_BOOT_SERVICES *BS;
EFI_RUNTIME_SERVICES *RT;
EFI_LOADED_IMAGE_PROTOCOL *LOADED;

static BOOLEAN serial_port;

void sample_init(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    IMAGE = image;
    ST = table;
    BS = table->BootServices;
    RT = table->RuntimeServices;
    BS->HandleProtocol(image, GUID_OF(EFI_LOADED_IMAGE_PROTOCOL_GUID), (void **)&LOADED);
}

/* ---- memory and strings ---- */

void *memcpy(void *target, const void *source, UINTN size) {
    void *to = target;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(source), "+c"(size) : : "memory");
    return target;
}

void *memset(void *target, int value, UINTN size) {
    void *to = target;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return target;
}

int memcmp(const void *first, const void *second, UINTN size) {
    const UINT8 *a = first, *b = second;
    for (UINTN i = 0; i < size; i++)
        if (a[i] != b[i]) return a[i] - b[i];
    return 0;
}

UINTN text_length(const CHAR16 *text) {
    UINTN length = 0;
    while (text[length]) length++;
    return length;
}

BOOLEAN text_equal(const CHAR16 *first, const CHAR16 *second) {
    while (*first && *first == *second) first++, second++;
    return *first == *second;
}

void text_copy(CHAR16 *target, UINTN size, const CHAR16 *source) {
    UINTN i = 0;
    for (; i + 1 < size && source[i]; i++) target[i] = source[i];
    target[i] = 0;
}

BOOLEAN guid_equal(const EFI_GUID *first, const EFI_GUID *second) {
    return memcmp(first, second, sizeof(EFI_GUID)) == 0;
}

/* ---- formatting ---- */

const CHAR16 *status_name(EFI_STATUS status) {
    static const CHAR16 *const errors[] = {
        L"EFI_SUCCESS",          L"EFI_LOAD_ERROR",       L"EFI_INVALID_PARAMETER",    L"EFI_UNSUPPORTED",
        L"EFI_BAD_BUFFER_SIZE",  L"EFI_BUFFER_TOO_SMALL", L"EFI_NOT_READY",            L"EFI_DEVICE_ERROR",
        L"EFI_WRITE_PROTECTED",  L"EFI_OUT_OF_RESOURCES", L"EFI_VOLUME_CORRUPTED",     L"EFI_VOLUME_FULL",
        L"EFI_NO_MEDIA",         L"EFI_MEDIA_CHANGED",    L"EFI_NOT_FOUND",            L"EFI_ACCESS_DENIED",
        L"EFI_NO_RESPONSE",      L"EFI_NO_MAPPING",       L"EFI_TIMEOUT",              L"EFI_NOT_STARTED",
        L"EFI_ALREADY_STARTED",  L"EFI_ABORTED",          L"EFI_ICMP_ERROR",           L"EFI_TFTP_ERROR",
        L"EFI_PROTOCOL_ERROR",   L"EFI_INCOMPATIBLE_VERSION", L"EFI_SECURITY_VIOLATION", L"EFI_CRC_ERROR",
        L"EFI_END_OF_MEDIA",     NULL,                    NULL,                        L"EFI_END_OF_FILE",
    };
    static const CHAR16 *const warnings[] = {
        L"EFI_SUCCESS",          L"EFI_WARN_UNKNOWN_GLYPH", L"EFI_WARN_DELETE_FAILURE",
        L"EFI_WARN_WRITE_FAILURE", L"EFI_WARN_BUFFER_TOO_SMALL",
    };
    UINT64 number = status & ~EFI_ERROR_BIT;
    if (EFI_ERROR(status)) return number < COUNT_OF(errors) ? errors[number] : NULL;
    return number < COUNT_OF(warnings) ? warnings[number] : NULL;
}

typedef struct {
    CHAR16 *text;
    UINTN size, used;
} BUFFER;

static void put(BUFFER *buffer, CHAR16 character) {
    if (buffer->used + 1 < buffer->size) buffer->text[buffer->used++] = character;
}

static void put_padded(BUFFER *buffer, const CHAR16 *text, UINTN width, CHAR16 pad, BOOLEAN left) {
    UINTN length = text_length(text);
    for (UINTN i = length; !left && i < width; i++) put(buffer, pad);
    for (UINTN i = 0; i < length; i++) put(buffer, text[i]);
    for (UINTN i = length; left && i < width; i++) put(buffer, L' ');
}

/* Writes the digits of `value` at the end of `space` and answers where they begin. */
static CHAR16 *digits(CHAR16 space[24], UINT64 value, UINT64 base, BOOLEAN negative) {
    CHAR16 *at = space + 23;
    *at = 0;
    do {
        *--at = L"0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative) *--at = L'-';
    return at;
}

void format_list(CHAR16 *target, UINTN size, const CHAR16 *format, __builtin_ms_va_list list) {
    BUFFER buffer = { target, size, 0 };
    for (; *format; format++) {
        if (*format != L'%') {
            if (*format == L'\n') put(&buffer, L'\r');
            put(&buffer, *format);
            continue;
        }
        BOOLEAN left = FALSE, wide = FALSE;
        CHAR16 pad = L' ', space[64];
        UINTN width = 0;
        format++;
        if (*format == L'-') left = TRUE, format++;
        if (*format == L'0') pad = L'0', format++;
        while (*format >= L'0' && *format <= L'9') width = width * 10 + (*format++ - L'0');
        if (*format == L'l') wide = TRUE, format++;
        const CHAR16 *text = space;
        if (*format == L's') {
            text = __builtin_va_arg(list, const CHAR16 *);
            if (!text) text = L"(null)";
        } else if (*format == L'a') {
            const CHAR8 *narrow = __builtin_va_arg(list, const CHAR8 *);
            UINTN i = 0;
            for (; narrow[i] && i < COUNT_OF(space) - 1; i++) space[i] = (UINT8)narrow[i];
            space[i] = 0;
        } else if (*format == L'c') {
            space[0] = (CHAR16)__builtin_va_arg(list, int);
            space[1] = 0;
        } else if (*format == L'd') {
            INT64 value = wide ? __builtin_va_arg(list, INT64) : __builtin_va_arg(list, INT32);
            text = digits(space, value < 0 ? -(UINT64)value : (UINT64)value, 10, value < 0);
        } else if (*format == L'u' || *format == L'x') {
            UINT64 value = wide ? __builtin_va_arg(list, UINT64) : __builtin_va_arg(list, UINT32);
            text = digits(space, value, *format == L'u' ? 10 : 16, FALSE);
        } else if (*format == L'r') {
            EFI_STATUS status = __builtin_va_arg(list, EFI_STATUS);
            text = status_name(status);
            if (!text) text = digits(space, status, 16, FALSE);
        } else if (*format == L'g') {
            const EFI_GUID *guid = __builtin_va_arg(list, const EFI_GUID *);
            const UINT8 *tail = guid->Data4;
            format_text(space, COUNT_OF(space), L"%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", guid->Data1,
                        guid->Data2, guid->Data3, tail[0], tail[1], tail[2], tail[3], tail[4], tail[5], tail[6],
                        tail[7]);
        } else {
            space[0] = *format;
            space[1] = 0;
        }
        put_padded(&buffer, text, width, pad, left);
    }
    buffer.text[buffer.used] = 0;
}

void format_text(CHAR16 *target, UINTN size, const CHAR16 *format, ...) {
    __builtin_ms_va_list list;
    __builtin_ms_va_start(list, format);
    format_list(target, size, format, list);
    __builtin_ms_va_end(list);
}

void print_to_serial_port(void) { serial_port = TRUE; }

void print(const CHAR16 *format, ...) {
    CHAR16 text[512];
    __builtin_ms_va_list list;
    __builtin_ms_va_start(list, format);
    format_list(text, COUNT_OF(text), format, list);
    __builtin_ms_va_end(list);
    if (!serial_port) {
        ST->ConOut->OutputString(ST->ConOut, text);
        return;
    }
    for (const CHAR16 *at = text; *at; at++) {
        while (!(in8(0x3f8 + 5) & 0x20)) { /* line status: transmitter holding register empty */
        }
        out8(0x3f8, (UINT8)*at);
    }
}

/* ---- load options ---- */

const CHAR16 *load_options(void) {
    static CHAR16 copy[256];
    UINTN count = LOADED->LoadOptions ? LOADED->LoadOptionsSize / sizeof(CHAR16) : 0;
    if (count > COUNT_OF(copy) - 1) count = COUNT_OF(copy) - 1;
    memcpy(copy, LOADED->LoadOptions, count * sizeof(CHAR16));
    copy[count] = 0;
    return copy;
}

BOOLEAN has_option(const CHAR16 *word) {
    UINTN length = text_length(word);
    for (const CHAR16 *at = load_options(); *at;) {
        UINTN run = 0;
        while (at[run] && at[run] != L' ') run++;
        if (run == length && memcmp(at, word, length * sizeof(CHAR16)) == 0) return TRUE;
        at += run;
        while (*at == L' ') at++;
    }
    return FALSE;
}

/* ---- files ---- */

EFI_FILE_PROTOCOL *open_root(void) {
    EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *system;
    EFI_FILE_PROTOCOL *root;
    EFI_GUID *guid = GUID_OF(EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID);
    if (EFI_ERROR(BS->HandleProtocol(LOADED->DeviceHandle, guid, (void **)&system))) return NULL;
    return EFI_ERROR(system->OpenVolume(system, &root)) ? NULL : root;
}

/* The size of a file is in its EFI_FILE_INFO, which has the name at its end: its own size is only known by asking. */
static EFI_STATUS file_size(EFI_FILE_PROTOCOL *file, UINTN *size) {
    UINT8 space[sizeof(EFI_FILE_INFO) + 256 * sizeof(CHAR16)] __attribute__((aligned(8)));
    UINTN space_size = sizeof(space);
    EFI_STATUS status = file->GetInfo(file, GUID_OF(EFI_FILE_INFO_ID), &space_size, space);
    *size = ((EFI_FILE_INFO *)space)->FileSize;
    return status;
}

EFI_STATUS read_file(const CHAR16 *path, void **data, UINTN *size) {
    EFI_FILE_PROTOCOL *root = open_root(), *file;
    if (!root) return EFI_NO_MEDIA;
    EFI_STATUS status = root->Open(root, &file, path, EFI_FILE_MODE_READ, 0);
    root->Close(root);
    if (EFI_ERROR(status)) return status;
    status = file_size(file, size);
    if (!EFI_ERROR(status)) status = BS->AllocatePool(EfiLoaderData, *size, data);
    if (!EFI_ERROR(status)) {
        status = file->Read(file, size, *data);
        if (EFI_ERROR(status)) BS->FreePool(*data);
    }
    file->Close(file);
    return status;
}
