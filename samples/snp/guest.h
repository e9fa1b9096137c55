/* What an SEV-SNP guest asks of its processor and hypervisor (AMD64 APM volume 2, 15.36; GHCB specification 2.03). */
#ifndef SNP_GUEST_H
#define SNP_GUEST_H

#include "efi.h"

#define REPORT_SIZE 1184
#define REPORT_DATA_SIZE 64

/* Finds secrets page and GHCB, and makes two pages for messages shared with the hypervisor. The reason if that fails,
 * NULL if all is well. */
const CHAR16 *snp_start(void);

/* Asks the secure processor for a report over `data` at VMPL 0. The reason if that fails, NULL if all is well. */
const CHAR16 *snp_report(const UINT8 data[REPORT_DATA_SIZE], UINT8 report[REPORT_SIZE]);

/* RMPADJUST: makes a page one that a processor can be started from, or no more. 0 if the processor did it. */
UINT32 snp_make_vmsa(void *page, BOOLEAN wanted);

/* Has the hypervisor create or destroy a processor (GHCB specification, 4.1.16). 0, or all ones if it did not understand. */
#define SNP_CREATE_ON_INIT 0
#define SNP_CREATE 1
#define SNP_DESTROY 2
UINT64 snp_processor(UINT32 request, UINT32 apic_id, const void *vmsa, UINT64 features);

#endif
