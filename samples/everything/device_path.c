/* everything.efi, 10.5 and 10.6: the utilities for device paths, and device paths as text. */
#include "check.h"

/* PciRoot(0x0)/Pci(0x1F,0x2), node by node (10.3.3.1, 10.3.2.1), then an end node. */
static const UINT8 root_node[] = { 2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0 };
static const UINT8 pci_node[] = { 1, 1, 6, 0, 2, 0x1f };
static const UINT8 end_node[] = { 0x7f, 0xff, 4, 0 };
static const UINT8 whole_path[] = { 2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0,    0,    0, 0,
                                    1, 1, 6,  0, 2,    0x1f, 0x7f, 0xff, 4,    0 };

#define PATH(bytes) ((EFI_DEVICE_PATH_PROTOCOL *)(bytes))

static BOOLEAN same(EFI_DEVICE_PATH_PROTOCOL *path, const UINT8 *bytes, UINTN size) {
    return path && memcmp(path, bytes, size) == 0;
}

static void check_building(EFI_DEVICE_PATH_UTILITIES_PROTOCOL *utilities) {
    EFI_DEVICE_PATH_PROTOCOL *node, *path, *longer;
    check_equal(utilities->GetDevicePathSize(PATH(whole_path)), sizeof(whole_path), L"GetDevicePathSize");
    check_equal(utilities->GetDevicePathSize(PATH(end_node)), 4, L"GetDevicePathSize of an end node");
    check_equal(utilities->GetDevicePathSize(NULL), 0, L"GetDevicePathSize of NULL");
    path = utilities->DuplicateDevicePath(PATH(whole_path));
    check(path != PATH(whole_path) && same(path, whole_path, sizeof(whole_path)), L"DuplicateDevicePath");
    check_status(BS->FreePool(path), EFI_SUCCESS, L"the copy is pool memory");
    check(utilities->DuplicateDevicePath(NULL) == NULL, L"DuplicateDevicePath of NULL");

    node = utilities->CreateDeviceNode(HARDWARE_DEVICE_PATH, HW_PCI_DP, 6);
    check(node && node->Type == 1 && node->SubType == 1 && node->Length[0] == 6 && node->Length[1] == 0,
          L"CreateDeviceNode");
    BS->FreePool(node);
    check(utilities->CreateDeviceNode(1, 1, 3) == NULL, L"CreateDeviceNode shorter than a header");

    path = utilities->AppendDeviceNode(NULL, PATH(root_node));
    check(same(path, root_node, 12) && same(path + 3, end_node, 4), L"AppendDeviceNode to NULL");
    longer = utilities->AppendDeviceNode(path, PATH(pci_node));
    check(same(longer, whole_path, sizeof(whole_path)), L"AppendDeviceNode");
    BS->FreePool(longer);
    longer = utilities->AppendDevicePath(path, PATH(whole_path));
    check_equal(utilities->GetDevicePathSize(longer), 12 + sizeof(whole_path), L"AppendDevicePath");
    check(same((EFI_DEVICE_PATH_PROTOCOL *)((UINT8 *)longer + 12), whole_path, sizeof(whole_path)),
          L"the second path follows the first");
    BS->FreePool(longer);
    longer = utilities->AppendDevicePath(NULL, PATH(whole_path));
    check(same(longer, whole_path, sizeof(whole_path)), L"AppendDevicePath to NULL");
    BS->FreePool(longer);
    BS->FreePool(path);
}

static void check_instances(EFI_DEVICE_PATH_UTILITIES_PROTOCOL *utilities) {
    EFI_DEVICE_PATH_PROTOCOL *both = utilities->AppendDevicePathInstance(PATH(whole_path), PATH(whole_path)), *one;
    EFI_DEVICE_PATH_PROTOCOL *next = both;
    UINTN size = 0;
    check(!utilities->IsDevicePathMultiInstance(PATH(whole_path)), L"IsDevicePathMultiInstance of one instance");
    check(utilities->IsDevicePathMultiInstance(both), L"IsDevicePathMultiInstance of two");
    check(!utilities->IsDevicePathMultiInstance(NULL), L"IsDevicePathMultiInstance of NULL");
    check_equal(utilities->GetDevicePathSize(both), 2 * sizeof(whole_path), L"AppendDevicePathInstance");
    one = utilities->GetNextDevicePathInstance(&next, &size);
    check(same(one, whole_path, sizeof(whole_path)), L"GetNextDevicePathInstance, the first");
    check_equal(size, sizeof(whole_path), L"it answers its size");
    check((UINT8 *)next == (UINT8 *)both + sizeof(whole_path), L"it moves on to the second");
    if (one) BS->FreePool(one);
    one = utilities->GetNextDevicePathInstance(&next, &size);
    check(same(one, whole_path, sizeof(whole_path)), L"GetNextDevicePathInstance, the second");
    check(next == NULL, L"there is no third");
    if (one) BS->FreePool(one);
    check(utilities->GetNextDevicePathInstance(&next, &size) == NULL, L"GetNextDevicePathInstance at the end");
    BS->FreePool(both);
}

void check_device_path(void) {
    EFI_DEVICE_PATH_UTILITIES_PROTOCOL *utilities = find_protocol(GUID_OF(EFI_DEVICE_PATH_UTILITIES_PROTOCOL_GUID));
    chapter(L"10.5: device path utilities");
    if (!check(utilities != NULL, L"there is a device path utilities protocol")) return;
    check_building(utilities);
    check_instances(utilities);
    EFI_DEVICE_PATH_PROTOCOL *own = NULL;
    BS->HandleProtocol(LOADED->DeviceHandle, GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID), (void **)&own);
    check(own && utilities->GetDevicePathSize(own) > 4, L"the device that we came from has a device path");
}

/* A node's bytes and its text (10.6.1.6 and the tables there). */
typedef struct {
    const CHAR16 *text;
    const UINT8 bytes[48];
} SAMPLE_NODE;
static const SAMPLE_NODE samples[] = {
    { L"PciRoot(0x0)", { 2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a } },
    { L"PcieRoot(0x1)", { 2, 1, 12, 0, 0xd0, 0x41, 0x08, 0x0a, 1 } },
    { L"Pci(0x1F,0x2)", { 1, 1, 6, 0, 2, 0x1f } },
    { L"Acpi(PNP0C02,0x5)", { 2, 1, 12, 0, 0xd0, 0x41, 0x02, 0x0c, 5 } },
    { L"Serial(0x1)", { 2, 1, 12, 0, 0xd0, 0x41, 0x01, 0x05, 1 } },
    { L"Keyboard(0x0)", { 2, 1, 12, 0, 0xd0, 0x41, 0x01, 0x03 } },
    { L"MemoryMapped(0xB,0xFFC00000,0xFFFFFFFF)",
      { 1, 3, 24, 0, 11, 0, 0, 0, 0, 0, 0xc0, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff } },
    { L"VenHw(964E5B22-6459-11D2-8E39-00A0C969723B)",
      { 1, 4, 20, 0, 0x22, 0x5b, 0x4e, 0x96, 0x59, 0x64, 0xd2, 0x11, 0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b } },
    { L"VenHw(964E5B22-6459-11D2-8E39-00A0C969723B,0102FF)",
      { 1, 4, 23, 0, 0x22, 0x5b, 0x4e, 0x96, 0x59, 0x64, 0xd2, 0x11, 0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b,
        1, 2, 255 } },
    { L"Ctrl(0x7)", { 1, 5, 8, 0, 7 } },
    { L"Ata(Primary,Master,0x0)", { 3, 1, 8, 0 } },
    { L"Scsi(0x3,0x2)", { 3, 2, 8, 0, 3, 0, 2 } },
    { L"Sata(0x5,0xFFFF,0x0)", { 3, 18, 10, 0, 5, 0, 0xff, 0xff } },
    { L"USB(0x1,0x0)", { 3, 5, 6, 0, 1, 0 } },
    { L"Uart(115200,8,N,1)", { 3, 14, 19, 0, 0, 0, 0, 0, 0, 0xc2, 1, 0, 0, 0, 0, 0, 8, 1, 1 } },
    { L"MAC(525400123456,0x1)", { 3, 11, 37, 0, 0x52, 0x54, 0, 0x12, 0x34, 0x56, [36] = 1 } },
    { L"NVMe(0x1,08-07-06-05-04-03-02-01)", { 3, 23, 16, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8 } },
    { L"HD(1,MBR,0x12345678,0x3F,0x1000)",
      { 4, 1, 42, 0, 1, 0, 0, 0, 0x3f, [16] = 0, 0x10, [24] = 0x78, 0x56, 0x34, 0x12, [40] = 1, 1 } },
    { L"HD(2,GPT,964E5B22-6459-11D2-8E39-00A0C969723B,0x800,0x100000)",
      { 4, 1, 42, 0, 2, 0, 0, 0, 0, 8, [18] = 0x10, [24] = 0x22, 0x5b, 0x4e, 0x96, 0x59, 0x64, 0xd2, 0x11, 0x8e, 0x39,
        0, 0xa0, 0xc9, 0x69, 0x72, 0x3b, 2, 2 } },
    { L"CDROM(0x1,0x20,0x40)", { 4, 2, 24, 0, 1, 0, 0, 0, 0x20, [16] = 0x40 } },
    { L"\\EFI\\a.efi",
      { 4, 4, 26, 0, '\\', 0, 'E', 0, 'F', 0, 'I', 0, '\\', 0, 'a', 0, '.', 0, 'e', 0, 'f', 0, 'i', 0, 0, 0 } },
    { L"FvFile(964E5B22-6459-11D2-8E39-00A0C969723B)",
      { 4, 6, 20, 0, 0x22, 0x5b, 0x4e, 0x96, 0x59, 0x64, 0xd2, 0x11, 0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b } },
    { L"VenMedia(964E5B22-6459-11D2-8E39-00A0C969723B)",
      { 4, 3, 20, 0, 0x22, 0x5b, 0x4e, 0x96, 0x59, 0x64, 0xd2, 0x11, 0x8e, 0x39, 0, 0xa0, 0xc9, 0x69, 0x72, 0x3b } },
};

static void check_one_text(EFI_DEVICE_PATH_TO_TEXT_PROTOCOL *to, EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL *from,
                           const SAMPLE_NODE *sample) {
    CHAR16 what[128];
    CHAR16 *text = to->ConvertDeviceNodeToText(PATH(sample->bytes), FALSE, FALSE);
    format_text(what, COUNT_OF(what), L"to text: %s", sample->text);
    check_text(text, sample->text, what);
    if (text) BS->FreePool(text);
    if (!from) return;
    EFI_DEVICE_PATH_PROTOCOL *node = from->ConvertTextToDeviceNode(sample->text);
    format_text(what, COUNT_OF(what), L"from text: %s", sample->text);
    check(same(node, sample->bytes, sample->bytes[2]), what);
    if (node) BS->FreePool(node);
}

void check_device_path_text(void) {
    EFI_DEVICE_PATH_TO_TEXT_PROTOCOL *to = find_protocol(GUID_OF(EFI_DEVICE_PATH_TO_TEXT_PROTOCOL_GUID));
    EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL *from = find_protocol(GUID_OF(EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL_GUID));
    chapter(L"10.6: device paths as text");
    if (!to) {
        skip(L"device paths as text", L"there is no device path to text protocol");
        return;
    }
    for (UINTN i = 0; i < COUNT_OF(samples); i++) check_one_text(to, from, &samples[i]);
    CHAR16 *text = to->ConvertDevicePathToText(PATH(whole_path), FALSE, FALSE);
    check_text(text, L"PciRoot(0x0)/Pci(0x1F,0x2)", L"to text: a whole path");
    if (text) BS->FreePool(text);
    check(to->ConvertDevicePathToText(NULL, FALSE, FALSE) == NULL, L"to text: NULL");
    check(to->ConvertDeviceNodeToText(NULL, FALSE, FALSE) == NULL, L"to text: NULL for a node");
    static const UINT8 unknown[] = { 1, 99, 6, 0, 0xab, 0xcd };
    text = to->ConvertDeviceNodeToText(PATH(unknown), FALSE, FALSE);
    check_text(text, L"HardwarePath(99,ABCD)", L"to text: a node of unknown kind");
    if (text) BS->FreePool(text);
    if (!from) {
        skip(L"device paths from text", L"there is no device path from text protocol");
        return;
    }
    EFI_DEVICE_PATH_PROTOCOL *path = from->ConvertTextToDevicePath(L"PciRoot(0x0)/Pci(0x1F,0x2)");
    check(same(path, whole_path, sizeof(whole_path)), L"from text: a whole path");
    if (path) BS->FreePool(path);
    check(from->ConvertTextToDevicePath(NULL) == NULL, L"from text: NULL");
    check(from->ConvertTextToDeviceNode(NULL) == NULL, L"from text: NULL for a node");
}
