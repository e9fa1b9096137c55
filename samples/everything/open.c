/* everything.efi, 7.3.9 to 7.3.11: OpenProtocol's ways of opening, who excludes whom, and its accounts. */
#include "check.h"

static UINT64 interface_of_a = 42;
static EFI_HANDLE handle, controller, other; /* handle has the protocol; the others stand for agents and controllers */

static EFI_STATUS open(EFI_HANDLE agent, EFI_HANDLE for_controller, UINT32 attributes) {
    void *interface;
    return BS->OpenProtocol(handle, GUID_OF(TEST_PROTOCOL_A_GUID), &interface, agent, for_controller, attributes);
}

static EFI_STATUS close(EFI_HANDLE agent, EFI_HANDLE for_controller) {
    return BS->CloseProtocol(handle, GUID_OF(TEST_PROTOCOL_A_GUID), agent, for_controller);
}

static void check_errors(void) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    void *interface;
    check_status(BS->OpenProtocol(handle, NULL, &interface, IMAGE, NULL, EFI_OPEN_PROTOCOL_GET_PROTOCOL),
                 EFI_INVALID_PARAMETER, L"OpenProtocol with Protocol NULL");
    check_status(BS->OpenProtocol(handle, guid, NULL, IMAGE, NULL, EFI_OPEN_PROTOCOL_GET_PROTOCOL),
                 EFI_INVALID_PARAMETER,
                 L"OpenProtocol, GET, Interface NULL");
    check_status(BS->OpenProtocol(NO_HANDLE, guid, &interface, IMAGE, NULL, EFI_OPEN_PROTOCOL_GET_PROTOCOL),
                 EFI_INVALID_PARAMETER, L"OpenProtocol on what is no handle");
    check_status(open(IMAGE, NULL, 0), EFI_INVALID_PARAMETER, L"OpenProtocol, no Attributes");
    check_status(open(IMAGE, NULL, 0x40), EFI_INVALID_PARAMETER, L"OpenProtocol, Attributes 0x40");
    check_status(open(IMAGE, controller, EFI_OPEN_PROTOCOL_BY_DRIVER | EFI_OPEN_PROTOCOL_GET_PROTOCOL),
                 EFI_INVALID_PARAMETER, L"OpenProtocol, BY_DRIVER and GET together");
    check_status(open(NO_HANDLE, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_INVALID_PARAMETER,
                 L"OpenProtocol, BY_DRIVER, the agent no handle");
    check_status(open(IMAGE, NO_HANDLE, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_INVALID_PARAMETER,
                 L"OpenProtocol, BY_DRIVER, the controller no handle");
    check_status(open(NO_HANDLE, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE), EFI_INVALID_PARAMETER,
                 L"OpenProtocol, EXCLUSIVE, the agent no handle");
    check_status(open(IMAGE, handle, EFI_OPEN_PROTOCOL_BY_CHILD_CONTROLLER), EFI_INVALID_PARAMETER,
                 L"OpenProtocol, BY_CHILD_CONTROLLER, the handle its own child");
    check_status(BS->OpenProtocol(handle, GUID_OF(NO_SUCH_PROTOCOL_GUID), &interface, IMAGE, NULL,
                                  EFI_OPEN_PROTOCOL_GET_PROTOCOL),
                 EFI_UNSUPPORTED, L"OpenProtocol of a protocol that is not there");
}

static void check_loose_ways(void) {
    void *interface = NULL;
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    check_status(BS->OpenProtocol(handle, guid, &interface, IMAGE, NULL, EFI_OPEN_PROTOCOL_GET_PROTOCOL), EFI_SUCCESS,
                 L"OpenProtocol, GET");
    check(interface == &interface_of_a, L"it answers the interface");
    check_status(BS->OpenProtocol(handle, guid, NULL, IMAGE, NULL, EFI_OPEN_PROTOCOL_TEST_PROTOCOL), EFI_SUCCESS,
                 L"OpenProtocol, TEST, Interface NULL");
    check_status(BS->OpenProtocol(handle, GUID_OF(NO_SUCH_PROTOCOL_GUID), NULL, IMAGE, NULL,
                                  EFI_OPEN_PROTOCOL_TEST_PROTOCOL),
                 EFI_UNSUPPORTED, L"OpenProtocol, TEST, of a protocol that is not there");
    check_status(open(IMAGE, NULL, EFI_OPEN_PROTOCOL_BY_HANDLE_PROTOCOL), EFI_SUCCESS,
                 L"OpenProtocol, BY_HANDLE_PROTOCOL");
    check_status(close(IMAGE, NULL), EFI_SUCCESS, L"CloseProtocol");
    check_status(close(IMAGE, NULL), EFI_NOT_FOUND, L"CloseProtocol of what is not open");
    check_status(BS->CloseProtocol(handle, NULL, IMAGE, NULL), EFI_INVALID_PARAMETER, L"CloseProtocol, Protocol NULL");
    check_status(close(NO_HANDLE, NULL), EFI_INVALID_PARAMETER, L"CloseProtocol, the agent no handle");
    check_status(BS->CloseProtocol(NO_HANDLE, guid, IMAGE, NULL), EFI_INVALID_PARAMETER,
                 L"CloseProtocol on what is no handle");
    check_status(BS->CloseProtocol(handle, GUID_OF(NO_SUCH_PROTOCOL_GUID), IMAGE, NULL), EFI_NOT_FOUND,
                 L"CloseProtocol of a protocol that is not there");
}

static void check_by_driver(void) {
    check_status(open(IMAGE, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_SUCCESS, L"OpenProtocol, BY_DRIVER");
    check_status(open(IMAGE, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_ALREADY_STARTED,
                 L"BY_DRIVER by the same agent and controller again");
    check_status(open(other, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_ACCESS_DENIED,
                 L"BY_DRIVER by another agent");
    check_status(open(other, controller, EFI_OPEN_PROTOCOL_GET_PROTOCOL), EFI_SUCCESS, L"GET while a driver has it");
    check_status(close(other, controller), EFI_SUCCESS, L"the GET is closed");
    check_status(open(other, controller, EFI_OPEN_PROTOCOL_BY_CHILD_CONTROLLER), EFI_SUCCESS,
                 L"BY_CHILD_CONTROLLER while a driver has it");
    check_status(close(other, controller), EFI_SUCCESS, L"the child is closed");
    check_status(close(IMAGE, controller), EFI_SUCCESS, L"the driver closes");
    check_status(open(other, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_SUCCESS, L"then another agent may");
    check_status(close(other, controller), EFI_SUCCESS, L"and closes");
}

static void check_exclusive(void) {
    const UINT32 both = EFI_OPEN_PROTOCOL_BY_DRIVER | EFI_OPEN_PROTOCOL_EXCLUSIVE;
    check_status(open(IMAGE, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE), EFI_SUCCESS, L"OpenProtocol, EXCLUSIVE");
    check_status(open(other, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE), EFI_ACCESS_DENIED, L"EXCLUSIVE by another agent");
    check_status(open(other, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_ACCESS_DENIED, L"BY_DRIVER while exclusive");
    check_status(open(other, controller, both), EFI_ACCESS_DENIED, L"BY_DRIVER|EXCLUSIVE while exclusive");
    check_status(open(other, NULL, EFI_OPEN_PROTOCOL_GET_PROTOCOL), EFI_SUCCESS, L"GET while exclusive");
    close(other, NULL);
    check_status(close(IMAGE, NULL), EFI_SUCCESS, L"the exclusive agent closes");

    check_status(open(IMAGE, controller, both), EFI_SUCCESS, L"OpenProtocol, BY_DRIVER|EXCLUSIVE");
    check_status(open(IMAGE, controller, both), EFI_ALREADY_STARTED, L"BY_DRIVER|EXCLUSIVE by the same again");
    check_status(open(other, controller, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_ACCESS_DENIED,
                 L"BY_DRIVER while a driver has it exclusively");
    check_status(open(other, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE), EFI_ACCESS_DENIED,
                 L"EXCLUSIVE while a driver has it exclusively");
    check_status(close(IMAGE, controller), EFI_SUCCESS, L"the exclusive driver closes");

    /* EXCLUSIVE asks the driver that has the protocol to go. An agent that is no driver binding cannot be asked. */
    open(IMAGE, controller, EFI_OPEN_PROTOCOL_BY_DRIVER);
    check_status(open(other, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE), EFI_ACCESS_DENIED,
                 L"EXCLUSIVE while an agent that cannot be stopped has it BY_DRIVER");
    close(IMAGE, controller);
}

static void check_information(void) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    EFI_OPEN_PROTOCOL_INFORMATION_ENTRY *entries = NULL;
    UINTN count = 99;
    open(IMAGE, controller, EFI_OPEN_PROTOCOL_BY_DRIVER);
    open(IMAGE, other, EFI_OPEN_PROTOCOL_BY_CHILD_CONTROLLER);
    open(IMAGE, controller, EFI_OPEN_PROTOCOL_GET_PROTOCOL);
    open(IMAGE, controller, EFI_OPEN_PROTOCOL_GET_PROTOCOL);
    check_status(BS->OpenProtocolInformation(handle, guid, &entries, &count), EFI_SUCCESS, L"OpenProtocolInformation");
    check_equal(count, 3, L"it counts three ways of being open");
    UINT32 driver = 0, child = 0, get = 0;
    for (UINTN i = 0; i < count; i++) {
        if (entries[i].AgentHandle != IMAGE) continue;
        if (entries[i].Attributes == EFI_OPEN_PROTOCOL_BY_DRIVER && entries[i].ControllerHandle == controller)
            driver = entries[i].OpenCount;
        if (entries[i].Attributes == EFI_OPEN_PROTOCOL_BY_CHILD_CONTROLLER && entries[i].ControllerHandle == other)
            child = entries[i].OpenCount;
        if (entries[i].Attributes == EFI_OPEN_PROTOCOL_GET_PROTOCOL && entries[i].ControllerHandle == controller)
            get = entries[i].OpenCount;
    }
    check(driver == 1 && child == 1, L"it lists driver and child with their handles");
    check_equal(get, 2, L"two equal opens are one entry with OpenCount 2");
    if (entries) check_status(BS->FreePool(entries), EFI_SUCCESS, L"its list is pool memory");

    check_status(BS->UninstallProtocolInterface(handle, guid, &interface_of_a), EFI_ACCESS_DENIED,
                 L"UninstallProtocolInterface while a driver that cannot be stopped has it");
    check_status(close(IMAGE, controller), EFI_SUCCESS, L"CloseProtocol closes all of agent and controller");
    BS->OpenProtocolInformation(handle, guid, &entries, &count);
    check_equal(count, 1, L"the child's is left");
    BS->FreePool(entries);
    close(IMAGE, other);
    check_status(BS->OpenProtocolInformation(handle, guid, &entries, &count), EFI_SUCCESS,
                 L"OpenProtocolInformation of a protocol that nobody has open");
    check_equal(count, 0, L"it counts none");
    if (entries) BS->FreePool(entries);
    check_status(BS->OpenProtocolInformation(handle, GUID_OF(NO_SUCH_PROTOCOL_GUID), &entries, &count), EFI_NOT_FOUND,
                 L"OpenProtocolInformation of a protocol that is not there");
}

void check_open_protocol(void) {
    EFI_GUID *guid_a = GUID_OF(TEST_PROTOCOL_A_GUID), *guid_b = GUID_OF(TEST_PROTOCOL_B_GUID);
    chapter(L"7.3.9: opening protocols");
    handle = controller = other = NULL;
    BS->InstallProtocolInterface(&handle, guid_a, EFI_NATIVE_INTERFACE, &interface_of_a);
    BS->InstallProtocolInterface(&controller, guid_b, EFI_NATIVE_INTERFACE, NULL);
    BS->InstallProtocolInterface(&other, guid_b, EFI_NATIVE_INTERFACE, NULL);
    check_errors();
    check_loose_ways();
    check_by_driver();
    check_exclusive();
    check_information();
    check_status(BS->UninstallProtocolInterface(handle, guid_a, &interface_of_a), EFI_SUCCESS,
                 L"UninstallProtocolInterface when all is closed");
    BS->UninstallProtocolInterface(controller, guid_b, NULL);
    BS->UninstallProtocolInterface(other, guid_b, NULL);
}
