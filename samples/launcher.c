/* launcher.efi: starts the program that the file \launch.txt names, and says how it ended.
 *
 * The first line of \launch.txt is ASCII: the path of an image, then its load options, as in
 *     \everything.efi exitboot
 * "network " before the path has the image believe that it came from the network device, as programs that a boot manager
 * loads over the network do.
 * Firmware that boots \EFI\BOOT\BOOTX64.EFI hands over no load options: installed under that name, the launcher does.
 * At its end it switches the machine off, unless its own load options contain "stay".
 */
#include "sample.h"

/* The device path of a file: the path of our device, a file path node, the end node. */
static EFI_DEVICE_PATH_PROTOCOL *file_path(const CHAR16 *name) {
    EFI_DEVICE_PATH_PROTOCOL *device, *whole;
    EFI_GUID *guid = GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID);
    if (EFI_ERROR(BS->HandleProtocol(LOADED->DeviceHandle, guid, (void **)&device))) return NULL;
    UINTN device_size = 0;
    const UINT8 *at = (const UINT8 *)device;
    while (at[device_size] != END_DEVICE_PATH_TYPE) device_size += at[device_size + 2] | at[device_size + 3] << 8;
    UINTN name_size = (text_length(name) + 1) * sizeof(CHAR16), node_size = 4 + name_size;
    if (EFI_ERROR(BS->AllocatePool(EfiLoaderData, device_size + node_size + 4, (void **)&whole))) return NULL;
    UINT8 *node = (UINT8 *)whole + device_size, *end = node + node_size;
    memcpy(whole, device, device_size);
    node[0] = MEDIA_DEVICE_PATH, node[1] = MEDIA_FILEPATH_DP;
    node[2] = (UINT8)node_size, node[3] = (UINT8)(node_size >> 8);
    memcpy(node + 4, name, name_size);
    end[0] = END_DEVICE_PATH_TYPE, end[1] = END_ENTIRE_DEVICE_PATH_SUBTYPE, end[2] = 4, end[3] = 0;
    return whole;
}

/* Loads a file with the path of the first network device. */
static EFI_STATUS load_as_from_network(const CHAR16 *name, EFI_HANDLE *child) {
    EFI_HANDLE *handles;
    EFI_DEVICE_PATH_PROTOCOL *path;
    UINTN count, size;
    void *data;
    EFI_STATUS status =
        BS->LocateHandleBuffer(ByProtocol, GUID_OF(EFI_SIMPLE_NETWORK_PROTOCOL_GUID), NULL, &count, &handles);
    if (!EFI_ERROR(status))
        status = BS->HandleProtocol(handles[0], GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID), (void **)&path);
    if (!EFI_ERROR(status)) status = read_file(name, &data, &size);
    return EFI_ERROR(status) ? status : BS->LoadImage(FALSE, IMAGE, path, data, size, child);
}

static EFI_STATUS launch(CHAR16 *command) {
    static const CHAR16 prefix[] = L"network ";
    BOOLEAN network = TRUE;
    for (UINTN i = 0; prefix[i]; i++) network = network && command[i] == prefix[i];
    if (network) command += COUNT_OF(prefix) - 1;
    CHAR16 *options = command;
    while (*options && *options != L' ') options++;
    if (*options) *options++ = 0;
    EFI_HANDLE child;
    EFI_LOADED_IMAGE_PROTOCOL *loaded;
    EFI_STATUS status = network ? load_as_from_network(command, &child)
                                : BS->LoadImage(FALSE, IMAGE, file_path(command), NULL, 0, &child);
    if (EFI_ERROR(status)) return status;
    status = BS->HandleProtocol(child, GUID_OF(EFI_LOADED_IMAGE_PROTOCOL_GUID), (void **)&loaded);
    if (EFI_ERROR(status)) return status;
    loaded->LoadOptions = options;
    loaded->LoadOptionsSize = (UINT32)(text_length(options) + 1) * sizeof(CHAR16);
    CHAR16 *data = NULL;
    UINTN data_size;
    status = BS->StartImage(child, &data_size, &data);
    if (data) {
        print(L"# launcher: %s says \"%s\"\n", command, data);
        BS->FreePool(data);
    }
    return status;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    CHAR8 *text;
    UINTN size;
    EFI_STATUS status = read_file(L"\\launch.txt", (void **)&text, &size);
    if (!EFI_ERROR(status)) {
        CHAR16 command[256];
        UINTN length = 0;
        for (; length < size && length < COUNT_OF(command) - 1 && text[length] >= ' '; length++)
            command[length] = (UINT8)text[length];
        command[length] = 0;
        BS->FreePool(text);
        status = launch(command);
    }
    print(L"# launcher: %r\n", status);
    if (!has_option(L"stay")) RT->ResetSystem(EfiResetShutdown, EFI_SUCCESS, 0, NULL);
    return status;
}
