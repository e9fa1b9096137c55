/* Device paths, drivers, small services of the platform (UEFI 2.10, chapters 10, 11, 19, 21, 37, 38; PI 1.7). */
#ifndef EFI_DEVICES_H
#define EFI_DEVICES_H

#include "tables.h"

/* 10.3: device path nodes. The header's Length counts the whole node. */
#define EFI_DEVICE_PATH_PROTOCOL_GUID { 0x09576e91, 0x6d3f, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b } }
#define HARDWARE_DEVICE_PATH 1
#define HW_PCI_DP 1
#define HW_MEMMAP_DP 3
#define HW_VENDOR_DP 4
#define ACPI_DEVICE_PATH 2
#define ACPI_DP 1
#define MESSAGING_DEVICE_PATH 3
#define MSG_UART_DP 14
#define MEDIA_DEVICE_PATH 4
#define MEDIA_HARDDRIVE_DP 1
#define MEDIA_FILEPATH_DP 4
#define END_DEVICE_PATH_TYPE 0x7F
#define END_INSTANCE_DEVICE_PATH_SUBTYPE 0x01
#define END_ENTIRE_DEVICE_PATH_SUBTYPE 0xFF

/* 10.5: device path utilities. */
#define EFI_DEVICE_PATH_UTILITIES_PROTOCOL_GUID \
    { 0x0379be4e, 0xd706, 0x437d, { 0xb0, 0x37, 0xed, 0xb8, 0x2f, 0xb7, 0x72, 0xa4 } }
typedef struct {
    UINTN (*GetDevicePathSize)(const EFI_DEVICE_PATH_PROTOCOL *Path);
    EFI_DEVICE_PATH_PROTOCOL *(*DuplicateDevicePath)(const EFI_DEVICE_PATH_PROTOCOL *Path);
    EFI_DEVICE_PATH_PROTOCOL *(*AppendDevicePath)(const EFI_DEVICE_PATH_PROTOCOL *First,
                                                  const EFI_DEVICE_PATH_PROTOCOL *Second);
    EFI_DEVICE_PATH_PROTOCOL *(*AppendDeviceNode)(const EFI_DEVICE_PATH_PROTOCOL *Path,
                                                  const EFI_DEVICE_PATH_PROTOCOL *Node);
    EFI_DEVICE_PATH_PROTOCOL *(*AppendDevicePathInstance)(const EFI_DEVICE_PATH_PROTOCOL *Path,
                                                          const EFI_DEVICE_PATH_PROTOCOL *Instance);
    EFI_DEVICE_PATH_PROTOCOL *(*GetNextDevicePathInstance)(EFI_DEVICE_PATH_PROTOCOL **Instance, UINTN *Size);
    BOOLEAN (*IsDevicePathMultiInstance)(const EFI_DEVICE_PATH_PROTOCOL *Path);
    EFI_DEVICE_PATH_PROTOCOL *(*CreateDeviceNode)(UINT8 Type, UINT8 SubType, UINT16 Length);
} EFI_DEVICE_PATH_UTILITIES_PROTOCOL;

/* 10.6: text for people. */
#define EFI_DEVICE_PATH_TO_TEXT_PROTOCOL_GUID \
    { 0x8b843e20, 0x8132, 0x4852, { 0x90, 0xcc, 0x55, 0x1a, 0x4e, 0x4a, 0x7f, 0x1c } }
typedef struct {
    CHAR16 *(*ConvertDeviceNodeToText)(const EFI_DEVICE_PATH_PROTOCOL *Node, BOOLEAN DisplayOnly, BOOLEAN Shortcuts);
    CHAR16 *(*ConvertDevicePathToText)(const EFI_DEVICE_PATH_PROTOCOL *Path, BOOLEAN DisplayOnly, BOOLEAN Shortcuts);
} EFI_DEVICE_PATH_TO_TEXT_PROTOCOL;
#define EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL_GUID \
    { 0x05c99a21, 0xc70f, 0x4ad2, { 0x8a, 0x5f, 0x35, 0xdf, 0x33, 0x43, 0xf5, 0x1e } }
typedef struct {
    EFI_DEVICE_PATH_PROTOCOL *(*ConvertTextToDeviceNode)(const CHAR16 *Text);
    EFI_DEVICE_PATH_PROTOCOL *(*ConvertTextToDevicePath)(const CHAR16 *Text);
} EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL;

/* 11.1: driver binding. */
#define EFI_DRIVER_BINDING_PROTOCOL_GUID \
    { 0x18a031ab, 0xb443, 0x4d1a, { 0xa5, 0xc0, 0x0c, 0x09, 0x26, 0x1e, 0x9f, 0x71 } }
typedef struct EFI_DRIVER_BINDING_PROTOCOL EFI_DRIVER_BINDING_PROTOCOL;
struct EFI_DRIVER_BINDING_PROTOCOL {
    EFI_STATUS (*Supported)(EFI_DRIVER_BINDING_PROTOCOL *This, EFI_HANDLE Controller,
                            EFI_DEVICE_PATH_PROTOCOL *Remaining);
    EFI_STATUS (*Start)(EFI_DRIVER_BINDING_PROTOCOL *This, EFI_HANDLE Controller, EFI_DEVICE_PATH_PROTOCOL *Remaining);
    EFI_STATUS (*Stop)(EFI_DRIVER_BINDING_PROTOCOL *This, EFI_HANDLE Controller, UINTN Count, EFI_HANDLE *Children);
    UINT32 Version;
    EFI_HANDLE ImageHandle, DriverBindingHandle;
};

/* 37.5: random numbers. */
#define EFI_RNG_PROTOCOL_GUID { 0x3152bca5, 0xeade, 0x433d, { 0x86, 0x2e, 0xc0, 0x1c, 0xdc, 0x29, 0x1f, 0x44 } }
typedef struct EFI_RNG_PROTOCOL EFI_RNG_PROTOCOL;
struct EFI_RNG_PROTOCOL {
    EFI_STATUS (*GetInfo)(EFI_RNG_PROTOCOL *This, UINTN *ListSize, EFI_GUID *List);
    EFI_STATUS (*GetRNG)(EFI_RNG_PROTOCOL *This, EFI_GUID *Algorithm, UINTN Size, UINT8 *Value);
};

/* 21.1: unicode collation. */
#define EFI_UNICODE_COLLATION_PROTOCOL2_GUID \
    { 0xa4c751fc, 0x23ae, 0x4c3e, { 0x92, 0xe9, 0x49, 0x64, 0xcf, 0x63, 0xf3, 0x49 } }
typedef struct EFI_UNICODE_COLLATION_PROTOCOL EFI_UNICODE_COLLATION_PROTOCOL;
struct EFI_UNICODE_COLLATION_PROTOCOL {
    INTN (*StriColl)(EFI_UNICODE_COLLATION_PROTOCOL *This, CHAR16 *First, CHAR16 *Second);
    BOOLEAN (*MetaiMatch)(EFI_UNICODE_COLLATION_PROTOCOL *This, CHAR16 *String, CHAR16 *Pattern);
    void (*StrLwr)(EFI_UNICODE_COLLATION_PROTOCOL *This, CHAR16 *String);
    void (*StrUpr)(EFI_UNICODE_COLLATION_PROTOCOL *This, CHAR16 *String);
    void (*FatToStr)(EFI_UNICODE_COLLATION_PROTOCOL *This, UINTN FatSize, CHAR8 *Fat, CHAR16 *String);
    BOOLEAN (*StrToFat)(EFI_UNICODE_COLLATION_PROTOCOL *This, CHAR16 *String, UINTN FatSize, CHAR8 *Fat);
    CHAR8 *SupportedLanguages;
};

/* 19.5: decompress. */
#define EFI_DECOMPRESS_PROTOCOL_GUID { 0xd8117cfe, 0x94a6, 0x11d4, { 0x9a, 0x3a, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d } }
typedef struct EFI_DECOMPRESS_PROTOCOL EFI_DECOMPRESS_PROTOCOL;
struct EFI_DECOMPRESS_PROTOCOL {
    EFI_STATUS (*GetInfo)(EFI_DECOMPRESS_PROTOCOL *This, void *Source, UINT32 SourceSize, UINT32 *DestinationSize,
                          UINT32 *ScratchSize);
    EFI_STATUS (*Decompress)(EFI_DECOMPRESS_PROTOCOL *This, void *Source, UINT32 SourceSize, void *Destination,
                             UINT32 DestinationSize, void *Scratch, UINT32 ScratchSize);
};

/* 38.1: timestamps. PI 1.7, volume 2, 13.3: multiprocessor services. */
#define EFI_TIMESTAMP_PROTOCOL_GUID { 0xafbfde41, 0x2e6e, 0x4262, { 0xba, 0x65, 0x62, 0xb9, 0x23, 0x6e, 0x54, 0x95 } }
typedef struct {
    UINT64 Frequency, EndValue;
} EFI_TIMESTAMP_PROPERTIES;
typedef struct {
    UINT64 (*GetTimestamp)(void);
    EFI_STATUS (*GetProperties)(EFI_TIMESTAMP_PROPERTIES *Properties);
} EFI_TIMESTAMP_PROTOCOL;

#define EFI_MP_SERVICES_PROTOCOL_GUID { 0x3fdda605, 0xa76e, 0x4f46, { 0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08 } }
#define PROCESSOR_AS_BSP_BIT 1
#define PROCESSOR_ENABLED_BIT 2
#define PROCESSOR_HEALTH_STATUS_BIT 4
typedef struct {
    UINT64 ProcessorId;
    UINT32 StatusFlag;
    UINT32 Package, Core, Thread;
    UINT32 Location2[6];
} EFI_PROCESSOR_INFORMATION;
typedef void (*EFI_AP_PROCEDURE)(void *Argument);
typedef struct EFI_MP_SERVICES_PROTOCOL EFI_MP_SERVICES_PROTOCOL;
struct EFI_MP_SERVICES_PROTOCOL {
    EFI_STATUS (*GetNumberOfProcessors)(EFI_MP_SERVICES_PROTOCOL *This, UINTN *Number, UINTN *Enabled);
    EFI_STATUS (*GetProcessorInfo)(EFI_MP_SERVICES_PROTOCOL *This, UINTN Processor, EFI_PROCESSOR_INFORMATION *Info);
    EFI_STATUS (*StartupAllAPs)(EFI_MP_SERVICES_PROTOCOL *This, EFI_AP_PROCEDURE Procedure, BOOLEAN SingleThread,
                                EFI_EVENT WaitEvent, UINTN Timeout, void *Argument, UINTN **FailedList);
    EFI_STATUS (*StartupThisAP)(EFI_MP_SERVICES_PROTOCOL *This, EFI_AP_PROCEDURE Procedure, UINTN Processor,
                                EFI_EVENT WaitEvent, UINTN Timeout, void *Argument, BOOLEAN *Finished);
    EFI_STATUS (*SwitchBSP)(EFI_MP_SERVICES_PROTOCOL *This, UINTN Processor, BOOLEAN EnableOld);
    EFI_STATUS (*EnableDisableAP)(EFI_MP_SERVICES_PROTOCOL *This, UINTN Processor, BOOLEAN Enable, UINT32 *Health);
    EFI_STATUS (*WhoAmI)(EFI_MP_SERVICES_PROTOCOL *This, UINTN *Processor);
};

#endif
