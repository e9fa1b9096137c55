/* Basic types, status codes and GUIDs (UEFI 2.10, 2.3.1 and appendix D).
 *
 * The samples are compiled for the target x86_64-unknown-windows: pointers have 64 bits, wchar_t has 16, and a plain C
 * function already follows the calling convention that UEFI uses on x64 (2.3.4.2). So nothing here needs an attribute.
 */
#ifndef EFI_TYPES_H
#define EFI_TYPES_H

typedef unsigned char BOOLEAN;
typedef signed char INT8;
typedef unsigned char UINT8;
typedef short INT16;
typedef unsigned short UINT16;
typedef int INT32;
typedef unsigned int UINT32;
typedef long long INT64;
typedef unsigned long long UINT64;
typedef INT64 INTN;
typedef UINT64 UINTN;
typedef char CHAR8;
typedef unsigned short CHAR16; /* UCS-2, as in L"text" */
typedef UINT64 EFI_STATUS;
typedef void *EFI_HANDLE;
typedef void *EFI_EVENT;
typedef UINT64 EFI_LBA;
typedef UINTN EFI_TPL;
typedef UINT64 EFI_PHYSICAL_ADDRESS;
typedef UINT64 EFI_VIRTUAL_ADDRESS;

#define TRUE ((BOOLEAN)1)
#define FALSE ((BOOLEAN)0)
#define NULL ((void *)0)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define OFFSET_OF(type, member) __builtin_offsetof(type, member)

typedef struct {
    UINT32 Data1;
    UINT16 Data2;
    UINT16 Data3;
    UINT8 Data4[8];
} EFI_GUID;

/* The pointer to a GUID that the services take: GUID_OF(EFI_BLOCK_IO_PROTOCOL_GUID). */
#define GUID_OF(...) (&(EFI_GUID)__VA_ARGS__)

#define EFI_ERROR_BIT 0x8000000000000000ULL
#define EFI_ERROR(status) (((status) & EFI_ERROR_BIT) != 0)
#define EFI_SUCCESS 0ULL
#define EFI_LOAD_ERROR (EFI_ERROR_BIT | 1)
#define EFI_INVALID_PARAMETER (EFI_ERROR_BIT | 2)
#define EFI_UNSUPPORTED (EFI_ERROR_BIT | 3)
#define EFI_BAD_BUFFER_SIZE (EFI_ERROR_BIT | 4)
#define EFI_BUFFER_TOO_SMALL (EFI_ERROR_BIT | 5)
#define EFI_NOT_READY (EFI_ERROR_BIT | 6)
#define EFI_DEVICE_ERROR (EFI_ERROR_BIT | 7)
#define EFI_WRITE_PROTECTED (EFI_ERROR_BIT | 8)
#define EFI_OUT_OF_RESOURCES (EFI_ERROR_BIT | 9)
#define EFI_VOLUME_CORRUPTED (EFI_ERROR_BIT | 10)
#define EFI_VOLUME_FULL (EFI_ERROR_BIT | 11)
#define EFI_NO_MEDIA (EFI_ERROR_BIT | 12)
#define EFI_MEDIA_CHANGED (EFI_ERROR_BIT | 13)
#define EFI_NOT_FOUND (EFI_ERROR_BIT | 14)
#define EFI_ACCESS_DENIED (EFI_ERROR_BIT | 15)
#define EFI_NO_RESPONSE (EFI_ERROR_BIT | 16)
#define EFI_NO_MAPPING (EFI_ERROR_BIT | 17)
#define EFI_TIMEOUT (EFI_ERROR_BIT | 18)
#define EFI_NOT_STARTED (EFI_ERROR_BIT | 19)
#define EFI_ALREADY_STARTED (EFI_ERROR_BIT | 20)
#define EFI_ABORTED (EFI_ERROR_BIT | 21)
#define EFI_PROTOCOL_ERROR (EFI_ERROR_BIT | 24)
#define EFI_INCOMPATIBLE_VERSION (EFI_ERROR_BIT | 25)
#define EFI_SECURITY_VIOLATION (EFI_ERROR_BIT | 26)
#define EFI_CRC_ERROR (EFI_ERROR_BIT | 27)
#define EFI_END_OF_FILE (EFI_ERROR_BIT | 31)
#define EFI_WARN_UNKNOWN_GLYPH 1ULL
#define EFI_WARN_DELETE_FAILURE 2ULL

/* Every table begins with this (4.2). CRC32 covers HeaderSize bytes, itself taken as zero. */
typedef struct {
    UINT64 Signature;
    UINT32 Revision; /* major version << 16 | minor version times ten: 2.10 is 0x00020064 */
    UINT32 HeaderSize;
    UINT32 CRC32;
    UINT32 Reserved;
} EFI_TABLE_HEADER;

typedef struct {
    UINT16 Year; /* 1900 to 9999 */
    UINT8 Month, Day, Hour, Minute, Second, Pad1;
    UINT32 Nanosecond;
    INT16 TimeZone; /* minutes west of UTC, or 0x7FF for local time */
    UINT8 Daylight, Pad2;
} EFI_TIME;

#endif
