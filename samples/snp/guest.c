/* An SEV-SNP guest's own way to its secure processor: no operating system, no library. See guest.h. */
#include "guest.h"
#include "aes_gcm.h"
#include "sample.h"

#define LARGE_PAGE (2 * 1024 * 1024ULL)
#define MSR_SEV_STATUS 0xc0010131
#define MSR_GHCB 0xc0010130
#define ENTRY_ADDRESS 0x000ffffffffff000ULL
#define ENTRY_LARGE 0x80

/* The confidential computing blob (found through the configuration table) and the secrets page it points to. */
static const EFI_GUID BLOB_GUID = {0x067b1f5f, 0xcf26, 0x44c5, {0x85, 0x54, 0x93, 0xd7, 0x77, 0x91, 0x2d, 0x42}};
typedef struct {
    UINT32 Header;
    UINT16 Version, Reserved;
    UINT64 SecretsAddress;
    UINT32 SecretsSize;
} CC_BLOB;
#define SECRETS_VMPCK0 0x20

/* GHCB fields by offset (GHCB specification, table 3) and exit codes (table 6). */
enum { GHCB_RAX = 0x1f8, GHCB_EXITCODE = 0x390, GHCB_INFO1 = 0x398, GHCB_INFO2 = 0x3a0, GHCB_SCRATCH = 0x3a8 };
enum { GHCB_BITMAP = 0x3f0, GHCB_BUFFER = 0x800, GHCB_VERSION = 0xffa };
#define EXIT_PAGE_STATE_CHANGE 0x80000010
#define EXIT_GUEST_REQUEST 0x80000011
#define EXIT_AP_CREATION 0x80000013
#define PAGE_STATE_ENTRIES 253
#define PAGE_STATE_SHARED (2ULL << 52)

/* Guest messages (SEV-SNP firmware ABI, table 99 and 8.26). */
enum { HEADER_SIZE = 0x60, HEADER_SEQUENCE = 0x20, HEADER_AAD = 0x30, HEADER_AAD_SIZE = 0x30 };
#define MSG_REPORT_REQ 5
#define MSG_REPORT_RSP 6
#define REPORT_REQUEST_SIZE 96
#define REPORT_RESPONSE_SIZE (0x20 + REPORT_SIZE)

static UINT8 *ghcb, *request, *response;
static const UINT8 *vmpck;
static UINT64 sequence = 1;

static UINT64 read_msr(UINT32 number) {
    UINT32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    return (UINT64)high << 32 | low;
}

static UINT32 encryption_bit(void) {
    UINT32 a = 0x8000001f, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b & 0x3f;
}

static void put(UINTN offset, UINT64 value) {
    *(volatile UINT64 *)(ghcb + offset) = value;
    ghcb[GHCB_BITMAP + offset / 64] |= 1 << offset / 8 % 8;
}

/* One exit to the hypervisor: what INFO2 says then, or all ones if it did not understand. */
static UINT64 vmgexit(UINT64 code, UINT64 info1, UINT64 info2, UINT64 scratch, UINT64 rax) {
    memset(ghcb + GHCB_BITMAP, 0, 16);
    put(GHCB_RAX, rax);
    put(GHCB_EXITCODE, code);
    put(GHCB_INFO1, info1);
    put(GHCB_INFO2, info2);
    if (scratch) put(GHCB_SCRATCH, scratch);
    *(volatile UINT16 *)(ghcb + GHCB_VERSION) = 2;
    __asm__ volatile(".byte 0xf3, 0x0f, 0x01, 0xd9" : : : "memory");
    if (*(volatile UINT32 *)(ghcb + GHCB_INFO1)) return ~0ULL;
    return *(volatile UINT64 *)(ghcb + GHCB_INFO2);
}

/* PVALIDATE of a 4 KiB page: 0 if the processor did it. */
static UINT32 rescind(UINT64 page) {
    UINT32 result;
    __asm__ volatile(".byte 0xf2, 0x0f, 0x01, 0xff" : "=a"(result) : "a"(page), "c"(0), "d"(0) : "memory", "cc");
    return result;
}

/* Gives a large page to the hypervisor: every 4 KiB of it is rescinded and changed to shared, then mapped without C-bit. */
static const CHAR16 *share(UINT8 *region) {
    UINT64 first = (UINT64)region, page = first;
    while (page < first + LARGE_PAGE) {
        UINT16 *header = (UINT16 *)(ghcb + GHCB_BUFFER);
        UINT64 *entries = (UINT64 *)(ghcb + GHCB_BUFFER + 8);
        UINT16 count = 0;
        for (; count < PAGE_STATE_ENTRIES && page < first + LARGE_PAGE; count++, page += EFI_PAGE_SIZE) {
            if (rescind(page)) return L"PVALIDATE failed";
            entries[count] = page | PAGE_STATE_SHARED;
        }
        header[0] = 0;
        header[1] = count - 1;
        header[2] = header[3] = 0;
        if (vmgexit(EXIT_PAGE_STATE_CHANGE, 0, 0, (UINT64)header, 0)) return L"the page state change was refused";
    }
    UINT64 bit = 1ULL << encryption_bit(), cr3, cr0;
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    UINT64 *table = (UINT64 *)(cr3 & ENTRY_ADDRESS & ~bit);
    for (int shift = 39; shift > 21; shift -= 9) table = (UINT64 *)(table[first >> shift & 511] & ENTRY_ADDRESS & ~bit);
    UINT64 *entry = &table[first >> 21 & 511];
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 & ~(1ULL << 16)) : "memory"); /* firmware may protect its tables */
    if (*entry & ENTRY_LARGE) {
        *entry &= ~bit;
    } else {
        UINT64 *pages = (UINT64 *)(*entry & ENTRY_ADDRESS & ~bit);
        for (int i = 0; i < 512; i++) pages[i] &= ~bit;
    }
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
    __asm__ volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
    return NULL;
}

const CHAR16 *snp_start(void) {
    if (!(read_msr(MSR_SEV_STATUS) & 4)) return L"this machine is no SEV-SNP guest";
    CC_BLOB *blob = NULL;
    for (UINTN i = 0; i < ST->NumberOfTableEntries; i++)
        if (guid_equal(&ST->ConfigurationTable[i].VendorGuid, &BLOB_GUID)) blob = ST->ConfigurationTable[i].VendorTable;
    if (!blob) return L"the firmware gives no confidential computing blob";
    vmpck = (const UINT8 *)blob->SecretsAddress + SECRETS_VMPCK0;
    UINT64 address = read_msr(MSR_GHCB);
    if (!address || address % EFI_PAGE_SIZE) return L"the GHCB's address is not in its MSR";
    ghcb = (UINT8 *)address;
    EFI_PHYSICAL_ADDRESS region = 0;
    if (BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 2 * LARGE_PAGE / EFI_PAGE_SIZE, &region)) return L"no memory";
    region = (region + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
    request = (UINT8 *)region;
    response = request + EFI_PAGE_SIZE;
    return share(request);
}

const CHAR16 *snp_report(const UINT8 data[REPORT_DATA_SIZE], UINT8 report[REPORT_SIZE]) {
    UINT8 tag[32] = {0};
    memset(request, 0, EFI_PAGE_SIZE);
    memset(response, 0, EFI_PAGE_SIZE);
    memcpy(request + HEADER_SEQUENCE, &sequence, 8);
    request[0x30] = 1; /* AES-256-GCM */
    request[0x31] = 1; /* header version */
    request[0x32] = HEADER_SIZE;
    request[0x34] = MSG_REPORT_REQ;
    request[0x35] = 1; /* message version */
    request[0x36] = REPORT_REQUEST_SIZE;
    memcpy(request + HEADER_SIZE, data, REPORT_DATA_SIZE);
    gcm_seal(vmpck, request + HEADER_SEQUENCE, request + HEADER_AAD, HEADER_AAD_SIZE, request + HEADER_SIZE,
             REPORT_REQUEST_SIZE, tag);
    memcpy(request, tag, sizeof tag);
    if (vmgexit(EXIT_GUEST_REQUEST, (UINT64)request, (UINT64)response, 0, 0)) return L"the guest request was refused";

    /* From here on only a copy counts: the hypervisor can write the shared page at any time. */
    static UINT8 message[HEADER_SIZE + REPORT_RESPONSE_SIZE];
    memcpy(message, response, sizeof message);
    UINT64 answered;
    memcpy(&answered, message + HEADER_SEQUENCE, 8);
    UINTN size = message[0x36] | message[0x37] << 8;
    if (message[0x34] != MSG_REPORT_RSP || answered != sequence + 1 || size != REPORT_RESPONSE_SIZE)
        return L"the answer is not the one to our request";
    UINT8 *payload = message + HEADER_SIZE;
    if (!gcm_open(vmpck, message + HEADER_SEQUENCE, message + HEADER_AAD, HEADER_AAD_SIZE, payload, size, message))
        return L"the answer was not sealed by the secure processor";
    sequence += 2;
    UINT32 status, length;
    memcpy(&status, payload, 4);
    memcpy(&length, payload + 4, 4);
    if (status || length != REPORT_SIZE) return L"the secure processor refused";
    memcpy(report, payload + 0x20, REPORT_SIZE);
    return NULL;
}

UINT32 snp_make_vmsa(void *page, BOOLEAN wanted) {
    UINT64 result = (UINT64)page, attributes = 1 | (wanted ? 1ULL << 16 : 0); /* VMPL 1 has no right to it */
    __asm__ volatile(".byte 0xf3, 0x0f, 0x01, 0xfe" : "+a"(result) : "c"(0ULL), "d"(attributes) : "memory", "cc");
    return (UINT32)result;
}

UINT64 snp_processor(UINT32 request, UINT32 apic_id, const void *vmsa, UINT64 features) {
    return vmgexit(EXIT_AP_CREATION, (UINT64)apic_id << 32 | request, (UINT64)vmsa, 0, features);
}
