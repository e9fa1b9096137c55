/* everything.efi: PCI functions (14.4). Reads, and changes nothing that it does not put back. */
#include "check.h"

/* The device path's last node before its end. */
static const UINT8 *last_node(const UINT8 *path) {
    const UINT8 *last = path;
    for (; path[0] != END_DEVICE_PATH_TYPE; path += path[2] | path[3] << 8) last = path;
    return last;
}

static void check_location(EFI_HANDLE handle, EFI_PCI_IO_PROTOCOL *pci) {
    UINTN segment, bus, device, number;
    UINT8 *path;
    check_status(pci->GetLocation(pci, &segment, &bus, &device, &number), EFI_SUCCESS, L"GetLocation");
    check(segment == 0 && bus < 256 && device < 32 && number < 8, L"the location is one");
    check_status(pci->GetLocation(pci, NULL, &bus, &device, &number), EFI_INVALID_PARAMETER, L"GetLocation to NULL");
    if (!check_status(BS->HandleProtocol(handle, GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID), (void **)&path), EFI_SUCCESS,
                      L"the function has a device path"))
        return;
    const UINT8 *node = last_node(path);
    check(path[0] == ACPI_DEVICE_PATH && path[1] == ACPI_DP, L"the path begins with the root bridge");
    check(node[0] == HARDWARE_DEVICE_PATH && node[1] == HW_PCI_DP, L"the path ends with a PCI node");
    check(node[4] == number && node[5] == device, L"the PCI node names the location");
}

static void check_configuration_space(EFI_PCI_IO_PROTOCOL *pci) {
    UINT8 bytes[4];
    UINT16 words[2] = { 0, 0 };
    UINT32 dword = 0, dwords[2] = { 0, 0 };
    UINT64 qword = 0;
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint32, 0, 1, &dword), EFI_SUCCESS, L"Pci.Read of a dword");
    check((UINT16)dword != 0xffff && (UINT16)dword != 0, L"the vendor is one");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint16, 0, 2, words), EFI_SUCCESS, L"Pci.Read of two words");
    check_equal(words[0] | (UINT32)words[1] << 16, dword, L"they are the dword");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint8, 0, 4, bytes), EFI_SUCCESS, L"Pci.Read of four bytes");
    check(memcmp(bytes, &dword, 4) == 0, L"they are the dword");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthFifoUint16, 2, 2, words), EFI_SUCCESS, L"Pci.Read of a FIFO");
    check(words[0] == dword >> 16 && words[1] == dword >> 16, L"every word of it is from the same address");
    words[1] = 0x1234;
    check_status(pci->Pci.Read(pci, EfiPciIoWidthFillUint16, 0, 2, words), EFI_SUCCESS, L"Pci.Read that fills");
    check(words[0] == dword >> 16 && words[1] == 0x1234, L"the last word stays in the buffer's first");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint32, 8, 2, dwords), EFI_SUCCESS, L"Pci.Read of two dwords");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint64, 8, 1, &qword), EFI_SUCCESS, L"Pci.Read of 64 bits");
    check_equal(qword, dwords[0] | (UINT64)dwords[1] << 32, L"they are the two dwords");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint32, 2, 1, &dword), EFI_UNSUPPORTED, L"Pci.Read across a dword");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint32, 0x1000, 1, &dword), EFI_UNSUPPORTED,
                 L"Pci.Read behind the end");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthMaximum, 0, 1, &dword), EFI_INVALID_PARAMETER,
                 L"Pci.Read of another width");
    check_status(pci->Pci.Read(pci, EfiPciIoWidthUint32, 0, 1, NULL), EFI_INVALID_PARAMETER, L"Pci.Read to NULL");
    dword = 0x5a5a5a5a;
    check_status(pci->Pci.Write(pci, EfiPciIoWidthUint32, 0, 1, &dword), EFI_SUCCESS, L"Pci.Write of the vendor");
    pci->Pci.Read(pci, EfiPciIoWidthUint8, 0, 4, &dword);
    check(memcmp(bytes, &dword, 4) == 0, L"it is read-only");
}

static void check_attributes(EFI_PCI_IO_PROTOCOL *pci) {
    UINT64 supported = 0, before = 0, now = 0;
    UINT16 command = 0;
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationSupported, 0, &supported), EFI_SUCCESS,
                 L"Attributes: supported");
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationGet, 0, &before), EFI_SUCCESS, L"Attributes: get");
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationGet, 0, NULL), EFI_INVALID_PARAMETER,
                 L"Attributes: get to NULL");
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationMaximum, 0, &now), EFI_INVALID_PARAMETER,
                 L"Attributes: another operation");
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationEnable, 1ULL << 40, NULL), EFI_UNSUPPORTED,
                 L"Attributes: enable what there is not");
    if (!check((supported & EFI_PCI_IO_ATTRIBUTE_BUS_MASTER) != 0, L"bus mastering is supported")) return;
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationEnable, EFI_PCI_IO_ATTRIBUTE_BUS_MASTER, NULL),
                 EFI_SUCCESS, L"Attributes: enable bus mastering");
    pci->Pci.Read(pci, EfiPciIoWidthUint16, 4, 1, &command);
    check((command & 4) != 0, L"the command register shows it");
    pci->Attributes(pci, EfiPciIoAttributeOperationGet, 0, &now);
    check((now & EFI_PCI_IO_ATTRIBUTE_BUS_MASTER) != 0, L"so do the attributes");
    if (before & EFI_PCI_IO_ATTRIBUTE_BUS_MASTER) return;
    check_status(pci->Attributes(pci, EfiPciIoAttributeOperationDisable, EFI_PCI_IO_ATTRIBUTE_BUS_MASTER, NULL),
                 EFI_SUCCESS, L"Attributes: disable it again");
    pci->Pci.Read(pci, EfiPciIoWidthUint16, 4, 1, &command);
    check(!(command & 4), L"the command register shows it");
}

/* Gives the index of the first memory BAR, or 6. */
static UINT8 check_bars(EFI_PCI_IO_PROTOCOL *pci) {
    UINT8 first = 6;
    UINT64 supports = 1;
    void *resources = NULL;
    for (UINT8 index = 0; index < 6; index++) {
        EFI_ACPI_ADDRESS_SPACE_DESCRIPTOR *told;
        EFI_STATUS status = pci->GetBarAttributes(pci, index, &supports, (void **)&told);
        if (status == EFI_UNSUPPORTED) continue;
        if (!check_status(status, EFI_SUCCESS, L"GetBarAttributes")) continue;
        UINT32 base = 0;
        pci->Pci.Read(pci, EfiPciIoWidthUint32, 0x10 + 4 * index, 1, &base);
        BOOLEAN ports = base & 1;
        check(told->Desc == ACPI_ADDRESS_SPACE_DESCRIPTOR && told->Len == sizeof(*told) - 3, L"it is a descriptor");
        check_equal(told->ResType, ports ? 1 : 0, L"its type is the BAR's");
        check_equal((UINT32)told->AddrRangeMin, base & (ports ? ~3U : ~15U), L"its minimum is the BAR's address");
        check(told->AddrLen >= 4 && (told->AddrLen & (told->AddrLen - 1)) == 0, L"its length is a power of two");
        check(told->AddrRangeMin % told->AddrLen == 0, L"the address is aligned to it");
        check_equal(((UINT8 *)(told + 1))[0], ACPI_END_TAG_DESCRIPTOR, L"an end tag follows");
        if (!ports && first == 6) first = index;
        BS->FreePool(told);
    }
    check_status(pci->GetBarAttributes(pci, 6, &supports, &resources), EFI_UNSUPPORTED, L"GetBarAttributes of BAR 6");
    if (first < 6) {
        check_status(pci->GetBarAttributes(pci, first, NULL, NULL), EFI_INVALID_PARAMETER, L"GetBarAttributes to NULL");
        check_status(pci->SetBarAttributes(pci, 0, first, NULL, NULL), EFI_INVALID_PARAMETER,
                     L"SetBarAttributes of NULL");
    }
    return first;
}

static void check_bar_accesses(EFI_PCI_IO_PROTOCOL *pci, UINT8 bar) {
    UINT32 value = 0;
    UINT64 result = 0;
    check_status(pci->Mem.Read(pci, EfiPciIoWidthUint32, bar, 0, 1, &value), EFI_SUCCESS, L"Mem.Read");
    check_status(pci->Mem.Read(pci, EfiPciIoWidthUint32, bar, 0, 1, NULL), EFI_INVALID_PARAMETER, L"Mem.Read to NULL");
    check_status(pci->Mem.Read(pci, EfiPciIoWidthMaximum, bar, 0, 1, &value), EFI_INVALID_PARAMETER,
                 L"Mem.Read of another width");
    check_status(pci->Mem.Read(pci, EfiPciIoWidthUint32, bar, 1ULL << 40, 1, &value), EFI_UNSUPPORTED,
                 L"Mem.Read behind the BAR");
    check_status(pci->Mem.Read(pci, EfiPciIoWidthUint32, bar, 0, 1ULL << 40, &value), EFI_UNSUPPORTED,
                 L"Mem.Read of more than the BAR");
    check_status(pci->Mem.Read(pci, EfiPciIoWidthUint32, bar, 1, 1, &value), EFI_UNSUPPORTED,
                 L"Mem.Read that is not aligned");
    check_status(pci->Mem.Read(pci, EfiPciIoWidthUint32, 6, 0, 1, &value), EFI_UNSUPPORTED, L"Mem.Read of BAR 6");
    check_status(pci->Io.Read(pci, EfiPciIoWidthUint32, bar, 0, 1, &value), EFI_UNSUPPORTED, L"Io.Read of memory");
    check_status(pci->PollMem(pci, EfiPciIoWidthUint32, bar, 0, 0, 0, 100000, &result), EFI_SUCCESS,
                 L"PollMem for what is there");
    check_status(pci->PollMem(pci, EfiPciIoWidthUint32, bar, 0, 0, 1, 0, &result), EFI_SUCCESS,
                 L"PollMem without a delay");
    check_status(pci->PollMem(pci, EfiPciIoWidthUint32, bar, 0, 0, 1, 100000, &result), EFI_TIMEOUT,
                 L"PollMem for what never comes");
    check_status(pci->PollMem(pci, EfiPciIoWidthFifoUint32, bar, 0, 0, 0, 0, &result), EFI_INVALID_PARAMETER,
                 L"PollMem of a FIFO");
    check_status(pci->PollMem(pci, EfiPciIoWidthUint32, bar, 0, 0, 0, 0, NULL), EFI_INVALID_PARAMETER,
                 L"PollMem to NULL");
    check_status(pci->CopyMem(pci, EfiPciIoWidthFillUint32, bar, 0, bar, 0, 1), EFI_INVALID_PARAMETER,
                 L"CopyMem that fills");
    check_status(pci->CopyMem(pci, EfiPciIoWidthUint32, bar, 1ULL << 40, bar, 0, 1), EFI_UNSUPPORTED,
                 L"CopyMem behind the BAR");
    check_status(pci->Flush(pci), EFI_SUCCESS, L"Flush");
}

static EFI_PCI_IO_PROTOCOL *polled;
static UINT8 polled_bar;
static EFI_STATUS poll_status;

static void poll_in_notification(EFI_EVENT event, void *context) {
    (void)event;
    UINT64 result;
    poll_status = polled->PollMem(polled, EfiPciIoWidthUint32, polled_bar, 0, 0, 1, 20000, &result);
    count_notify(event, context);
}

/* A service that waits, inside of a notification that interrupts a service that waits. */
static void check_waiting_in_notification(EFI_PCI_IO_PROTOCOL *pci, UINT8 bar) {
    EFI_EVENT event;
    UINTN count = 0;
    polled = pci, polled_bar = bar, poll_status = EFI_SUCCESS;
    if (EFI_ERROR(BS->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, TPL_CALLBACK, poll_in_notification, &count, &event)))
        return;
    BS->SetTimer(event, TimerRelative, 50000);
    BS->Stall(40000);
    check_equal(count, 1, L"a notification ran during Stall");
    check_status(poll_status, EFI_TIMEOUT, L"PollMem in it");
    BS->CloseEvent(event);
}

static void check_dma(EFI_PCI_IO_PROTOCOL *pci) {
    EFI_PHYSICAL_ADDRESS device = 1;
    UINT8 *buffer = NULL, small[64];
    void *mapping = NULL;
    UINTN size = 5000;
    check_status(pci->AllocateBuffer(pci, 0, EfiBootServicesData, 2, (void **)&buffer, 0), EFI_SUCCESS,
                 L"AllocateBuffer");
    check(buffer && ((UINTN)buffer & 0xfff) == 0, L"it is a page");
    check_equal(memory_type_of((UINTN)buffer), EfiBootServicesData, L"it has the type that was asked for");
    for (UINTN i = 0; i < size; i++) buffer[i] = (UINT8)(i * 7);
    check_status(pci->Map(pci, EfiPciIoOperationBusMasterCommonBuffer, buffer, &size, &device, &mapping), EFI_SUCCESS,
                 L"Map of a common buffer");
    check_equal(size, 5000, L"all of it is mapped");
    check(buffer[4999] == (UINT8)(4999 * 7), L"it is as it was");
    check_status(pci->Unmap(pci, mapping), EFI_SUCCESS, L"Unmap");
    check_status(pci->FreeBuffer(pci, 2, buffer), EFI_SUCCESS, L"FreeBuffer");
    for (UINTN i = 0; i < sizeof(small); i++) small[i] = (UINT8)i;
    size = sizeof(small);
    check_status(pci->Map(pci, EfiPciIoOperationBusMasterRead, small, &size, &device, &mapping), EFI_SUCCESS,
                 L"Map of other memory for reading");
    check(memcmp((void *)device, small, sizeof(small)) == 0, L"the device sees what is in it");
    check_status(pci->Unmap(pci, mapping), EFI_SUCCESS, L"Unmap");
    check_status(pci->Map(pci, EfiPciIoOperationBusMasterWrite, small, &size, &device, &mapping), EFI_SUCCESS,
                 L"Map of other memory for writing");
    memset((void *)device, 0xa5, sizeof(small));
    check_status(pci->Unmap(pci, mapping), EFI_SUCCESS, L"Unmap");
    check(small[0] == 0xa5 && small[63] == 0xa5, L"what the device writes is in it");
    check_status(pci->Map(pci, EfiPciIoOperationMaximum, small, &size, &device, &mapping), EFI_INVALID_PARAMETER,
                 L"Map for another operation");
    check_status(pci->Map(pci, 0, NULL, &size, &device, &mapping), EFI_INVALID_PARAMETER, L"Map of NULL");
    check_status(pci->Map(pci, 0, small, &size, NULL, &mapping), EFI_INVALID_PARAMETER, L"Map to NULL");
    check_status(pci->AllocateBuffer(pci, 0, EfiLoaderData, 1, (void **)&buffer, 0), EFI_INVALID_PARAMETER,
                 L"AllocateBuffer of another type");
    check_status(pci->AllocateBuffer(pci, 0, EfiBootServicesData, 1, NULL, 0), EFI_INVALID_PARAMETER,
                 L"AllocateBuffer to NULL");
    check_status(pci->AllocateBuffer(pci, 0, EfiBootServicesData, 1, (void **)&buffer, 1ULL << 40), EFI_UNSUPPORTED,
                 L"AllocateBuffer with another attribute");
}

void check_pci_io(void) {
    EFI_HANDLE *handles = NULL;
    UINTN count = 0;
    chapter(L"14.4: PCI functions");
    BS->LocateHandleBuffer(ByProtocol, GUID_OF(EFI_PCI_IO_PROTOCOL_GUID), NULL, &count, &handles);
    if (!check(count > 0, L"there are PCI functions")) return;
    for (UINTN i = 0; i < count; i++) {
        EFI_PCI_IO_PROTOCOL *pci;
        UINT32 identity = 0, class_code = 0;
        BS->HandleProtocol(handles[i], GUID_OF(EFI_PCI_IO_PROTOCOL_GUID), (void **)&pci);
        pci->Pci.Read(pci, EfiPciIoWidthUint32, 0, 1, &identity);
        pci->Pci.Read(pci, EfiPciIoWidthUint32, 8, 1, &class_code);
        print(L"# %04x:%04x class %06x\n", identity & 0xffff, identity >> 16, class_code >> 8);
        check_location(handles[i], pci);
        UINT8 bar = check_bars(pci);
        /* Bridges and disks are in use; the network device is not, or its driver stands it. */
        if (class_code >> 24 != 2) continue;
        check_configuration_space(pci);
        check_attributes(pci);
        check_dma(pci);
        if (bar < 6) {
            check_bar_accesses(pci, bar);
            check_waiting_in_notification(pci, bar);
        }
    }
    BS->FreePool(handles);
}

void check_pci_root_bridge(void) {
    EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL *bridge = find_protocol(GUID_OF(EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL_GUID));
    UINT32 value = 0;
    UINT64 supports = 0, attributes = 0, result = 0;
    EFI_ACPI_ADDRESS_SPACE_DESCRIPTOR *told;
    chapter(L"14.2: the PCI root bridge");
    if (!check(bridge != NULL, L"there is a root bridge")) return;
    check_equal(bridge->SegmentNumber, 0, L"it is of segment 0");
    check_status(bridge->Pci.Read(bridge, EfiPciIoWidthUint32, 0, 1, &value), EFI_SUCCESS, L"Pci.Read of 00:00.0");
    check((UINT16)value != 0xffff, L"it is there");
    value = 0;
    check_status(bridge->Pci.Read(bridge, EfiPciIoWidthUint32, EFI_PCI_ADDRESS(0, 0x1d, 7, 0), 1, &value), EFI_SUCCESS,
                 L"Pci.Read of 00:1d.7");
    check_equal(value, 0xffffffff, L"there is nothing");
    check_status(bridge->Pci.Read(bridge, EfiPciIoWidthUint32, 2, 1, &value), EFI_UNSUPPORTED,
                 L"Pci.Read across a dword");
    check_status(bridge->Pci.Read(bridge, EfiPciIoWidthMaximum, 0, 1, &value), EFI_INVALID_PARAMETER,
                 L"Pci.Read of another width");
    check_status(bridge->Pci.Read(bridge, EfiPciIoWidthUint32, 0, 1, NULL), EFI_INVALID_PARAMETER, L"Pci.Read to NULL");
    check_status(bridge->Pci.Read(bridge, EfiPciIoWidthUint32, 0x1000ULL << 32, 1, &value), EFI_INVALID_PARAMETER,
                 L"Pci.Read behind the end");
    check_status(bridge->Mem.Read(bridge, EfiPciIoWidthUint32, 0x1000, 1, &value), EFI_INVALID_PARAMETER,
                 L"Mem.Read of what is no PCI memory");
    check_status(bridge->Io.Read(bridge, EfiPciIoWidthUint64, 0x70, 1, &result), EFI_INVALID_PARAMETER,
                 L"Io.Read of 64 bits");
    check_status(bridge->PollIo(bridge, EfiPciIoWidthFifoUint8, 0x70, 0, 0, 0, &result), EFI_INVALID_PARAMETER,
                 L"PollIo of a FIFO");
    check_status(bridge->CopyMem(bridge, EfiPciIoWidthFifoUint8, 0, 1, 1), EFI_INVALID_PARAMETER, L"CopyMem of a FIFO");
    check_status(bridge->Map(bridge, EfiPciOperationMaximum, &value, &supports, &result, (void **)&told),
                 EFI_INVALID_PARAMETER, L"Map for another operation");
    check_status(bridge->GetAttributes(bridge, &supports, &attributes), EFI_SUCCESS, L"GetAttributes");
    check((attributes & ~supports) == 0, L"what it passes on is supported");
    check_status(bridge->GetAttributes(bridge, NULL, NULL), EFI_INVALID_PARAMETER, L"GetAttributes to NULL");
    check_status(bridge->SetAttributes(bridge, 1ULL << 40, NULL, NULL), EFI_UNSUPPORTED,
                 L"SetAttributes to what there is not");
    check_status(bridge->SetAttributes(bridge, attributes, NULL, NULL), EFI_SUCCESS, L"SetAttributes to what it was");
    if (!check_status(bridge->Configuration(bridge, (void **)&told), EFI_SUCCESS, L"Configuration")) return;
    UINTN kinds = 0;
    BOOLEAN good = TRUE;
    for (; told->Desc == ACPI_ADDRESS_SPACE_DESCRIPTOR; told++) {
        good = good && told->Len == sizeof(*told) - 3 && told->AddrRangeMax == told->AddrRangeMin + told->AddrLen - 1;
        if (told->ResType < 3) kinds |= 1ULL << told->ResType;
    }
    check(good, L"every window is as long as it says");
    check_equal(told->Desc, ACPI_END_TAG_DESCRIPTOR, L"an end tag follows");
    check((kinds & 1) != 0, L"there is a window of memory");
    check_status(bridge->Flush(bridge), EFI_SUCCESS, L"Flush");
}
