/* everything.efi, 7.3: installing, reinstalling and removing protocols; notifications of it. */
#include "check.h"

static UINT64 first_interface = 1, second_interface = 2;

static void check_install_errors(void) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    EFI_HANDLE handle = NULL;
    check_status(BS->InstallProtocolInterface(NULL, guid, EFI_NATIVE_INTERFACE, NULL), EFI_INVALID_PARAMETER,
                 L"InstallProtocolInterface with Handle NULL");
    check_status(BS->InstallProtocolInterface(&handle, NULL, EFI_NATIVE_INTERFACE, NULL), EFI_INVALID_PARAMETER,
                 L"InstallProtocolInterface with Protocol NULL");
    check_status(BS->InstallProtocolInterface(&handle, guid, (EFI_INTERFACE_TYPE)1, NULL), EFI_INVALID_PARAMETER,
                 L"InstallProtocolInterface with a wrong InterfaceType");
    handle = NO_HANDLE;
    check_status(BS->InstallProtocolInterface(&handle, guid, EFI_NATIVE_INTERFACE, NULL), EFI_INVALID_PARAMETER,
                 L"InstallProtocolInterface on what is no handle");
}

static void check_install(void) {
    EFI_GUID *guid_a = GUID_OF(TEST_PROTOCOL_A_GUID), *guid_b = GUID_OF(TEST_PROTOCOL_B_GUID);
    EFI_HANDLE handle = NULL;
    void *interface = &interface;
    check_status(BS->InstallProtocolInterface(&handle, guid_a, EFI_NATIVE_INTERFACE, &first_interface), EFI_SUCCESS,
                 L"InstallProtocolInterface on a new handle");
    check(handle != NULL, L"it made a handle");
    EFI_HANDLE same = handle;
    check_status(BS->InstallProtocolInterface(&same, guid_a, EFI_NATIVE_INTERFACE, &second_interface),
                 EFI_INVALID_PARAMETER, L"InstallProtocolInterface of the same protocol twice");
    check_status(BS->InstallProtocolInterface(&same, guid_b, EFI_NATIVE_INTERFACE, NULL), EFI_SUCCESS,
                 L"InstallProtocolInterface of another, its interface NULL");
    check(same == handle, L"the handle is the same");

    check_status(BS->HandleProtocol(handle, guid_a, &interface), EFI_SUCCESS, L"HandleProtocol");
    check(interface == &first_interface, L"it answers the interface");
    check_status(BS->HandleProtocol(handle, guid_b, &interface), EFI_SUCCESS, L"HandleProtocol of a NULL interface");
    check(interface == NULL, L"it answers NULL");
    check_status(BS->HandleProtocol(handle, GUID_OF(NO_SUCH_PROTOCOL_GUID), &interface), EFI_UNSUPPORTED,
                 L"HandleProtocol of a protocol that is not there");
    check_status(BS->HandleProtocol(NO_HANDLE, guid_a, &interface), EFI_INVALID_PARAMETER,
                 L"HandleProtocol on what is no handle");
    check_status(BS->HandleProtocol(NULL, guid_a, &interface), EFI_INVALID_PARAMETER, L"HandleProtocol on NULL");
    check_status(BS->HandleProtocol(handle, NULL, &interface), EFI_INVALID_PARAMETER,
                 L"HandleProtocol with Protocol NULL");
    check_status(BS->HandleProtocol(handle, guid_a, NULL), EFI_INVALID_PARAMETER,
                 L"HandleProtocol with Interface NULL");

    check_status(BS->ReinstallProtocolInterface(handle, guid_a, &second_interface, &first_interface), EFI_NOT_FOUND,
                 L"ReinstallProtocolInterface of an interface that is not there");
    check_status(BS->ReinstallProtocolInterface(handle, guid_a, &first_interface, &second_interface), EFI_SUCCESS,
                 L"ReinstallProtocolInterface");
    BS->HandleProtocol(handle, guid_a, &interface);
    check(interface == &second_interface, L"HandleProtocol answers the new interface");

    check_status(BS->UninstallProtocolInterface(handle, guid_a, &first_interface), EFI_NOT_FOUND,
                 L"UninstallProtocolInterface with the wrong interface");
    check_status(BS->UninstallProtocolInterface(handle, NULL, &first_interface), EFI_INVALID_PARAMETER,
                 L"UninstallProtocolInterface with Protocol NULL");
    check_status(BS->UninstallProtocolInterface(NO_HANDLE, guid_a, &second_interface), EFI_INVALID_PARAMETER,
                 L"UninstallProtocolInterface on what is no handle");
    check_status(BS->UninstallProtocolInterface(handle, guid_a, &second_interface), EFI_SUCCESS,
                 L"UninstallProtocolInterface");
    check_status(BS->HandleProtocol(handle, guid_a, &interface), EFI_UNSUPPORTED, L"the protocol is gone");
    check_status(BS->HandleProtocol(handle, guid_b, &interface), EFI_SUCCESS, L"the other is still there");
    check_status(BS->UninstallProtocolInterface(handle, guid_b, NULL), EFI_SUCCESS,
                 L"UninstallProtocolInterface of the last protocol");
    check_status(BS->HandleProtocol(handle, guid_b, &interface), EFI_INVALID_PARAMETER,
                 L"with its last protocol the handle is gone");
}

static void check_protocols_per_handle(void) {
    EFI_GUID *guid_a = GUID_OF(TEST_PROTOCOL_A_GUID), *guid_b = GUID_OF(TEST_PROTOCOL_B_GUID);
    EFI_HANDLE handle = NULL;
    EFI_GUID **guids = NULL;
    UINTN count = 0, found = 0;
    BS->InstallProtocolInterface(&handle, guid_a, EFI_NATIVE_INTERFACE, NULL);
    BS->InstallProtocolInterface(&handle, guid_b, EFI_NATIVE_INTERFACE, NULL);
    check_status(BS->ProtocolsPerHandle(handle, &guids, &count), EFI_SUCCESS, L"ProtocolsPerHandle");
    check_equal(count, 2, L"it counts two protocols");
    for (UINTN i = 0; i < count; i++) found += guid_equal(guids[i], guid_a) || guid_equal(guids[i], guid_b);
    check_equal(found, 2, L"it lists both");
    if (guids) check_status(BS->FreePool(guids), EFI_SUCCESS, L"its list is pool memory");
    check_status(BS->ProtocolsPerHandle(NO_HANDLE, &guids, &count), EFI_INVALID_PARAMETER,
                 L"ProtocolsPerHandle on what is no handle");
    check_status(BS->ProtocolsPerHandle(handle, NULL, &count), EFI_INVALID_PARAMETER,
                 L"ProtocolsPerHandle with ProtocolBuffer NULL");
    check_status(BS->ProtocolsPerHandle(handle, &guids, NULL), EFI_INVALID_PARAMETER,
                 L"ProtocolsPerHandle with Count NULL");
    BS->UninstallProtocolInterface(handle, guid_a, NULL);
    BS->UninstallProtocolInterface(handle, guid_b, NULL);
}

static void check_register_notify(void) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_C_GUID);
    EFI_HANDLE first = NULL, second = NULL, found = NULL;
    EFI_EVENT event;
    void *key = NULL, *interface = NULL;
    UINTN count = 0, size = sizeof(found);
    BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &count, &event);
    check_status(BS->RegisterProtocolNotify(guid, event, &key), EFI_SUCCESS, L"RegisterProtocolNotify");
    check_status(BS->RegisterProtocolNotify(NULL, event, &key), EFI_INVALID_PARAMETER,
                 L"RegisterProtocolNotify, no GUID");
    check_status(BS->RegisterProtocolNotify(guid, NULL, &key), EFI_INVALID_PARAMETER,
                 L"RegisterProtocolNotify, no event");
    check_status(BS->RegisterProtocolNotify(guid, event, NULL), EFI_INVALID_PARAMETER,
                 L"RegisterProtocolNotify, no key");
    check_status(BS->LocateHandle(ByRegisterNotify, NULL, key, &size, &found), EFI_NOT_FOUND,
                 L"LocateHandle, ByRegisterNotify, nothing new");
    BS->InstallProtocolInterface(&first, guid, EFI_NATIVE_INTERFACE, &first_interface);
    check_equal(count, 1, L"an installation notifies");
    BS->InstallProtocolInterface(&second, guid, EFI_NATIVE_INTERFACE, &second_interface);
    check_equal(count, 2, L"a second installation notifies again");
    size = sizeof(found);
    check_status(BS->LocateHandle(ByRegisterNotify, NULL, key, &size, &found), EFI_SUCCESS,
                 L"LocateHandle, ByRegisterNotify");
    check(found == first && size == sizeof(found), L"it answers the first new handle, and one only");
    check_status(BS->LocateProtocol(guid, key, &interface), EFI_SUCCESS, L"LocateProtocol with the registration key");
    check(interface == &second_interface, L"it answers the next new interface");
    size = sizeof(found);
    check_status(BS->LocateHandle(ByRegisterNotify, NULL, key, &size, &found), EFI_NOT_FOUND,
                 L"there is nothing new any more");
    check_status(BS->ReinstallProtocolInterface(first, guid, &first_interface, &first_interface), EFI_SUCCESS,
                 L"ReinstallProtocolInterface with the same interface");
    check_equal(count, 3, L"it notifies, too");
    size = sizeof(found);
    BS->LocateHandle(ByRegisterNotify, NULL, key, &size, &found);
    check(found == first, L"and its handle counts as new");
    BS->UninstallProtocolInterface(first, guid, &first_interface);
    BS->UninstallProtocolInterface(second, guid, &second_interface);
    check_equal(count, 3, L"a removal does not notify");
    BS->CloseEvent(event);
    first = NULL;
    check_status(BS->InstallProtocolInterface(&first, guid, EFI_NATIVE_INTERFACE, NULL), EFI_SUCCESS,
                 L"InstallProtocolInterface after the event was closed");
    check_equal(count, 3, L"a closed event is notified no more");
    BS->UninstallProtocolInterface(first, guid, NULL);
}

void check_handles(void) {
    chapter(L"7.3: handles and protocols");
    check_install_errors();
    check_install();
    check_protocols_per_handle();
    check_register_notify();
}
