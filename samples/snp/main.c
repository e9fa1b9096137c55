/* snp_report.efi: gets an attestation report from the AMD secure processor, over a nonce of up to 64 bytes that stands in
 * the load options as hexadecimal digits, and prints it as hexadecimal digits for somebody else to verify.
 *
 * Everything between the program and the processor is in guest.c; the encryption of the messages in aes_gcm.c.
 */
#include "guest.h"
#include "sample.h"

static int digit(CHAR16 character) {
    if (character >= '0' && character <= '9') return character - '0';
    if (character >= 'a' && character <= 'f') return character - 'a' + 10;
    return -1;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    UINT8 nonce[REPORT_DATA_SIZE] = {0};
    static UINT8 report[REPORT_SIZE];
    const CHAR16 *text = load_options();
    for (UINTN i = 0; i < REPORT_DATA_SIZE && digit(text[0]) >= 0 && digit(text[1]) >= 0; i++, text += 2)
        nonce[i] = (UINT8)(digit(text[0]) << 4 | digit(text[1]));

    const CHAR16 *reason = snp_start();
    if (!reason) reason = snp_report(nonce, report);
    if (reason) {
        print(L"no report: %s\n", reason);
        return EFI_UNSUPPORTED;
    }
    print(L"attestation report, %u bytes:\n", REPORT_SIZE);
    for (UINTN i = 0; i < REPORT_SIZE; i++) print(i % 32 == 31 ? L"%02x\n" : L"%02x", report[i]);
    return EFI_SUCCESS;
}
