/* everything.efi, 7.3: finding handles and protocols; installing several at once. */
#include "check.h"

static UINT64 interfaces[3];

/* A vendor's device path node (10.3.2.6), an end node, and something longer than that. */
typedef struct {
    EFI_DEVICE_PATH_PROTOCOL header;
    EFI_GUID vendor;
    EFI_DEVICE_PATH_PROTOCOL end;
} __attribute__((packed)) SHORT_PATH;
typedef struct {
    EFI_DEVICE_PATH_PROTOCOL header;
    EFI_GUID vendor;
    EFI_DEVICE_PATH_PROTOCOL second;
    EFI_GUID second_vendor;
    EFI_DEVICE_PATH_PROTOCOL end;
} __attribute__((packed)) LONG_PATH;
#define VENDOR_NODE { HARDWARE_DEVICE_PATH, HW_VENDOR_DP, { 20, 0 } }
#define END_NODE { END_DEVICE_PATH_TYPE, END_ENTIRE_DEVICE_PATH_SUBTYPE, { 4, 0 } }

static void check_locate_handle(EFI_HANDLE first, EFI_HANDLE second) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    EFI_HANDLE buffer[4] = { NULL, NULL, NULL, NULL };
    UINTN size = 0, all;
    check_status(BS->LocateHandle(ByProtocol, guid, NULL, &size, NULL), EFI_BUFFER_TOO_SMALL,
                 L"LocateHandle, ByProtocol, no room");
    check_equal(size, 2 * sizeof(EFI_HANDLE), L"it answers the size for two handles");
    size = sizeof(EFI_HANDLE);
    check_status(BS->LocateHandle(ByProtocol, guid, NULL, &size, buffer), EFI_BUFFER_TOO_SMALL,
                 L"LocateHandle, ByProtocol, room for one of two");
    size = sizeof(buffer);
    check_status(BS->LocateHandle(ByProtocol, guid, NULL, &size, buffer), EFI_SUCCESS, L"LocateHandle, ByProtocol");
    check_equal(size, 2 * sizeof(EFI_HANDLE), L"it answers the size that it used");
    check((buffer[0] == first && buffer[1] == second) || (buffer[0] == second && buffer[1] == first),
          L"it answers both handles");
    size = sizeof(buffer);
    check_status(BS->LocateHandle(ByProtocol, GUID_OF(NO_SUCH_PROTOCOL_GUID), NULL, &size, buffer), EFI_NOT_FOUND,
                 L"LocateHandle of a protocol that nobody has");
    size = 0;
    check_status(BS->LocateHandle(AllHandles, NULL, NULL, &size, NULL), EFI_BUFFER_TOO_SMALL,
                 L"LocateHandle, AllHandles");
    all = size / sizeof(EFI_HANDLE);
    check(all > 5, L"there are more than five handles");
    size = sizeof(buffer);
    check_status(BS->LocateHandle((EFI_LOCATE_SEARCH_TYPE)3, guid, NULL, &size, buffer), EFI_INVALID_PARAMETER,
                 L"LocateHandle with a wrong SearchType");
    check_status(BS->LocateHandle(ByProtocol, NULL, NULL, &size, buffer), EFI_INVALID_PARAMETER,
                 L"LocateHandle, ByProtocol, Protocol NULL");
    check_status(BS->LocateHandle(ByRegisterNotify, NULL, NULL, &size, buffer), EFI_INVALID_PARAMETER,
                 L"LocateHandle, ByRegisterNotify, SearchKey NULL");
    check_status(BS->LocateHandle(ByProtocol, guid, NULL, NULL, buffer), EFI_INVALID_PARAMETER,
                 L"LocateHandle with BufferSize NULL");
    size = sizeof(buffer);
    check_status(BS->LocateHandle(ByProtocol, guid, NULL, &size, NULL), EFI_INVALID_PARAMETER,
                 L"LocateHandle with Buffer NULL and room said to be there");
}

static void check_locate_buffer(EFI_HANDLE first) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    EFI_HANDLE *buffer = NULL;
    UINTN count = 99;
    void *interface = NULL;
    check_status(BS->LocateHandleBuffer(ByProtocol, guid, NULL, &count, &buffer), EFI_SUCCESS,
                 L"LocateHandleBuffer, ByProtocol");
    check_equal(count, 2, L"it counts two handles");
    if (buffer) check_status(BS->FreePool(buffer), EFI_SUCCESS, L"its list is pool memory");
    check_status(BS->LocateHandleBuffer(ByProtocol, GUID_OF(NO_SUCH_PROTOCOL_GUID), NULL, &count, &buffer),
                 EFI_NOT_FOUND, L"LocateHandleBuffer of a protocol that nobody has");
    check(count == 0 && buffer == NULL, L"it answers no handles and NULL");
    check_status(BS->LocateHandleBuffer(ByProtocol, guid, NULL, NULL, &buffer), EFI_INVALID_PARAMETER,
                 L"LocateHandleBuffer with NoHandles NULL");
    check_status(BS->LocateHandleBuffer(ByProtocol, guid, NULL, &count, NULL), EFI_INVALID_PARAMETER,
                 L"LocateHandleBuffer with Buffer NULL");
    check_status(BS->LocateHandleBuffer(AllHandles, NULL, NULL, &count, &buffer), EFI_SUCCESS,
                 L"LocateHandleBuffer, AllHandles");
    BOOLEAN found = FALSE, own = FALSE;
    for (UINTN i = 0; i < count; i++) found |= buffer[i] == first, own |= buffer[i] == IMAGE;
    check(found && own, L"our new handle and our image's are among them");
    BS->FreePool(buffer);

    check_status(BS->LocateProtocol(guid, NULL, &interface), EFI_SUCCESS, L"LocateProtocol");
    check(interface == &interfaces[0] || interface == &interfaces[1], L"it answers one of the interfaces");
    check_status(BS->LocateProtocol(GUID_OF(NO_SUCH_PROTOCOL_GUID), NULL, &interface), EFI_NOT_FOUND,
                 L"LocateProtocol of a protocol that nobody has");
    check(interface == NULL, L"it answers NULL");
    check_status(BS->LocateProtocol(guid, NULL, NULL), EFI_INVALID_PARAMETER, L"LocateProtocol with Interface NULL");
    check_status(BS->LocateProtocol(NULL, NULL, &interface), EFI_INVALID_PARAMETER,
                 L"LocateProtocol with Protocol NULL");
}

static void check_locate_device_path(void) {
    static SHORT_PATH device = { VENDOR_NODE, TEST_VENDOR_GUID, END_NODE };
    static LONG_PATH longer = { VENDOR_NODE, TEST_VENDOR_GUID, VENDOR_NODE, NO_SUCH_PROTOCOL_GUID, END_NODE };
    static SHORT_PATH stranger = { VENDOR_NODE, NO_SUCH_PROTOCOL_GUID, END_NODE };
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_B_GUID), *path_guid = GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID);
    EFI_DEVICE_PATH_PROTOCOL *path = &longer.header;
    EFI_HANDLE handle = NULL, found = NULL;
    BS->InstallMultipleProtocolInterfaces(&handle, path_guid, &device, guid, &interfaces[0], NULL);
    check_status(BS->LocateDevicePath(guid, &path, &found), EFI_SUCCESS, L"LocateDevicePath");
    check(found == handle, L"it answers the device that the path begins with");
    check(path == &longer.second, L"it moves the path to the rest");
    path = &device.header;
    BS->LocateDevicePath(guid, &path, &found);
    check(found == handle && path == &device.end, L"the device's own path leaves the end node");
    path = &stranger.header;
    check_status(BS->LocateDevicePath(guid, &path, &found), EFI_NOT_FOUND, L"LocateDevicePath of a strange path");
    check(path == &stranger.header, L"the path stays as it was");
    path = &device.header;
    check_status(BS->LocateDevicePath(GUID_OF(NO_SUCH_PROTOCOL_GUID), &path, &found), EFI_NOT_FOUND,
                 L"LocateDevicePath with a protocol that nobody has");
    check_status(BS->LocateDevicePath(guid, NULL, &found), EFI_INVALID_PARAMETER, L"LocateDevicePath, no path");
    check_status(BS->LocateDevicePath(NULL, &path, &found), EFI_INVALID_PARAMETER, L"LocateDevicePath, no protocol");
    check_status(BS->LocateDevicePath(guid, &path, NULL), EFI_INVALID_PARAMETER,
                 L"LocateDevicePath, no room for the handle");

    /* Two handles with one path would be two devices at one place. */
    EFI_HANDLE twin = NULL;
    check_status(BS->InstallMultipleProtocolInterfaces(&twin, guid, &interfaces[1], path_guid, &device, NULL),
                 EFI_ALREADY_STARTED, L"InstallMultipleProtocolInterfaces of a device path that another handle has");
    check(twin == NULL, L"it made no handle");
    UINTN count = 0;
    EFI_HANDLE *buffer = NULL;
    BS->LocateHandleBuffer(ByProtocol, guid, NULL, &count, &buffer);
    check_equal(count, 1, L"it took back what it had installed");
    BS->FreePool(buffer);
    BS->UninstallMultipleProtocolInterfaces(handle, path_guid, &device, guid, &interfaces[0], NULL);
}

void check_locate(void) {
    EFI_HANDLE first = NULL, second = NULL;
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    chapter(L"7.3: finding handles and protocols");
    BS->InstallProtocolInterface(&first, guid, EFI_NATIVE_INTERFACE, &interfaces[0]);
    BS->InstallProtocolInterface(&second, guid, EFI_NATIVE_INTERFACE, &interfaces[1]);
    check_locate_handle(first, second);
    check_locate_buffer(first);
    BS->UninstallProtocolInterface(first, guid, &interfaces[0]);
    BS->UninstallProtocolInterface(second, guid, &interfaces[1]);
    check_locate_device_path();
}

void check_multiple(void) {
    EFI_GUID *guid_a = GUID_OF(TEST_PROTOCOL_A_GUID), *guid_b = GUID_OF(TEST_PROTOCOL_B_GUID);
    EFI_GUID *guid_c = GUID_OF(TEST_PROTOCOL_C_GUID);
    EFI_HANDLE handle = NULL;
    void *interface;
    chapter(L"7.3: several protocols at once");
    check_status(BS->InstallMultipleProtocolInterfaces(&handle, guid_a, &interfaces[0], guid_b, &interfaces[1], guid_c,
                                                       &interfaces[2], NULL),
                 EFI_SUCCESS, L"InstallMultipleProtocolInterfaces of three");
    BS->HandleProtocol(handle, guid_c, &interface);
    check(interface == &interfaces[2], L"the third is there");
    check_status(BS->UninstallMultipleProtocolInterfaces(handle, guid_a, &interfaces[0], guid_b, &interfaces[0], NULL),
                 EFI_INVALID_PARAMETER, L"UninstallMultipleProtocolInterfaces with a wrong interface");
    check_status(BS->HandleProtocol(handle, guid_a, &interface), EFI_SUCCESS, L"it put back what it had removed");
    check_status(BS->UninstallMultipleProtocolInterfaces(handle, guid_c, &interfaces[2], NULL), EFI_SUCCESS,
                 L"UninstallMultipleProtocolInterfaces of one");
    check_status(BS->InstallMultipleProtocolInterfaces(&handle, guid_c, &interfaces[2], guid_a, &interfaces[0], NULL),
                 EFI_INVALID_PARAMETER, L"InstallMultipleProtocolInterfaces with one that is there already");
    check_status(BS->HandleProtocol(handle, guid_c, &interface), EFI_UNSUPPORTED,
                 L"it took back what it had installed");
    check_status(BS->InstallMultipleProtocolInterfaces(NULL, guid_a, &interfaces[0], NULL), EFI_INVALID_PARAMETER,
                 L"InstallMultipleProtocolInterfaces with Handle NULL");
    check_status(BS->UninstallMultipleProtocolInterfaces(handle, guid_a, &interfaces[0], guid_b, &interfaces[1], NULL),
                 EFI_SUCCESS, L"UninstallMultipleProtocolInterfaces of the rest");
    check_status(BS->HandleProtocol(handle, guid_a, &interface), EFI_INVALID_PARAMETER, L"the handle is gone");
}
