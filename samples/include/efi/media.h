/* Images, files and disks (UEFI 2.10, chapters 9 and 13). */
#ifndef EFI_MEDIA_H
#define EFI_MEDIA_H

#include "tables.h"

/* 9.1: what an image may know about itself. */
#define EFI_LOADED_IMAGE_PROTOCOL_GUID \
    { 0x5b1b31a1, 0x9562, 0x11d2, { 0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
#define EFI_LOADED_IMAGE_DEVICE_PATH_PROTOCOL_GUID \
    { 0xbc62157e, 0x3e33, 0x4fec, { 0x99, 0x20, 0x2d, 0x3b, 0x36, 0xd7, 0x50, 0xdf } }
#define EFI_LOADED_IMAGE_PROTOCOL_REVISION 0x1000
typedef struct {
    UINT32 Revision;
    EFI_HANDLE ParentHandle;
    EFI_SYSTEM_TABLE *SystemTable;
    EFI_HANDLE DeviceHandle;
    EFI_DEVICE_PATH_PROTOCOL *FilePath;
    void *Reserved;
    UINT32 LoadOptionsSize; /* bytes */
    void *LoadOptions;
    void *ImageBase;
    UINT64 ImageSize;
    EFI_MEMORY_TYPE ImageCodeType, ImageDataType;
    EFI_STATUS (*Unload)(EFI_HANDLE Image);
} EFI_LOADED_IMAGE_PROTOCOL;

/* 13.4 and 13.5: file systems. */
#define EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID \
    { 0x964e5b22, 0x6459, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
#define EFI_FILE_MODE_READ 0x1ULL
#define EFI_FILE_MODE_WRITE 0x2ULL
#define EFI_FILE_MODE_CREATE 0x8000000000000000ULL
#define EFI_FILE_READ_ONLY 0x01ULL
#define EFI_FILE_HIDDEN 0x02ULL
#define EFI_FILE_SYSTEM 0x04ULL
#define EFI_FILE_DIRECTORY 0x10ULL
#define EFI_FILE_ARCHIVE 0x20ULL
#define EFI_FILE_INFO_ID { 0x09576e92, 0x6d3f, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
#define EFI_FILE_SYSTEM_INFO_ID { 0x09576e93, 0x6d3f, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
#define EFI_FILE_SYSTEM_VOLUME_LABEL_ID \
    { 0xdb47d7d3, 0xfe81, 0x11d3, { 0x9a, 0x35, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d } }
typedef struct {
    UINT64 Size, FileSize, PhysicalSize;
    EFI_TIME CreateTime, LastAccessTime, ModificationTime;
    UINT64 Attribute;
    CHAR16 FileName[];
} EFI_FILE_INFO;
typedef struct {
    UINT64 Size;
    BOOLEAN ReadOnly;
    UINT64 VolumeSize, FreeSpace;
    UINT32 BlockSize;
    CHAR16 VolumeLabel[];
} EFI_FILE_SYSTEM_INFO;
/* The label begins right after BlockSize: sizeof would count the padding behind it. */
#define SIZE_OF_EFI_FILE_SYSTEM_INFO OFFSET_OF(EFI_FILE_SYSTEM_INFO, VolumeLabel)

typedef struct {
    EFI_EVENT Event;
    EFI_STATUS Status;
    UINTN BufferSize;
    void *Buffer;
} EFI_FILE_IO_TOKEN;

typedef struct EFI_FILE_PROTOCOL EFI_FILE_PROTOCOL;
struct EFI_FILE_PROTOCOL {
    UINT64 Revision; /* the four Ex functions exist from 0x00020000 on */
    EFI_STATUS (*Open)(EFI_FILE_PROTOCOL *This, EFI_FILE_PROTOCOL **New, const CHAR16 *Name, UINT64 Mode,
                       UINT64 Attributes);
    EFI_STATUS (*Close)(EFI_FILE_PROTOCOL *This);
    EFI_STATUS (*Delete)(EFI_FILE_PROTOCOL *This);
    EFI_STATUS (*Read)(EFI_FILE_PROTOCOL *This, UINTN *Size, void *Buffer);
    EFI_STATUS (*Write)(EFI_FILE_PROTOCOL *This, UINTN *Size, const void *Buffer);
    EFI_STATUS (*GetPosition)(EFI_FILE_PROTOCOL *This, UINT64 *Position);
    EFI_STATUS (*SetPosition)(EFI_FILE_PROTOCOL *This, UINT64 Position);
    EFI_STATUS (*GetInfo)(EFI_FILE_PROTOCOL *This, EFI_GUID *Type, UINTN *Size, void *Buffer);
    EFI_STATUS (*SetInfo)(EFI_FILE_PROTOCOL *This, EFI_GUID *Type, UINTN Size, void *Buffer);
    EFI_STATUS (*Flush)(EFI_FILE_PROTOCOL *This);
    EFI_STATUS (*OpenEx)(EFI_FILE_PROTOCOL *This, EFI_FILE_PROTOCOL **New, CHAR16 *Name, UINT64 Mode, UINT64 Attributes,
                         EFI_FILE_IO_TOKEN *Token);
    EFI_STATUS (*ReadEx)(EFI_FILE_PROTOCOL *This, EFI_FILE_IO_TOKEN *Token);
    EFI_STATUS (*WriteEx)(EFI_FILE_PROTOCOL *This, EFI_FILE_IO_TOKEN *Token);
    EFI_STATUS (*FlushEx)(EFI_FILE_PROTOCOL *This, EFI_FILE_IO_TOKEN *Token);
};

typedef struct EFI_SIMPLE_FILE_SYSTEM_PROTOCOL EFI_SIMPLE_FILE_SYSTEM_PROTOCOL;
struct EFI_SIMPLE_FILE_SYSTEM_PROTOCOL {
    UINT64 Revision;
    EFI_STATUS (*OpenVolume)(EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *This, EFI_FILE_PROTOCOL **Root);
};

/* 13.9: block I/O. */
#define EFI_BLOCK_IO_PROTOCOL_GUID { 0x964e5b21, 0x6459, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
typedef struct {
    UINT32 MediaId;
    BOOLEAN RemovableMedia, MediaPresent, LogicalPartition, ReadOnly, WriteCaching;
    UINT32 BlockSize, IoAlign;
    EFI_LBA LastBlock;
} EFI_BLOCK_IO_MEDIA; /* revision 1; later revisions add fields at the end */

typedef struct EFI_BLOCK_IO_PROTOCOL EFI_BLOCK_IO_PROTOCOL;
struct EFI_BLOCK_IO_PROTOCOL {
    UINT64 Revision;
    EFI_BLOCK_IO_MEDIA *Media;
    EFI_STATUS (*Reset)(EFI_BLOCK_IO_PROTOCOL *This, BOOLEAN Extended);
    EFI_STATUS (*ReadBlocks)(EFI_BLOCK_IO_PROTOCOL *This, UINT32 MediaId, EFI_LBA Lba, UINTN Size, void *Buffer);
    EFI_STATUS (*WriteBlocks)(EFI_BLOCK_IO_PROTOCOL *This, UINT32 MediaId, EFI_LBA Lba, UINTN Size, void *Buffer);
    EFI_STATUS (*FlushBlocks)(EFI_BLOCK_IO_PROTOCOL *This);
};

/* 13.7: disk I/O. */
#define EFI_DISK_IO_PROTOCOL_GUID { 0xce345171, 0xba0b, 0x11d2, { 0x8e, 0x4f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
typedef struct EFI_DISK_IO_PROTOCOL EFI_DISK_IO_PROTOCOL;
struct EFI_DISK_IO_PROTOCOL {
    UINT64 Revision;
    EFI_STATUS (*ReadDisk)(EFI_DISK_IO_PROTOCOL *This, UINT32 MediaId, UINT64 Offset, UINTN Size, void *Buffer);
    EFI_STATUS (*WriteDisk)(EFI_DISK_IO_PROTOCOL *This, UINT32 MediaId, UINT64 Offset, UINTN Size, void *Buffer);
};

/* 13.2: load file 2. */
#define EFI_LOAD_FILE2_PROTOCOL_GUID { 0x4006c0c1, 0xfcb3, 0x403e, { 0x99, 0x6d, 0x4a, 0x6c, 0x87, 0x24, 0xe0, 0x6d } }
typedef struct EFI_LOAD_FILE_PROTOCOL EFI_LOAD_FILE_PROTOCOL;
struct EFI_LOAD_FILE_PROTOCOL {
    EFI_STATUS (*LoadFile)(EFI_LOAD_FILE_PROTOCOL *This, EFI_DEVICE_PATH_PROTOCOL *Path, BOOLEAN BootPolicy,
                           UINTN *Size, void *Buffer);
};

#endif
