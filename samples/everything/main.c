/* everything.efi: a self-test of the firmware as a guest sees it, by the chapters of the UEFI specification, 2.10.
 *
 * Every check says what the specification demands; all of them pass on real firmware (OVMF). The output is TAP. The
 * exit status is EFI_SUCCESS only if no check failed. The chapter on images needs the files \child.efi and \driver.efi
 * in the file system that this image came from; the chapter on files writes to it, and cleans up.
 *
 * Load options:   exitboot   at the end leaves boot services, checks the runtime services and switches the machine off
 *                 identity   with exitboot: does not move the runtime services to other addresses
 *                 virtual    leaves out what cannot pass while the clock stands still between calls
 *                 NAME       runs only the chapters of those names (see the table below)
 */
#include "check.h"

typedef struct {
    const CHAR16 *name;
    void (*run)(void);
} CHAPTER;

/* The console comes first: its checks clear the screen. */
static const CHAPTER chapters[] = {
    { L"console", check_console },
    { L"console", check_console_input },
    { L"tables", check_tables },
    { L"tables", check_configuration_tables },
    { L"tpl", check_tpl },
    { L"events", check_events },
    { L"events", check_event_groups },
    { L"timers", check_timers },
    { L"memory", check_pages },
    { L"memory", check_pool },
    { L"memory", check_memory_map },
    { L"handles", check_handles },
    { L"handles", check_locate },
    { L"handles", check_multiple },
    { L"open", check_open_protocol },
    { L"drivers", check_driver_model },
    { L"images", check_images },
    { L"images", check_image_errors },
    { L"images", check_driver_image },
    { L"variables", check_variables },
    { L"variables", check_variable_walk },
    { L"time", check_time },
    { L"misc", check_misc },
    { L"devicepath", check_device_path },
    { L"devicepath", check_device_path_text },
    { L"files", check_files },
    { L"files", check_directories },
    { L"files", check_file_info },
    { L"block", check_block_io },
    { L"graphics", check_graphics },
    { L"collation", check_collation },
    { L"decompress", check_decompress },
    { L"random", check_random },
    { L"processors", check_processors },
    { L"pci", check_pci_root_bridge },
    { L"pci", check_pci_io },
    { L"network", check_network },
    { L"platform", check_acpi },
    { L"platform", check_smbios },
};

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    BOOLEAN some = FALSE;
    for (UINTN i = 0; i < COUNT_OF(chapters); i++) some |= has_option(chapters[i].name);
    for (UINTN i = 0; i < COUNT_OF(chapters); i++)
        if (!some || has_option(chapters[i].name)) chapters[i].run();
    if (has_option(L"exitboot")) check_exit_boot_services(!has_option(L"identity"));
    summary();
    return failed_checks() ? EFI_ABORTED : EFI_SUCCESS;
}
