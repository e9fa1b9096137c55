/* child.efi: an image for others to start. It prints its load options and ends by Exit().
 *
 * Load options:   return    ends by returning EFI_SUCCESS instead
 *                 fail      exits with EFI_ABORTED and a message for the parent
 *                 (other)   exits with EFI_SUCCESS and the message "child done"
 */
#include "sample.h"

/* Exit data: a text that ends with NUL in pool memory. The one who started us frees it. */
static CHAR16 *message(const CHAR16 *text, UINTN *size) {
    CHAR16 *copy;
    *size = (text_length(text) + 1) * sizeof(CHAR16);
    if (EFI_ERROR(BS->AllocatePool(EfiBootServicesData, *size, (void **)&copy))) {
        *size = 0;
        return NULL;
    }
    memcpy(copy, text, *size);
    return copy;
}

/* Exit() never returns, however deep the calls are. */
static void leave(EFI_STATUS status, const CHAR16 *text) {
    UINTN size;
    CHAR16 *data = message(text, &size);
    BS->Exit(IMAGE, status, size, data);
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    print(L"# child: load options \"%s\"\n", load_options());
    if (has_option(L"return")) return EFI_SUCCESS;
    if (has_option(L"fail")) leave(EFI_ABORTED, L"child failed as asked");
    leave(EFI_SUCCESS, L"child done");
    print(L"# child: Exit() returned, which it must not\n");
    return EFI_DEVICE_ERROR;
}
