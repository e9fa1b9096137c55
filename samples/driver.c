/* driver.efi: a boot service driver. It stays in memory after its entry point returned, and offers a protocol.
 *
 * What makes it a driver is the subsystem in its file's header (the Makefile's -subsystem:efi_boot_service_driver).
 *
 * Load options:   fail   refuses with EFI_UNSUPPORTED: the firmware then unloads it
 */
#include "sample.h"

/* The protocol's interface is one function, so the pointer to it is the interface itself. */
#define TEST_PROTOCOL_C_GUID { 0x2c1f4b72, 0x8d3e, 0x4a55, { 0xb1, 0x62, 0x07, 0x5e, 0x91, 0xc3, 0x44, 0x0c } }

static UINT64 increment(UINT64 value) { return value + 1; }

/* UnloadImage() calls this. Whatever points into our image must go before the image does. */
static EFI_STATUS unload(EFI_HANDLE image) {
    return BS->UninstallProtocolInterface(image, GUID_OF(TEST_PROTOCOL_C_GUID), (void *)increment);
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    if (has_option(L"fail")) return EFI_UNSUPPORTED;
    LOADED->Unload = unload;
    EFI_HANDLE handle = image; /* a driver may put its protocols on its own handle */
    return BS->InstallProtocolInterface(&handle, GUID_OF(TEST_PROTOCOL_C_GUID), EFI_NATIVE_INTERFACE,
                                        (void *)increment);
}
