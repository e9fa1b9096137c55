/* everything.efi, 7.3.12 to 7.3.14 and chapter 11: a driver binding of our own, connected and disconnected.
 *
 * The controller is a handle with protocol A. The driver opens A, and makes one child: a handle with protocol B.
 */
#include "check.h"

static UINT64 interface_of_a = 1, interface_of_b = 2;
static EFI_HANDLE controller, child;
static UINTN supported_calls, start_calls, stop_calls, stopped_children;
static BOOLEAN fail_start;
static EFI_TPL start_tpl;

static EFI_STATUS supported(EFI_DRIVER_BINDING_PROTOCOL *this, EFI_HANDLE handle, EFI_DEVICE_PATH_PROTOCOL *remaining) {
    (void)remaining;
    void *interface;
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    supported_calls++;
    EFI_STATUS status =
        BS->OpenProtocol(handle, guid, &interface, this->DriverBindingHandle, handle, EFI_OPEN_PROTOCOL_BY_DRIVER);
    if (!EFI_ERROR(status)) BS->CloseProtocol(handle, guid, this->DriverBindingHandle, handle);
    return status;
}

static EFI_STATUS start(EFI_DRIVER_BINDING_PROTOCOL *this, EFI_HANDLE handle, EFI_DEVICE_PATH_PROTOCOL *remaining) {
    (void)remaining;
    void *interface;
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    start_calls++;
    start_tpl = BS->RaiseTPL(TPL_HIGH_LEVEL);
    BS->RestoreTPL(start_tpl);
    if (fail_start) return EFI_DEVICE_ERROR;
    EFI_STATUS status =
        BS->OpenProtocol(handle, guid, &interface, this->DriverBindingHandle, handle, EFI_OPEN_PROTOCOL_BY_DRIVER);
    if (EFI_ERROR(status)) return status;
    child = NULL;
    BS->InstallProtocolInterface(&child, GUID_OF(TEST_PROTOCOL_B_GUID), EFI_NATIVE_INTERFACE, &interface_of_b);
    return BS->OpenProtocol(handle, guid, &interface, this->DriverBindingHandle, child,
                            EFI_OPEN_PROTOCOL_BY_CHILD_CONTROLLER);
}

/* First called with the children to stop, then with none for the controller itself. */
static EFI_STATUS stop(EFI_DRIVER_BINDING_PROTOCOL *this, EFI_HANDLE handle, UINTN count, EFI_HANDLE *children) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    stop_calls++;
    if (count == 0) return BS->CloseProtocol(handle, guid, this->DriverBindingHandle, handle);
    for (UINTN i = 0; i < count; i++) {
        BS->CloseProtocol(handle, guid, this->DriverBindingHandle, children[i]);
        BS->UninstallProtocolInterface(children[i], GUID_OF(TEST_PROTOCOL_B_GUID), &interface_of_b);
        stopped_children += children[i] == child;
    }
    return EFI_SUCCESS;
}

static EFI_DRIVER_BINDING_PROTOCOL binding = { supported, start, stop, 0x10, NULL, NULL };

static void reset_counts(void) {
    supported_calls = start_calls = stop_calls = stopped_children = 0;
}

static UINTN children_with_b(void) {
    EFI_HANDLE *buffer = NULL;
    UINTN count = 0;
    BS->LocateHandleBuffer(ByProtocol, GUID_OF(TEST_PROTOCOL_B_GUID), NULL, &count, &buffer);
    if (buffer) BS->FreePool(buffer);
    return count;
}

static void check_connect(void) {
    reset_counts();
    check_status(BS->ConnectController(controller, NULL, NULL, FALSE), EFI_SUCCESS, L"ConnectController");
    check(supported_calls >= 1, L"it asked the driver whether it supports the controller");
    check_equal(start_calls, 1, L"it started the driver once");
    check_equal(start_tpl, TPL_APPLICATION, L"the driver started at the level of the caller");
    check_equal(children_with_b(), 1, L"the driver made its child");
    check_status(BS->ConnectController(controller, NULL, NULL, FALSE), EFI_NOT_FOUND,
                 L"ConnectController of a connected controller finds no more drivers");
    check_equal(start_calls, 1, L"it did not start the driver again");
    check_equal(stop_calls, 0, L"it did not stop the driver");
}

static void check_disconnect(void) {
    reset_counts();
    check_status(BS->DisconnectController(controller, NULL, NULL), EFI_SUCCESS, L"DisconnectController");
    check_equal(stopped_children, 1, L"it stopped the child");
    check_equal(stop_calls, 2, L"it called Stop for the child, then for the controller");
    check_equal(children_with_b(), 0, L"the child is gone");
    check_status(BS->DisconnectController(controller, NULL, NULL), EFI_SUCCESS,
                 L"DisconnectController of a controller without drivers");
    check_status(BS->DisconnectController(NO_HANDLE, NULL, NULL), EFI_INVALID_PARAMETER,
                 L"DisconnectController of what is no handle");
    check_status(BS->DisconnectController(controller, NO_HANDLE, NULL), EFI_INVALID_PARAMETER,
                 L"DisconnectController, the driver no handle");
}

static void check_disconnect_child(void) {
    EFI_HANDLE drivers[2] = { binding.DriverBindingHandle, NULL };
    reset_counts();
    check_status(BS->ConnectController(controller, drivers, NULL, FALSE), EFI_SUCCESS,
                 L"ConnectController with a list of drivers");
    check_equal(start_calls, 1, L"it started the driver of the list");
    check_status(BS->DisconnectController(controller, binding.DriverBindingHandle, child), EFI_SUCCESS,
                 L"DisconnectController of driver and child");
    check_equal(stopped_children, 1, L"it stopped the child");
    check_equal(children_with_b(), 0, L"the child is gone");
    BS->DisconnectController(controller, NULL, NULL);
}

static void check_exclusive_and_removal(void) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_A_GUID);
    EFI_HANDLE agent = NULL;
    void *interface;
    BS->InstallProtocolInterface(&agent, GUID_OF(TEST_PROTOCOL_C_GUID), EFI_NATIVE_INTERFACE, NULL);
    BS->ConnectController(controller, NULL, NULL, FALSE);
    reset_counts();
    check_status(BS->OpenProtocol(controller, guid, &interface, agent, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE), EFI_SUCCESS,
                 L"OpenProtocol, EXCLUSIVE, while our driver has it");
    check(stop_calls >= 1, L"it stopped the driver");
    BS->CloseProtocol(controller, guid, agent, NULL);
    BS->DisconnectController(controller, NULL, NULL);

    BS->ConnectController(controller, NULL, NULL, FALSE);
    reset_counts();
    check_status(BS->ReinstallProtocolInterface(controller, guid, &interface_of_a, &interface_of_a), EFI_SUCCESS,
                 L"ReinstallProtocolInterface while our driver has it");
    check(stop_calls >= 1 && start_calls == 1, L"it stopped the driver and started it again");
    reset_counts();
    check_status(BS->UninstallProtocolInterface(controller, guid, &interface_of_a), EFI_SUCCESS,
                 L"UninstallProtocolInterface while our driver has it");
    check(stop_calls >= 1, L"it stopped the driver");
    BS->UninstallProtocolInterface(agent, GUID_OF(TEST_PROTOCOL_C_GUID), NULL);
}

static void check_connect_errors(void) {
    check_status(BS->ConnectController(NO_HANDLE, NULL, NULL, FALSE), EFI_INVALID_PARAMETER,
                 L"ConnectController of what is no handle");
    fail_start = TRUE;
    reset_counts();
    check_status(BS->ConnectController(controller, NULL, NULL, FALSE), EFI_NOT_FOUND,
                 L"ConnectController when the driver fails to start");
    check_equal(start_calls, 1, L"it tried to start the driver");
    fail_start = FALSE;
    EFI_HANDLE bare = NULL;
    BS->InstallProtocolInterface(&bare, GUID_OF(TEST_PROTOCOL_C_GUID), EFI_NATIVE_INTERFACE, NULL);
    reset_counts();
    check_status(BS->ConnectController(bare, NULL, NULL, FALSE), EFI_NOT_FOUND,
                 L"ConnectController of a controller that no driver supports");
    check(supported_calls >= 1 && start_calls == 0, L"it asked the driver and did not start it");
    BS->UninstallProtocolInterface(bare, GUID_OF(TEST_PROTOCOL_C_GUID), NULL);
}

void check_driver_model(void) {
    EFI_GUID *guid = GUID_OF(EFI_DRIVER_BINDING_PROTOCOL_GUID);
    EFI_HANDLE binding_handle = NULL;
    chapter(L"7.3.12 and 11: driver binding");
    controller = NULL;
    BS->InstallProtocolInterface(&controller, GUID_OF(TEST_PROTOCOL_A_GUID), EFI_NATIVE_INTERFACE, &interface_of_a);
    binding.ImageHandle = IMAGE;
    check_status(BS->InstallProtocolInterface(&binding_handle, guid, EFI_NATIVE_INTERFACE, &binding), EFI_SUCCESS,
                 L"installing a driver binding");
    binding.DriverBindingHandle = binding_handle;
    check_connect_errors();
    check_connect();
    check_disconnect();
    check_disconnect_child();
    check_exclusive_and_removal();
    check_status(BS->UninstallProtocolInterface(binding_handle, guid, &binding), EFI_SUCCESS,
                 L"removing the driver binding");
}
