/* Everything of UEFI that the samples use, written from the facts of the UEFI specification, version 2.10.
 *
 * Names of structures, members and constants are the specification's own, so that its text can be read beside the code.
 */
#ifndef EFI_H
#define EFI_H

#include "efi/console.h"
#include "efi/devices.h"
#include "efi/media.h"
#include "efi/network.h"
#include "efi/pci.h"
#include "efi/tables.h"
#include "efi/types.h"

#endif
