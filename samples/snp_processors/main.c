/* snp_processors.efi: an SEV-SNP guest starts its second processor from a VMSA page of its own, stops it, and has it started
 * by an INIT (AMD64 APM volume 2, 15.36.8 and table B-4; GHCB specification, 4.1.16). Needs two processors.
 */
#include "guest.h"
#include "sample.h"

#define OTHER 1 /* its APIC id */
#define ARGUMENT 0xc0ffee1234ULL
#define SEV_FEATURES_SNP 1ULL
#define LOCAL_APIC 0xfee00000ULL
enum { ICR = 0x300, ICR_HIGH = 0x310, ICR_INIT = 0x4500 };

/* Offsets in the VMSA. */
enum { ES = 0x00, CS = 0x10, SS = 0x20, DS = 0x30, FS = 0x40, GS = 0x50, GDTR = 0x60, IDTR = 0x80, TR = 0x90 };
enum { EFER = 0xd0, CR4 = 0x148, CR3 = 0x150, CR0 = 0x158, DR7 = 0x160, DR6 = 0x168, RFLAGS = 0x170, RIP = 0x178 };
enum { RSP = 0x1d8, G_PAT = 0x268, RCX = 0x308, SEV_FEATURES = 0x3b0, XCR0 = 0x3e8, MXCSR = 0x408, FCW = 0x410 };

static UINT8 *vmsa;
static volatile UINT64 rounds, argument, apic_id;
static UINT8 stack[16384] __attribute__((aligned(16)));
static UINTN failures;

/* Where the other processor begins: RCX is our argument. */
static void other_processor(UINT64 rcx) {
    UINT32 a = 1, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    apic_id = b >> 24;
    argument = rcx;
    for (;;) __asm__ volatile("lock incq %0; pause" : "+m"(rounds));
}

static void put(UINTN offset, UINT64 value) { *(UINT64 *)(vmsa + offset) = value; }

static void put_segment(UINTN offset, UINT16 selector, UINT64 descriptor) {
    *(UINT16 *)(vmsa + offset) = selector;
    *(UINT16 *)(vmsa + offset + 2) = (descriptor >> 40 & 0xff) | (descriptor >> 44 & 0xf00);
    *(UINT32 *)(vmsa + offset + 4) = 0xffffffff;
    put(offset + 8, 0);
}

static void put_table(UINTN offset, const UINT8 *pointer) {
    *(UINT32 *)(vmsa + offset + 4) = *(UINT16 *)pointer;
    memcpy(vmsa + offset + 8, pointer + 2, 8);
}

/* The other processor gets our own control registers, tables and segments. */
static void fill_vmsa(void) {
    UINT8 gdtr[10], idtr[10];
    UINT64 cr0, cr3, cr4;
    UINT32 low, high;
    UINT16 cs, ss;
    memset(vmsa, 0, EFI_PAGE_SIZE);
    __asm__ volatile("sgdt %0" : "=m"(gdtr));
    __asm__ volatile("sidt %0" : "=m"(idtr));
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %%cs, %0" : "=r"(cs));
    __asm__ volatile("mov %%ss, %0" : "=r"(ss));
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0xc0000080));
    const UINT64 *descriptors = *(const UINT64 **)(gdtr + 2);
    put_segment(CS, cs, descriptors[cs >> 3]);
    for (UINTN segment = ES; segment <= GS; segment += 16)
        if (segment != CS) put_segment(segment, ss, descriptors[ss >> 3]);
    put_table(GDTR, gdtr);
    put_table(IDTR, idtr);
    put_segment(TR, 0, 0x8bULL << 40);
    put(EFER, ((UINT64)high << 32 | low) | 1 << 12); /* SVME, as on every processor of a guest */
    put(CR0, cr0);
    put(CR3, cr3);
    put(CR4, cr4);
    put(DR6, 0xffff0ff0);
    put(DR7, 0x400);
    put(RFLAGS, 2);
    put(G_PAT, 0x0007040600070406);
    put(XCR0, 1);
    *(UINT32 *)(vmsa + MXCSR) = 0x1f80;
    *(UINT16 *)(vmsa + FCW) = 0x37f;
    put(SEV_FEATURES, SEV_FEATURES_SNP);
    put(RIP, (UINT64)other_processor);
    put(RSP, (UINT64)(stack + sizeof stack - 40));
    put(RCX, ARGUMENT);
}

static BOOLEAN runs(void) {
    UINT64 before = rounds;
    for (UINTN tries = 0; tries < 100 && rounds == before; tries++) BS->Stall(1000);
    return rounds != before;
}

static void check(BOOLEAN good, const CHAR16 *what) {
    print(good ? L"%s\n" : L"FAILED: %s\n", what);
    if (!good) failures++;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    const CHAR16 *reason = snp_start();
    if (reason) {
        print(L"no guest to start processors in: %s\n", reason);
        return EFI_UNSUPPORTED;
    }
    EFI_PHYSICAL_ADDRESS pages = 0;
    if (BS->AllocatePages(AllocateAnyPages, EfiReservedMemoryType, 2, &pages)) return EFI_OUT_OF_RESOURCES;
    if (!(pages & 0x1fffff)) pages += EFI_PAGE_SIZE; /* an erratum: no VMSA at a multiple of 2 MiB */
    vmsa = (UINT8 *)pages;
    fill_vmsa();
    check(snp_processor(SNP_CREATE, OTHER, vmsa, SEV_FEATURES_SNP) != 0, L"a page that is no VMSA is refused");
    check(snp_make_vmsa(vmsa, TRUE) == 0, L"RMPADJUST makes it one");
    check(snp_processor(SNP_CREATE, OTHER, vmsa, 5) != 0, L"features of another guest are refused");
    check(snp_processor(SNP_CREATE, 200, vmsa, SEV_FEATURES_SNP) != 0, L"a processor that is not there is refused");
    check(snp_processor(SNP_CREATE, OTHER, vmsa, SEV_FEATURES_SNP) == 0, L"the second processor is created");
    check(runs() && apic_id == OTHER && argument == ARGUMENT, L"it runs, with the registers of its VMSA");
    check(snp_processor(SNP_DESTROY, OTHER, NULL, 0) == 0 && !runs(), L"destroyed, it runs no more");
    argument = 0;
    check(snp_processor(SNP_CREATE_ON_INIT, OTHER, vmsa, SEV_FEATURES_SNP) == 0 && !runs(), L"created on INIT, it waits");
    *(volatile UINT32 *)(LOCAL_APIC + ICR_HIGH) = OTHER << 24;
    *(volatile UINT32 *)(LOCAL_APIC + ICR) = ICR_INIT;
    check(runs() && argument == ARGUMENT, L"an INIT starts it from its VMSA");
    snp_processor(SNP_DESTROY, OTHER, NULL, 0);
    check(snp_make_vmsa(vmsa, FALSE) == 0, L"RMPADJUST makes it a page like others");
    return failures ? EFI_ABORTED : EFI_SUCCESS;
}
