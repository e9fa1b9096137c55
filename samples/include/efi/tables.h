/* The system table, the boot services and the runtime services (UEFI 2.10, chapters 4, 7 and 8). */
#ifndef EFI_TABLES_H
#define EFI_TABLES_H

#include "console.h"
#include "types.h"

/* 7.1: events, timers, task priority levels. */
#define TPL_APPLICATION 4
#define TPL_CALLBACK 8
#define TPL_NOTIFY 16
#define TPL_HIGH_LEVEL 31
#define EVT_TIMER 0x80000000u
#define EVT_RUNTIME 0x40000000u
#define EVT_NOTIFY_WAIT 0x00000100u
#define EVT_NOTIFY_SIGNAL 0x00000200u
#define EVT_SIGNAL_EXIT_BOOT_SERVICES 0x00000201u
#define EVT_SIGNAL_VIRTUAL_ADDRESS_CHANGE 0x60000202u
typedef enum { TimerCancel, TimerPeriodic, TimerRelative } EFI_TIMER_DELAY;
typedef void (*EFI_EVENT_NOTIFY)(EFI_EVENT Event, void *Context);

/* 7.2: memory. */
typedef enum { AllocateAnyPages, AllocateMaxAddress, AllocateAddress, MaxAllocateType } EFI_ALLOCATE_TYPE;
typedef enum {
    EfiReservedMemoryType,
    EfiLoaderCode,
    EfiLoaderData,
    EfiBootServicesCode,
    EfiBootServicesData,
    EfiRuntimeServicesCode,
    EfiRuntimeServicesData,
    EfiConventionalMemory,
    EfiUnusableMemory,
    EfiACPIReclaimMemory,
    EfiACPIMemoryNVS,
    EfiMemoryMappedIO,
    EfiMemoryMappedIOPortSpace,
    EfiPalCode,
    EfiPersistentMemory,
    EfiUnacceptedMemoryType,
    EfiMaxMemoryType
} EFI_MEMORY_TYPE;
#define EFI_PAGE_SIZE 4096ULL
#define EFI_MEMORY_WB 0x8ULL
#define EFI_MEMORY_RUNTIME 0x8000000000000000ULL
typedef struct {
    UINT32 Type;
    EFI_PHYSICAL_ADDRESS PhysicalStart;
    EFI_VIRTUAL_ADDRESS VirtualStart;
    UINT64 NumberOfPages;
    UINT64 Attribute;
} EFI_MEMORY_DESCRIPTOR; /* step through a map by the DescriptorSize that came with it, never by sizeof */

/* 7.3: handles and protocols. */
typedef enum { EFI_NATIVE_INTERFACE } EFI_INTERFACE_TYPE;
typedef enum { AllHandles, ByRegisterNotify, ByProtocol } EFI_LOCATE_SEARCH_TYPE;
#define EFI_OPEN_PROTOCOL_BY_HANDLE_PROTOCOL 0x01
#define EFI_OPEN_PROTOCOL_GET_PROTOCOL 0x02
#define EFI_OPEN_PROTOCOL_TEST_PROTOCOL 0x04
#define EFI_OPEN_PROTOCOL_BY_CHILD_CONTROLLER 0x08
#define EFI_OPEN_PROTOCOL_BY_DRIVER 0x10
#define EFI_OPEN_PROTOCOL_EXCLUSIVE 0x20
typedef struct {
    EFI_HANDLE AgentHandle, ControllerHandle;
    UINT32 Attributes, OpenCount;
} EFI_OPEN_PROTOCOL_INFORMATION_ENTRY;
typedef struct {
    UINT8 Type, SubType, Length[2];
} EFI_DEVICE_PATH_PROTOCOL;

/* 8.2 and 8.5: variables, reset. */
#define EFI_VARIABLE_NON_VOLATILE 0x01
#define EFI_VARIABLE_BOOTSERVICE_ACCESS 0x02
#define EFI_VARIABLE_RUNTIME_ACCESS 0x04
#define EFI_VARIABLE_AUTHENTICATED_WRITE_ACCESS 0x10
#define EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS 0x20
#define EFI_VARIABLE_APPEND_WRITE 0x40
#define EFI_GLOBAL_VARIABLE_GUID \
    { 0x8be4df61, 0x93ca, 0x11d2, { 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c } }
typedef enum { EfiResetCold, EfiResetWarm, EfiResetShutdown, EfiResetPlatformSpecific } EFI_RESET_TYPE;
typedef struct {
    UINT32 Resolution, Accuracy;
    BOOLEAN SetsToZero;
} EFI_TIME_CAPABILITIES;
typedef struct {
    EFI_GUID CapsuleGuid;
    UINT32 HeaderSize, Flags, CapsuleImageSize;
} EFI_CAPSULE_HEADER;

#define EFI_RUNTIME_SERVICES_SIGNATURE 0x56524553544e5552ULL /* "RUNTSERV" */
typedef struct {
    EFI_TABLE_HEADER Hdr;
    EFI_STATUS (*GetTime)(EFI_TIME *Time, EFI_TIME_CAPABILITIES *Capabilities);
    EFI_STATUS (*SetTime)(EFI_TIME *Time);
    EFI_STATUS (*GetWakeupTime)(BOOLEAN *Enabled, BOOLEAN *Pending, EFI_TIME *Time);
    EFI_STATUS (*SetWakeupTime)(BOOLEAN Enable, EFI_TIME *Time);
    EFI_STATUS (*SetVirtualAddressMap)(UINTN MapSize, UINTN DescriptorSize, UINT32 DescriptorVersion,
                                       EFI_MEMORY_DESCRIPTOR *VirtualMap);
    EFI_STATUS (*ConvertPointer)(UINTN DebugDisposition, void **Address);
    EFI_STATUS (*GetVariable)(const CHAR16 *Name, EFI_GUID *Vendor, UINT32 *Attributes, UINTN *DataSize, void *Data);
    EFI_STATUS (*GetNextVariableName)(UINTN *NameSize, CHAR16 *Name, EFI_GUID *Vendor);
    EFI_STATUS (*SetVariable)(const CHAR16 *Name, EFI_GUID *Vendor, UINT32 Attributes, UINTN DataSize,
                              const void *Data);
    EFI_STATUS (*GetNextHighMonotonicCount)(UINT32 *HighCount);
    void (*ResetSystem)(EFI_RESET_TYPE Type, EFI_STATUS Status, UINTN DataSize, void *Data);
    EFI_STATUS (*UpdateCapsule)(EFI_CAPSULE_HEADER **Capsules, UINTN Count, EFI_PHYSICAL_ADDRESS ScatterGatherList);
    EFI_STATUS (*QueryCapsuleCapabilities)(EFI_CAPSULE_HEADER **Capsules, UINTN Count, UINT64 *MaximumSize,
                                           EFI_RESET_TYPE *ResetType);
    EFI_STATUS (*QueryVariableInfo)(UINT32 Attributes, UINT64 *MaximumStorage, UINT64 *RemainingStorage,
                                    UINT64 *MaximumVariable);
} EFI_RUNTIME_SERVICES;
_Static_assert(sizeof(EFI_RUNTIME_SERVICES) == 0x88, "size of EFI_RUNTIME_SERVICES");

#define EFI_BOOT_SERVICES_SIGNATURE 0x56524553544f4f42ULL /* "BOOTSERV" */
typedef struct {
    EFI_TABLE_HEADER Hdr;
    EFI_TPL (*RaiseTPL)(EFI_TPL NewTpl);
    void (*RestoreTPL)(EFI_TPL OldTpl);
    EFI_STATUS (*AllocatePages)(EFI_ALLOCATE_TYPE Type, EFI_MEMORY_TYPE MemoryType, UINTN Pages,
                                EFI_PHYSICAL_ADDRESS *Memory);
    EFI_STATUS (*FreePages)(EFI_PHYSICAL_ADDRESS Memory, UINTN Pages);
    EFI_STATUS (*GetMemoryMap)(UINTN *MapSize, EFI_MEMORY_DESCRIPTOR *Map, UINTN *Key, UINTN *DescriptorSize,
                               UINT32 *DescriptorVersion);
    EFI_STATUS (*AllocatePool)(EFI_MEMORY_TYPE PoolType, UINTN Size, void **Buffer);
    EFI_STATUS (*FreePool)(void *Buffer);
    EFI_STATUS (*CreateEvent)(UINT32 Type, EFI_TPL NotifyTpl, EFI_EVENT_NOTIFY Notify, void *Context, EFI_EVENT *Event);
    EFI_STATUS (*SetTimer)(EFI_EVENT Event, EFI_TIMER_DELAY Type, UINT64 TriggerTime); /* units of 100 ns */
    EFI_STATUS (*WaitForEvent)(UINTN Count, EFI_EVENT *Events, UINTN *Index);
    EFI_STATUS (*SignalEvent)(EFI_EVENT Event);
    EFI_STATUS (*CloseEvent)(EFI_EVENT Event);
    EFI_STATUS (*CheckEvent)(EFI_EVENT Event);
    EFI_STATUS (*InstallProtocolInterface)(EFI_HANDLE *Handle, EFI_GUID *Protocol, EFI_INTERFACE_TYPE Type,
                                           void *Interface);
    EFI_STATUS (*ReinstallProtocolInterface)(EFI_HANDLE Handle, EFI_GUID *Protocol, void *Old, void *New);
    EFI_STATUS (*UninstallProtocolInterface)(EFI_HANDLE Handle, EFI_GUID *Protocol, void *Interface);
    EFI_STATUS (*HandleProtocol)(EFI_HANDLE Handle, EFI_GUID *Protocol, void **Interface);
    void *Reserved;
    EFI_STATUS (*RegisterProtocolNotify)(EFI_GUID *Protocol, EFI_EVENT Event, void **Registration);
    EFI_STATUS (*LocateHandle)(EFI_LOCATE_SEARCH_TYPE Type, EFI_GUID *Protocol, void *SearchKey, UINTN *BufferSize,
                               EFI_HANDLE *Buffer);
    EFI_STATUS (*LocateDevicePath)(EFI_GUID *Protocol, EFI_DEVICE_PATH_PROTOCOL **DevicePath, EFI_HANDLE *Device);
    EFI_STATUS (*InstallConfigurationTable)(EFI_GUID *Guid, void *Table);
    EFI_STATUS (*LoadImage)(BOOLEAN BootPolicy, EFI_HANDLE Parent, EFI_DEVICE_PATH_PROTOCOL *DevicePath, void *Source,
                            UINTN SourceSize, EFI_HANDLE *Image);
    EFI_STATUS (*StartImage)(EFI_HANDLE Image, UINTN *ExitDataSize, CHAR16 **ExitData);
    EFI_STATUS (*Exit)(EFI_HANDLE Image, EFI_STATUS ExitStatus, UINTN ExitDataSize, CHAR16 *ExitData);
    EFI_STATUS (*UnloadImage)(EFI_HANDLE Image);
    EFI_STATUS (*ExitBootServices)(EFI_HANDLE Image, UINTN MapKey);
    EFI_STATUS (*GetNextMonotonicCount)(UINT64 *Count);
    EFI_STATUS (*Stall)(UINTN Microseconds);
    EFI_STATUS (*SetWatchdogTimer)(UINTN Timeout, UINT64 Code, UINTN DataSize, CHAR16 *Data);
    EFI_STATUS (*ConnectController)(EFI_HANDLE Controller, EFI_HANDLE *Drivers, EFI_DEVICE_PATH_PROTOCOL *Remaining,
                                    BOOLEAN Recursive);
    EFI_STATUS (*DisconnectController)(EFI_HANDLE Controller, EFI_HANDLE Driver, EFI_HANDLE Child);
    EFI_STATUS (*OpenProtocol)(EFI_HANDLE Handle, EFI_GUID *Protocol, void **Interface, EFI_HANDLE Agent,
                               EFI_HANDLE Controller, UINT32 Attributes);
    EFI_STATUS (*CloseProtocol)(EFI_HANDLE Handle, EFI_GUID *Protocol, EFI_HANDLE Agent, EFI_HANDLE Controller);
    EFI_STATUS (*OpenProtocolInformation)(EFI_HANDLE Handle, EFI_GUID *Protocol,
                                          EFI_OPEN_PROTOCOL_INFORMATION_ENTRY **Entries, UINTN *Count);
    EFI_STATUS (*ProtocolsPerHandle)(EFI_HANDLE Handle, EFI_GUID ***Protocols, UINTN *Count);
    EFI_STATUS (*LocateHandleBuffer)(EFI_LOCATE_SEARCH_TYPE Type, EFI_GUID *Protocol, void *SearchKey, UINTN *Count,
                                     EFI_HANDLE **Buffer);
    EFI_STATUS (*LocateProtocol)(EFI_GUID *Protocol, void *Registration, void **Interface);
    EFI_STATUS (*InstallMultipleProtocolInterfaces)(EFI_HANDLE *Handle, ...);
    EFI_STATUS (*UninstallMultipleProtocolInterfaces)(EFI_HANDLE Handle, ...);
    EFI_STATUS (*CalculateCrc32)(void *Data, UINTN Size, UINT32 *Crc32);
    void (*CopyMem)(void *Destination, void *Source, UINTN Length);
    void (*SetMem)(void *Buffer, UINTN Size, UINT8 Value);
    EFI_STATUS (*CreateEventEx)(UINT32 Type, EFI_TPL NotifyTpl, EFI_EVENT_NOTIFY Notify, const void *Context,
                                const EFI_GUID *Group, EFI_EVENT *Event);
} EFI_BOOT_SERVICES;
_Static_assert(OFFSET_OF(EFI_BOOT_SERVICES, LoadImage) == 0xc8, "offset of LoadImage");
_Static_assert(sizeof(EFI_BOOT_SERVICES) == 0x178, "size of EFI_BOOT_SERVICES");

typedef struct {
    EFI_GUID VendorGuid;
    void *VendorTable;
} EFI_CONFIGURATION_TABLE;

#define EFI_SYSTEM_TABLE_SIGNATURE 0x5453595320494249ULL /* "IBI SYST" */
typedef struct {
    EFI_TABLE_HEADER Hdr;
    CHAR16 *FirmwareVendor;
    UINT32 FirmwareRevision;
    EFI_HANDLE ConsoleInHandle;
    EFI_SIMPLE_TEXT_INPUT_PROTOCOL *ConIn;
    EFI_HANDLE ConsoleOutHandle;
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *ConOut;
    EFI_HANDLE StandardErrorHandle;
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *StdErr;
    EFI_RUNTIME_SERVICES *RuntimeServices;
    EFI_BOOT_SERVICES *BootServices;
    UINTN NumberOfTableEntries;
    EFI_CONFIGURATION_TABLE *ConfigurationTable;
} EFI_SYSTEM_TABLE;
_Static_assert(sizeof(EFI_SYSTEM_TABLE) == 0x78, "size of EFI_SYSTEM_TABLE");

/* 4.6: what a configuration table's GUID says it points at. */
#define EFI_ACPI_20_TABLE_GUID { 0x8868e871, 0xe4f1, 0x11d3, { 0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81 } }
#define SMBIOS_TABLE_GUID { 0xeb9d2d31, 0x2d88, 0x11d3, { 0x9a, 0x16, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d } }
#define SMBIOS3_TABLE_GUID { 0xf2fd1544, 0x9794, 0x4a2c, { 0x99, 0x2e, 0xe5, 0xbb, 0xcf, 0x20, 0xe3, 0x94 } }
#define EFI_MEMORY_ATTRIBUTES_TABLE_GUID \
    { 0xdcfa911d, 0x26eb, 0x469f, { 0xa2, 0x20, 0x38, 0xb7, 0xdc, 0x46, 0x12, 0x20 } }
/* 7.1.2: the event groups that the firmware signals. */
#define EFI_EVENT_GROUP_MEMORY_MAP_CHANGE \
    { 0x78bee926, 0x692f, 0x48fd, { 0x9e, 0xdb, 0x01, 0x42, 0x2e, 0xf0, 0xd7, 0xab } }
#define EFI_EVENT_GROUP_READY_TO_BOOT { 0x7ce88fb3, 0x4bd7, 0x4679, { 0x87, 0xa8, 0xa8, 0xd8, 0xde, 0xe5, 0x0d, 0x2b } }
#define EFI_EVENT_GROUP_EXIT_BOOT_SERVICES \
    { 0x27abf055, 0xb1b8, 0x4c26, { 0x80, 0x48, 0x74, 0x8f, 0x37, 0xba, 0xa2, 0xdf } }

#endif
