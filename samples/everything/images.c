/* everything.efi, 7.4 and chapter 9: loading, starting and leaving images. Needs \child.efi and \driver.efi. */
#include "check.h"

static void *child_file, *driver_file;
static UINTN child_size, driver_size;

static EFI_LOADED_IMAGE_PROTOCOL *loaded_image(EFI_HANDLE image) {
    EFI_LOADED_IMAGE_PROTOCOL *loaded = NULL;
    BS->HandleProtocol(image, GUID_OF(EFI_LOADED_IMAGE_PROTOCOL_GUID), (void **)&loaded);
    return loaded;
}

static EFI_HANDLE load(void *file, UINTN size, const CHAR16 *options) {
    EFI_HANDLE image = NULL;
    if (EFI_ERROR(BS->LoadImage(FALSE, IMAGE, NULL, file, size, &image))) return NULL;
    EFI_LOADED_IMAGE_PROTOCOL *loaded = loaded_image(image);
    loaded->LoadOptions = (void *)options;
    loaded->LoadOptionsSize = (UINT32)(text_length(options) + 1) * sizeof(CHAR16);
    return image;
}

/* The path of a file beside the device that we came from. */
static EFI_DEVICE_PATH_PROTOCOL *path_of(const CHAR16 *name) {
    EFI_DEVICE_PATH_UTILITIES_PROTOCOL *utilities = find_protocol(GUID_OF(EFI_DEVICE_PATH_UTILITIES_PROTOCOL_GUID));
    EFI_DEVICE_PATH_PROTOCOL *device = NULL;
    UINT16 size = (UINT16)((text_length(name) + 1) * sizeof(CHAR16) + 4);
    BS->HandleProtocol(LOADED->DeviceHandle, GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID), (void **)&device);
    if (!utilities || !device) return NULL;
    EFI_DEVICE_PATH_PROTOCOL *node = utilities->CreateDeviceNode(MEDIA_DEVICE_PATH, MEDIA_FILEPATH_DP, size);
    memcpy(node + 1, name, size - 4);
    EFI_DEVICE_PATH_PROTOCOL *whole = utilities->AppendDeviceNode(device, node);
    BS->FreePool(node);
    return whole;
}

static void check_own_image(void) {
    void *path = NULL;
    check_equal(LOADED->Revision, EFI_LOADED_IMAGE_PROTOCOL_REVISION, L"our loaded image: revision");
    check(LOADED->SystemTable == ST, L"our loaded image: system table");
    UINT8 *base = LOADED->ImageBase;
    check(base[0] == 'M' && base[1] == 'Z', L"our loaded image: the file's header is at ImageBase");
    check((UINT8 *)check_own_image > base && (UINT8 *)check_own_image < base + LOADED->ImageSize,
          L"our loaded image: this code lies within it");
    check_equal(LOADED->ImageCodeType, EfiLoaderCode, L"our loaded image: code type");
    check_equal(LOADED->ImageDataType, EfiLoaderData, L"our loaded image: data type");
    check(LOADED->DeviceHandle && LOADED->FilePath, L"our loaded image: device and path");
    check_status(BS->HandleProtocol(IMAGE, GUID_OF(EFI_LOADED_IMAGE_DEVICE_PATH_PROTOCOL_GUID), &path), EFI_SUCCESS,
                 L"our image's handle has a loaded image device path");
    check(path != NULL, L"it is not NULL");
}

static void check_from_memory(void) {
    EFI_HANDLE image = NULL;
    CHAR16 *data = NULL;
    UINTN size = 0;
    check_status(BS->LoadImage(FALSE, IMAGE, NULL, child_file, child_size, &image), EFI_SUCCESS,
                 L"LoadImage from memory");
    EFI_LOADED_IMAGE_PROTOCOL *loaded = loaded_image(image);
    if (!check(loaded != NULL, L"the new image has a loaded image protocol")) return;
    check(loaded->ParentHandle == IMAGE, L"its parent is our image");
    check(loaded->SystemTable == ST, L"its system table is ours");
    check(loaded->LoadOptionsSize == 0, L"it has no load options yet");
    check(loaded->ImageBase != LOADED->ImageBase, L"it lies elsewhere");
    check_equal(memory_type_of((UINT64)loaded->ImageBase), EfiLoaderCode, L"it lies in EfiLoaderCode");
    loaded->LoadOptions = L"first";
    loaded->LoadOptionsSize = 6 * sizeof(CHAR16);
    check_status(BS->StartImage(image, &size, &data), EFI_SUCCESS, L"StartImage answers the status of Exit");
    check_text(data, L"child done", L"StartImage hands over the exit data");
    check_equal(size, 11 * sizeof(CHAR16), L"and their size");
    if (data) check_status(BS->FreePool(data), EFI_SUCCESS, L"the exit data are pool memory");
    check(loaded_image(image) == NULL, L"an application is unloaded when it exits");

    image = load(child_file, child_size, L"fail");
    check_status(BS->StartImage(image, &size, &data), EFI_ABORTED, L"StartImage answers an error of Exit");
    check_text(data, L"child failed as asked", L"with exit data");
    BS->FreePool(data);
    image = load(child_file, child_size, L"return");
    data = NULL;
    check_status(BS->StartImage(image, &size, &data), EFI_SUCCESS, L"StartImage of an image that returns");
    check(data == NULL, L"without exit data");
    image = load(child_file, child_size, L"other");
    check_status(BS->StartImage(image, NULL, NULL), EFI_SUCCESS, L"StartImage when nobody wants the exit data");
}

static void check_from_path(void) {
    EFI_DEVICE_PATH_PROTOCOL *path = path_of(L"\\child.efi"), *missing = path_of(L"\\no such file.efi");
    EFI_HANDLE image = NULL;
    void *own_path = NULL;
    check_status(BS->LoadImage(FALSE, IMAGE, path, NULL, 0, &image), EFI_SUCCESS, L"LoadImage from a path");
    EFI_LOADED_IMAGE_PROTOCOL *loaded = loaded_image(image);
    if (check(loaded != NULL, L"the image has a loaded image protocol")) {
        check(loaded->DeviceHandle == LOADED->DeviceHandle, L"its device is the one that the path begins with");
        check(loaded->FilePath && loaded->FilePath->Type == MEDIA_DEVICE_PATH &&
                  text_equal((CHAR16 *)(loaded->FilePath + 1), L"\\child.efi"),
              L"its path is the rest");
        BS->HandleProtocol(image, GUID_OF(EFI_LOADED_IMAGE_DEVICE_PATH_PROTOCOL_GUID), &own_path);
        check(own_path && own_path != path, L"it has a copy of the whole path");
        check_status(BS->StartImage(image, NULL, NULL), EFI_SUCCESS, L"StartImage of it");
    }
    check_status(BS->LoadImage(FALSE, IMAGE, missing, NULL, 0, &image), EFI_NOT_FOUND, L"LoadImage of no file");
    check_status(BS->LoadImage(FALSE, IMAGE, path, child_file, child_size, &image), EFI_SUCCESS,
                 L"LoadImage from memory with a path");
    loaded = loaded_image(image);
    check(loaded && loaded->DeviceHandle == LOADED->DeviceHandle, L"its device is that of the path");
    check_status(BS->UnloadImage(image), EFI_SUCCESS, L"UnloadImage of an image that was not started");
    check(loaded_image(image) == NULL, L"its handle is gone");
    BS->FreePool(path);
    BS->FreePool(missing);
}

void check_images(void) {
    chapter(L"7.4 and 9: images");
    check_own_image();
    EFI_STATUS status = read_file(L"\\child.efi", &child_file, &child_size);
    if (!check_status(status, EFI_SUCCESS, L"reading \\child.efi")) return;
    check_from_memory();
    check_from_path();
}

void check_image_errors(void) {
    static UINT8 rubbish[1024] = "this is no image";
    EFI_HANDLE image = NULL;
    if (!child_file) return;
    /* The specification says EFI_NOT_FOUND; OVMF says EFI_INVALID_PARAMETER. */
    check_either(BS->LoadImage(FALSE, IMAGE, NULL, NULL, 0, &image), EFI_NOT_FOUND, EFI_INVALID_PARAMETER,
                 L"LoadImage of nothing");
    check_status(BS->LoadImage(FALSE, NULL, NULL, child_file, child_size, &image), EFI_INVALID_PARAMETER,
                 L"LoadImage with ParentImageHandle NULL");
    check_status(BS->LoadImage(FALSE, NO_HANDLE, NULL, child_file, child_size, &image), EFI_INVALID_PARAMETER,
                 L"LoadImage, the parent no handle");
    check_status(BS->LoadImage(FALSE, LOADED->DeviceHandle, NULL, child_file, child_size, &image),
                 EFI_INVALID_PARAMETER, L"LoadImage, the parent no image");
    check_status(BS->LoadImage(FALSE, IMAGE, NULL, child_file, child_size, NULL), EFI_INVALID_PARAMETER,
                 L"LoadImage with ImageHandle NULL");
    check_either(BS->LoadImage(FALSE, IMAGE, NULL, rubbish, sizeof(rubbish), &image), EFI_LOAD_ERROR, EFI_UNSUPPORTED,
                 L"LoadImage of what is no image");
    check(EFI_ERROR(BS->LoadImage(FALSE, IMAGE, NULL, child_file, 0x200, &image)), L"LoadImage of a truncated image");
    check_status(BS->StartImage(NO_HANDLE, NULL, NULL), EFI_INVALID_PARAMETER, L"StartImage of what is no handle");
    check_status(BS->StartImage(LOADED->DeviceHandle, NULL, NULL), EFI_INVALID_PARAMETER, L"StartImage of no image");
    check_status(BS->StartImage(IMAGE, NULL, NULL), EFI_INVALID_PARAMETER, L"StartImage of an image that runs already");
    check_status(BS->UnloadImage(NO_HANDLE), EFI_INVALID_PARAMETER, L"UnloadImage of what is no handle");
    check_status(BS->UnloadImage(IMAGE), EFI_UNSUPPORTED, L"UnloadImage of ourselves, who cannot be unloaded");
    image = load(child_file, child_size, L"");
    check_status(BS->Exit(image, EFI_SUCCESS, 0, NULL), EFI_SUCCESS,
                 L"Exit of an image that was not started unloads it");
    check(loaded_image(image) == NULL, L"its handle is gone");
    check_status(BS->Exit(NO_HANDLE, EFI_SUCCESS, 0, NULL), EFI_INVALID_PARAMETER, L"Exit of what is no handle");
    UINT16 *machine = (UINT16 *)((UINT8 *)child_file + *(UINT32 *)((UINT8 *)child_file + 0x3c) + 4);
    *machine = 0xaa64; /* an ARM image */
    check_status(BS->LoadImage(FALSE, IMAGE, NULL, child_file, child_size, &image), EFI_UNSUPPORTED,
                 L"LoadImage of an image for another processor");
    BS->FreePool(child_file);
}

/* driver.efi stays in memory: it installs TEST_PROTOCOL_C, an interface of one function, and can be unloaded. */
void check_driver_image(void) {
    EFI_GUID *guid = GUID_OF(TEST_PROTOCOL_C_GUID);
    UINT64 (*increment)(UINT64) = NULL;
    chapter(L"7.4: driver images");
    EFI_STATUS status = read_file(L"\\driver.efi", &driver_file, &driver_size);
    if (!check_status(status, EFI_SUCCESS, L"reading \\driver.efi")) return;
    EFI_HANDLE image = load(driver_file, driver_size, L"");
    EFI_LOADED_IMAGE_PROTOCOL *loaded = loaded_image(image);
    if (!check(loaded != NULL, L"LoadImage of a boot service driver")) return;
    check_equal(loaded->ImageCodeType, EfiBootServicesCode, L"its code type");
    check_equal(loaded->ImageDataType, EfiBootServicesData, L"its data type");
    check_equal(memory_type_of((UINT64)loaded->ImageBase), EfiBootServicesCode, L"it lies in EfiBootServicesCode");
    check_status(BS->StartImage(image, NULL, NULL), EFI_SUCCESS, L"StartImage of the driver");
    check(loaded_image(image) == loaded, L"the driver stays after it returned");
    check_status(BS->LocateProtocol(guid, NULL, (void **)&increment), EFI_SUCCESS, L"its protocol is there");
    if (increment) check_equal(increment(41), 42, L"its function can be called");
    check_status(BS->StartImage(image, NULL, NULL), EFI_INVALID_PARAMETER, L"StartImage of a driver a second time");
    check_status(BS->UnloadImage(image), EFI_SUCCESS, L"UnloadImage of the driver");
    check_status(BS->LocateProtocol(guid, NULL, (void **)&increment), EFI_NOT_FOUND, L"its unload function was called");
    check(loaded_image(image) == NULL, L"its handle is gone");

    image = load(driver_file, driver_size, L"fail");
    check_status(BS->StartImage(image, NULL, NULL), EFI_UNSUPPORTED, L"StartImage of a driver that refuses");
    check(loaded_image(image) == NULL, L"a driver that returns an error is unloaded");
    BS->FreePool(driver_file);
}
