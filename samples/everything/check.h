/* everything.efi: how its chapters state what they check. One check prints one line of TAP (Test Anything Protocol). */
#ifndef CHECK_H
#define CHECK_H

#include "sample.h"

/* A comment line that heads the checks of one chapter. */
void chapter(const CHAR16 *title);

/* Each says whether the check passed, so that what depends on it can be left out. */
BOOLEAN check(BOOLEAN good, const CHAR16 *what);
BOOLEAN check_equal(UINT64 saw, UINT64 wanted, const CHAR16 *what);
BOOLEAN check_status(EFI_STATUS saw, EFI_STATUS wanted, const CHAR16 *what);
/* For answers that the specification leaves open between two. */
BOOLEAN check_either(EFI_STATUS saw, EFI_STATUS wanted, EFI_STATUS or_this, const CHAR16 *what);
BOOLEAN check_text(const CHAR16 *saw, const CHAR16 *wanted, const CHAR16 *what);

/* A check that this firmware gives no occasion for; it counts as passed. */
void skip(const CHAR16 *what, const CHAR16 *why);

UINTN failed_checks(void);
/* The last lines: the plan "1..N" and the sum. */
void summary(void);

/* ---- what several chapters use ---- */

#define NO_SUCH_PROTOCOL_GUID { 0x1b1e3f9a, 0x51c2, 0x4b1c, { 0x9e, 0x04, 0x61, 0x3c, 0x2f, 0x70, 0x5a, 0x99 } }
#define TEST_PROTOCOL_A_GUID { 0x2c1f4b70, 0x8d3e, 0x4a55, { 0xb1, 0x62, 0x07, 0x5e, 0x91, 0xc3, 0x44, 0x0a } }
#define TEST_PROTOCOL_B_GUID { 0x2c1f4b71, 0x8d3e, 0x4a55, { 0xb1, 0x62, 0x07, 0x5e, 0x91, 0xc3, 0x44, 0x0b } }
#define TEST_PROTOCOL_C_GUID { 0x2c1f4b72, 0x8d3e, 0x4a55, { 0xb1, 0x62, 0x07, 0x5e, 0x91, 0xc3, 0x44, 0x0c } }
#define TEST_VENDOR_GUID { 0x73c5e0d4, 0x1f86, 0x4e0b, { 0x8a, 0x2d, 0x39, 0x6f, 0x05, 0xb8, 0x1c, 0xe7 } }

/* A handle that never was one. */
#define NO_HANDLE ((EFI_HANDLE)L"this is not a handle, as any firmware can tell")

/* Adds one to the UINTN that the context points at. */
void count_notify(EFI_EVENT event, void *context);

/* One interface of a protocol that the firmware may lack, or NULL. */
void *find_protocol(EFI_GUID *guid);

/* The memory map in pool memory, and how to walk it. */
typedef struct {
    UINT8 *first;
    UINTN size, key, step;
    UINT32 version;
} MEMORY_MAP;
EFI_STATUS get_memory_map(MEMORY_MAP *map);
/* `last` NULL: the first range. Answers NULL at the end. */
EFI_MEMORY_DESCRIPTOR *next_range(MEMORY_MAP *map, EFI_MEMORY_DESCRIPTOR *last);
EFI_MEMORY_DESCRIPTOR *range_of(MEMORY_MAP *map, UINT64 address);
/* The type of the range that holds the address in the map of this moment, or EfiMaxMemoryType. */
UINT32 memory_type_of(UINT64 address);

/* ---- the chapters, in the order in which they run ---- */
void check_console(void);
void check_console_input(void);
void check_tables(void);
void check_configuration_tables(void);
void check_tpl(void);
void check_events(void);
void check_event_groups(void);
void check_timers(void);
void check_pages(void);
void check_pool(void);
void check_memory_map(void);
void check_handles(void);
void check_locate(void);
void check_multiple(void);
void check_open_protocol(void);
void check_driver_model(void);
void check_images(void);
void check_image_errors(void);
void check_driver_image(void);
void check_variables(void);
void check_variable_walk(void);
void check_time(void);
void check_misc(void);
void check_device_path(void);
void check_device_path_text(void);
void check_files(void);
void check_directories(void);
void check_file_info(void);
void check_block_io(void);
void check_graphics(void);
void check_collation(void);
void check_decompress(void);
void check_random(void);
void check_processors(void);
void check_pci_root_bridge(void);
void check_pci_io(void);
void check_network(void);
void check_acpi(void);
void check_smbios(void);
/* Does not return: leaves boot services, goes on over the serial port, and switches the machine off. */
void check_exit_boot_services(BOOLEAN shifted);

#endif
