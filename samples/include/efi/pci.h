/* PCI buses and functions (UEFI 2.10, chapter 14). */
#ifndef EFI_PCI_H
#define EFI_PCI_H

#include "types.h"

/* 14.2 and 14.4 share widths and operations. */
typedef enum {
    EfiPciIoWidthUint8,
    EfiPciIoWidthUint16,
    EfiPciIoWidthUint32,
    EfiPciIoWidthUint64,
    EfiPciIoWidthFifoUint8,
    EfiPciIoWidthFifoUint16,
    EfiPciIoWidthFifoUint32,
    EfiPciIoWidthFifoUint64,
    EfiPciIoWidthFillUint8,
    EfiPciIoWidthFillUint16,
    EfiPciIoWidthFillUint32,
    EfiPciIoWidthFillUint64,
    EfiPciIoWidthMaximum
} EFI_PCI_IO_PROTOCOL_WIDTH;
typedef enum {
    EfiPciIoOperationBusMasterRead,
    EfiPciIoOperationBusMasterWrite,
    EfiPciIoOperationBusMasterCommonBuffer,
    EfiPciIoOperationMaximum
} EFI_PCI_IO_PROTOCOL_OPERATION;
#define EfiPciOperationMaximum 6
typedef enum {
    EfiPciIoAttributeOperationGet,
    EfiPciIoAttributeOperationSet,
    EfiPciIoAttributeOperationEnable,
    EfiPciIoAttributeOperationDisable,
    EfiPciIoAttributeOperationSupported,
    EfiPciIoAttributeOperationMaximum
} EFI_PCI_IO_PROTOCOL_ATTRIBUTE_OPERATION;
#define EFI_PCI_IO_ATTRIBUTE_IO 0x0100
#define EFI_PCI_IO_ATTRIBUTE_MEMORY 0x0200
#define EFI_PCI_IO_ATTRIBUTE_BUS_MASTER 0x0400
#define EFI_PCI_DEVICE_ENABLE (EFI_PCI_IO_ATTRIBUTE_IO | EFI_PCI_IO_ATTRIBUTE_MEMORY | EFI_PCI_IO_ATTRIBUTE_BUS_MASTER)
#define EFI_PCI_IO_PASS_THROUGH_BAR 0xff

/* The QWORD address space descriptor (ACPI 6.5, 6.4.3.5.1) and the end tag behind the last one. */
#define ACPI_ADDRESS_SPACE_DESCRIPTOR 0x8A
#define ACPI_END_TAG_DESCRIPTOR 0x79
#pragma pack(push, 1)
typedef struct {
    UINT8 Desc;
    UINT16 Len;
    UINT8 ResType; /* 0 memory, 1 ports, 2 bus numbers */
    UINT8 GenFlag, SpecificFlag;
    UINT64 AddrSpaceGranularity, AddrRangeMin, AddrRangeMax, AddrTranslationOffset, AddrLen;
} EFI_ACPI_ADDRESS_SPACE_DESCRIPTOR;
#pragma pack(pop)

/* 14.2: the root bridge. */
#define EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_GUID \
    { 0x2f707ebb, 0x4a1a, 0x11d4, { 0x9a, 0x38, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d } }
typedef struct EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL;
typedef EFI_STATUS (*EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_IO_MEM)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT32 Width,
                                                             UINT64 Address, UINTN Count, void *Buffer);
typedef struct {
    EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_IO_MEM Read, Write;
} EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_ACCESS;
typedef EFI_STATUS (*EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_POLL_IO_MEM)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT32 Width,
                                                                  UINT64 Address, UINT64 Mask, UINT64 Value,
                                                                  UINT64 Delay, UINT64 *Result);
struct EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL {
    EFI_HANDLE ParentHandle;
    EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_POLL_IO_MEM PollMem, PollIo;
    EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_ACCESS Mem, Io, Pci;
    EFI_STATUS (*CopyMem)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT32 Width, UINT64 DestAddress, UINT64 SrcAddress,
                          UINTN Count);
    EFI_STATUS (*Map)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT32 Operation, void *HostAddress, UINTN *NumberOfBytes,
                      EFI_PHYSICAL_ADDRESS *DeviceAddress, void **Mapping);
    EFI_STATUS (*Unmap)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, void *Mapping);
    EFI_STATUS (*AllocateBuffer)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT32 Type, UINT32 MemoryType, UINTN Pages,
                                 void **HostAddress, UINT64 Attributes);
    EFI_STATUS (*FreeBuffer)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINTN Pages, void *HostAddress);
    EFI_STATUS (*Flush)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This);
    EFI_STATUS (*GetAttributes)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT64 *Supports, UINT64 *Attributes);
    EFI_STATUS (*SetAttributes)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, UINT64 Attributes, UINT64 *ResourceBase,
                                UINT64 *ResourceLength);
    EFI_STATUS (*Configuration)(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *This, void **Resources);
    UINT32 SegmentNumber;
};
#define EFI_PCI_ADDRESS(bus, device, function, reg) \
    ((UINT64)(bus) << 24 | (UINT64)(device) << 16 | (UINT64)(function) << 8 | (UINT64)(reg))

/* 14.4: one function. */
#define EFI_PCI_IO_PROTOCOL_GUID { 0x4cf5b200, 0x68b8, 0x4ca5, { 0x9e, 0xec, 0xb2, 0x3e, 0x3f, 0x50, 0x02, 0x9a } }
typedef struct EFI_PCI_IO_PROTOCOL EFI_PCI_IO_PROTOCOL;
typedef EFI_STATUS (*EFI_PCI_IO_PROTOCOL_IO_MEM)(EFI_PCI_IO_PROTOCOL *This, UINT32 Width, UINT8 BarIndex,
                                                 UINT64 Offset, UINTN Count, void *Buffer);
typedef struct {
    EFI_PCI_IO_PROTOCOL_IO_MEM Read, Write;
} EFI_PCI_IO_PROTOCOL_ACCESS;
typedef EFI_STATUS (*EFI_PCI_IO_PROTOCOL_CONFIG)(EFI_PCI_IO_PROTOCOL *This, UINT32 Width, UINT32 Offset, UINTN Count,
                                                 void *Buffer);
typedef struct {
    EFI_PCI_IO_PROTOCOL_CONFIG Read, Write;
} EFI_PCI_IO_PROTOCOL_CONFIG_ACCESS;
typedef EFI_STATUS (*EFI_PCI_IO_PROTOCOL_POLL_IO_MEM)(EFI_PCI_IO_PROTOCOL *This, UINT32 Width, UINT8 BarIndex,
                                                      UINT64 Offset, UINT64 Mask, UINT64 Value, UINT64 Delay,
                                                      UINT64 *Result);
struct EFI_PCI_IO_PROTOCOL {
    EFI_PCI_IO_PROTOCOL_POLL_IO_MEM PollMem, PollIo;
    EFI_PCI_IO_PROTOCOL_ACCESS Mem, Io;
    EFI_PCI_IO_PROTOCOL_CONFIG_ACCESS Pci;
    EFI_STATUS (*CopyMem)(EFI_PCI_IO_PROTOCOL *This, UINT32 Width, UINT8 DestBarIndex, UINT64 DestOffset,
                          UINT8 SrcBarIndex, UINT64 SrcOffset, UINTN Count);
    EFI_STATUS (*Map)(EFI_PCI_IO_PROTOCOL *This, UINT32 Operation, void *HostAddress, UINTN *NumberOfBytes,
                      EFI_PHYSICAL_ADDRESS *DeviceAddress, void **Mapping);
    EFI_STATUS (*Unmap)(EFI_PCI_IO_PROTOCOL *This, void *Mapping);
    EFI_STATUS (*AllocateBuffer)(EFI_PCI_IO_PROTOCOL *This, UINT32 Type, UINT32 MemoryType, UINTN Pages,
                                 void **HostAddress, UINT64 Attributes);
    EFI_STATUS (*FreeBuffer)(EFI_PCI_IO_PROTOCOL *This, UINTN Pages, void *HostAddress);
    EFI_STATUS (*Flush)(EFI_PCI_IO_PROTOCOL *This);
    EFI_STATUS (*GetLocation)(EFI_PCI_IO_PROTOCOL *This, UINTN *SegmentNumber, UINTN *BusNumber, UINTN *DeviceNumber,
                              UINTN *FunctionNumber);
    EFI_STATUS (*Attributes)(EFI_PCI_IO_PROTOCOL *This, UINT32 Operation, UINT64 Attributes, UINT64 *Result);
    EFI_STATUS (*GetBarAttributes)(EFI_PCI_IO_PROTOCOL *This, UINT8 BarIndex, UINT64 *Supports, void **Resources);
    EFI_STATUS (*SetBarAttributes)(EFI_PCI_IO_PROTOCOL *This, UINT64 Attributes, UINT8 BarIndex, UINT64 *Offset,
                                   UINT64 *Length);
    UINT64 RomSize;
    void *RomImage;
};

#endif
