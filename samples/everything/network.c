/* everything.efi: the simple network protocol (24.1), with one question by ARP to 10.0.2.2 and its answer. */
#include "check.h"

static EFI_MAC_ADDRESS everyone = { { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff } };
static UINT8 frame[1600], received[1600];

static void check_uninitialized(EFI_SIMPLE_NETWORK_PROTOCOL *net, EFI_STATUS wanted) {
    EFI_IP_ADDRESS ip = { { 224, 0, 0, 1 } };
    EFI_MAC_ADDRESS mac;
    UINT32 interrupts;
    UINTN size = sizeof(received);
    void *buffer;
    check_status(net->Shutdown(net), wanted, L"Shutdown");
    check_status(net->ReceiveFilters(net, 0, 0, FALSE, 0, NULL), wanted, L"ReceiveFilters");
    check_status(net->MCastIpToMac(net, FALSE, &ip, &mac), wanted, L"MCastIpToMac");
    check_status(net->GetStatus(net, &interrupts, &buffer), wanted, L"GetStatus");
    check_status(net->Transmit(net, 0, 64, frame, NULL, NULL, NULL), wanted, L"Transmit");
    check_status(net->Receive(net, NULL, &size, received, NULL, NULL, NULL), wanted, L"Receive");
    check_either(net->Reset(net, TRUE), wanted, EFI_UNSUPPORTED, L"Reset");
    check_either(net->StationAddress(net, TRUE, NULL), wanted, EFI_UNSUPPORTED, L"StationAddress");
    check_either(net->Statistics(net, FALSE, &size, NULL), wanted, EFI_UNSUPPORTED, L"Statistics");
}

static void check_mode(EFI_SIMPLE_NETWORK_MODE *mode) {
    check_equal(mode->HwAddressSize, 6, L"an address has 6 bytes");
    check_equal(mode->MediaHeaderSize, 14, L"a header has 14");
    check_equal(mode->MaxPacketSize, 1500, L"a packet has up to 1500");
    check_equal(mode->IfType, 1, L"it is Ethernet");
    check(memcmp(mode->BroadcastAddress.Addr, everyone.Addr, 6) == 0, L"the broadcast address");
    check(memcmp(mode->CurrentAddress.Addr, mode->PermanentAddress.Addr, 6) == 0, L"the address is the permanent one");
    check((mode->CurrentAddress.Addr[0] & 1) == 0, L"it is no group's");
    check(mode->MaxMCastFilterCount <= MAX_MCAST_FILTER_CNT, L"the multicast filter is not too long");
    UINT32 least = EFI_SIMPLE_NETWORK_RECEIVE_UNICAST | EFI_SIMPLE_NETWORK_RECEIVE_BROADCAST;
    check((mode->ReceiveFilterMask & least) == least, L"unicast and broadcast can be filtered");
}

static void check_filters(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    EFI_SIMPLE_NETWORK_MODE *mode = net->Mode;
    EFI_MAC_ADDRESS groups[2] = { { { 0x01, 0, 0x5e, 0, 0, 1 } }, { { 0x33, 0x33, 0, 0, 0, 1 } } };
    UINT32 usual = EFI_SIMPLE_NETWORK_RECEIVE_UNICAST | EFI_SIMPLE_NETWORK_RECEIVE_BROADCAST;
    check_status(net->ReceiveFilters(net, 0x20, 0, FALSE, 0, NULL), EFI_INVALID_PARAMETER,
                 L"ReceiveFilters: enable what there is not");
    check_status(net->ReceiveFilters(net, 0, 0x20, FALSE, 0, NULL), EFI_INVALID_PARAMETER,
                 L"ReceiveFilters: disable what there is not");
    check_status(net->ReceiveFilters(net, 0, 0, FALSE, MAX_MCAST_FILTER_CNT + 1, groups), EFI_INVALID_PARAMETER,
                 L"ReceiveFilters: too many groups");
    if (mode->ReceiveFilterMask & EFI_SIMPLE_NETWORK_RECEIVE_MULTICAST) {
        UINT32 multicast = EFI_SIMPLE_NETWORK_RECEIVE_MULTICAST;
        check_status(net->ReceiveFilters(net, multicast, 0, FALSE, 0, NULL), EFI_INVALID_PARAMETER,
                     L"ReceiveFilters: multicast without groups");
        check_status(net->ReceiveFilters(net, multicast, 0, FALSE, 1, NULL), EFI_INVALID_PARAMETER,
                     L"ReceiveFilters: a group at NULL");
        check_status(net->ReceiveFilters(net, multicast, 0, FALSE, 1, &mode->CurrentAddress), EFI_INVALID_PARAMETER,
                     L"ReceiveFilters: a group that is none");
        check_status(net->ReceiveFilters(net, multicast, 0, FALSE, 2, groups), EFI_SUCCESS,
                     L"ReceiveFilters: two groups");
        check_equal(mode->MCastFilterCount, 2, L"the mode has them");
        check(memcmp(mode->MCastFilter[1].Addr, groups[1].Addr, 6) == 0, L"in their order");
        check(mode->ReceiveFilterSetting & multicast, L"multicast is enabled");
        check_status(net->ReceiveFilters(net, 0, 0, TRUE, 0, NULL), EFI_SUCCESS, L"ReceiveFilters: reset the groups");
        check_equal(mode->MCastFilterCount, 0, L"there are none");
        check(!(mode->ReceiveFilterSetting & multicast), L"multicast is disabled");
    }
    check_status(net->ReceiveFilters(net, usual, 0, FALSE, 0, NULL), EFI_SUCCESS, L"ReceiveFilters: the usual ones");
    check_equal(mode->ReceiveFilterSetting & usual, usual, L"the mode shows them");
}

static void check_settings(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    EFI_NETWORK_STATISTICS table;
    EFI_MAC_ADDRESS mac = { { 0 } }, other = { { 2, 0, 0, 0x12, 0x34, 0x56 } };
    EFI_IP_ADDRESS four = { { 239, 129, 2, 3 } }, six = { { 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0x12, 0x34 } };
    EFI_IP_ADDRESS none = { { 10, 0, 0, 1 } };
    UINTN size = 0;
    check_status(net->MCastIpToMac(net, FALSE, &four, &mac), EFI_SUCCESS, L"MCastIpToMac of IPv4");
    check(memcmp(mac.Addr, "\x01\0\x5e\x01\x02\x03", 6) == 0, L"23 bits of it");
    check_status(net->MCastIpToMac(net, TRUE, &six, &mac), EFI_SUCCESS, L"MCastIpToMac of IPv6");
    check(memcmp(mac.Addr, "\x33\x33\xff\0\x12\x34", 6) == 0, L"32 bits of it");
    check_status(net->MCastIpToMac(net, FALSE, &none, &mac), EFI_INVALID_PARAMETER, L"MCastIpToMac of a host");
    check_status(net->MCastIpToMac(net, TRUE, &none, &mac), EFI_INVALID_PARAMETER, L"MCastIpToMac of an IPv6 host");
    check_status(net->MCastIpToMac(net, FALSE, NULL, &mac), EFI_INVALID_PARAMETER, L"MCastIpToMac of NULL");
    check_status(net->MCastIpToMac(net, FALSE, &four, NULL), EFI_INVALID_PARAMETER, L"MCastIpToMac to NULL");
    check_status(net->NvData(net, TRUE, 0, 1, received), EFI_UNSUPPORTED, L"NvData");
    if (net->StationAddress(net, TRUE, NULL) == EFI_UNSUPPORTED) {
        skip(L"station addresses", L"they cannot be changed");
    } else {
        check_status(net->StationAddress(net, FALSE, NULL), EFI_INVALID_PARAMETER, L"StationAddress NULL");
        check_status(net->StationAddress(net, FALSE, &other), EFI_SUCCESS, L"StationAddress");
        check(memcmp(net->Mode->CurrentAddress.Addr, other.Addr, 6) == 0, L"the mode has it");
        check_status(net->StationAddress(net, TRUE, NULL), EFI_SUCCESS, L"StationAddress: reset");
        check(memcmp(net->Mode->CurrentAddress.Addr, net->Mode->PermanentAddress.Addr, 6) == 0, L"the mode has it");
    }
    if (net->Statistics(net, TRUE, NULL, NULL) == EFI_UNSUPPORTED) {
        skip(L"statistics", L"nothing is counted");
        return;
    }
    check_status(net->Statistics(net, FALSE, NULL, NULL), EFI_SUCCESS, L"Statistics: nothing");
    check_status(net->Statistics(net, FALSE, NULL, &table), EFI_INVALID_PARAMETER, L"Statistics without a size");
    check_status(net->Statistics(net, FALSE, &size, NULL), EFI_BUFFER_TOO_SMALL, L"Statistics: their size");
    check(size >= 80 && size <= sizeof(table), L"it is one");
    size = sizeof(table);
    check_status(net->Statistics(net, FALSE, &size, &table), EFI_SUCCESS, L"Statistics");
    check_equal(table.TxTotalFrames, 0, L"nothing was sent");
}

static void check_transmit_errors(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    UINT16 protocol = 0x0806;
    void *buffer = frame;
    check_status(net->GetStatus(net, NULL, &buffer), EFI_SUCCESS, L"GetStatus before anything was sent");
    check(buffer == NULL, L"no buffer comes back");
    check_status(net->Transmit(net, 0, 64, NULL, NULL, NULL, NULL), EFI_INVALID_PARAMETER, L"Transmit of NULL");
    check_status(net->Transmit(net, 0, 13, frame, NULL, NULL, NULL), EFI_BUFFER_TOO_SMALL,
                 L"Transmit of less than a header");
    check_status(net->Transmit(net, 0, 1515, frame, NULL, NULL, NULL), EFI_INVALID_PARAMETER, L"Transmit of too much");
    check_status(net->Transmit(net, 13, 64, frame, NULL, &everyone, &protocol), EFI_INVALID_PARAMETER,
                 L"Transmit with a header of 13 bytes");
    check_status(net->Transmit(net, 14, 64, frame, NULL, NULL, &protocol), EFI_INVALID_PARAMETER,
                 L"Transmit with a header without a destination");
    check_status(net->Transmit(net, 14, 64, frame, NULL, &everyone, NULL), EFI_INVALID_PARAMETER,
                 L"Transmit with a header without a protocol");
}

/* Waits up to two seconds. */
static BOOLEAN wait_for_packet(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    for (UINTN i = 0; i < 200; i++) {
        if (!EFI_ERROR(BS->CheckEvent(net->WaitForPacket))) return TRUE;
        BS->Stall(10000);
    }
    return FALSE;
}

/* The same by WaitForEvent, with a timer as the second event. */
static BOOLEAN wait_for_first_packet(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    EFI_EVENT events[2] = { net->WaitForPacket, NULL };
    UINTN index = 1;
    if (EFI_ERROR(BS->CreateEvent(EVT_TIMER, 0, NULL, NULL, &events[1]))) return FALSE;
    BS->SetTimer(events[1], TimerRelative, 20000000);
    EFI_STATUS status = BS->WaitForEvent(2, events, &index);
    BS->CloseEvent(events[1]);
    return status == EFI_SUCCESS && index == 0;
}

/* An ARP request for 10.0.2.2 from 10.0.2.15; the header is left to Transmit. */
static void ask(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    static const UINT8 head[] = { 0, 1, 8, 0, 6, 4, 0, 1 }, from[] = { 10, 0, 2, 15 }, to[] = { 10, 0, 2, 2 };
    UINT16 protocol = 0x0806;
    void *buffer = NULL;
    memset(frame, 0, sizeof(frame));
    memcpy(frame + 14, head, 8);
    memcpy(frame + 22, net->Mode->CurrentAddress.Addr, 6);
    memcpy(frame + 28, from, 4);
    memcpy(frame + 38, to, 4);
    check_status(net->Transmit(net, 14, 60, frame, NULL, &everyone, &protocol), EFI_SUCCESS, L"Transmit");
    check(memcmp(frame, everyone.Addr, 6) == 0 && memcmp(frame + 6, net->Mode->CurrentAddress.Addr, 6) == 0
              && frame[12] == 8 && frame[13] == 6,
          L"it has filled in the header");
    for (UINTN i = 0; i < 100 && buffer == NULL; i++) {
        if (EFI_ERROR(net->GetStatus(net, NULL, &buffer))) break;
        if (buffer == NULL) BS->Stall(10000);
    }
    check(buffer == frame, L"GetStatus gives the buffer back");
    net->GetStatus(net, NULL, &buffer);
    check(buffer == NULL, L"it does so once");
}

static void check_answer(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    UINT32 interrupts = 0;
    UINTN size = 10, header = 0;
    UINT16 protocol = 0;
    EFI_MAC_ADDRESS source, destination;
    ask(net);
    if (!check(wait_for_first_packet(net), L"WaitForEvent sees WaitForPacket signaled")) return;
    net->GetStatus(net, &interrupts, NULL);
    check((interrupts & EFI_SIMPLE_NETWORK_RECEIVE_INTERRUPT) != 0, L"GetStatus tells of a frame");
    check_status(net->Receive(net, NULL, NULL, received, NULL, NULL, NULL), EFI_INVALID_PARAMETER,
                 L"Receive without a size");
    check_status(net->Receive(net, NULL, &size, NULL, NULL, NULL, NULL), EFI_INVALID_PARAMETER, L"Receive to NULL");
    check_status(net->Receive(net, NULL, &size, received, NULL, NULL, NULL), EFI_BUFFER_TOO_SMALL,
                 L"Receive into 10 bytes");
    check(size >= 14 && size <= 1514, L"it tells the frame's size");
    BOOLEAN answered = FALSE;
    do {
        size = sizeof(received);
        EFI_STATUS status = net->Receive(net, &header, &size, received, &source, &destination, &protocol);
        if (EFI_ERROR(status) || protocol != 0x0806 || received[21] != 2) continue;
        answered = TRUE;
        check_equal(header, 14, L"Receive: the header's size");
        check(memcmp(source.Addr, received + 6, 6) == 0, L"Receive: the source");
        check(memcmp(destination.Addr, net->Mode->CurrentAddress.Addr, 6) == 0, L"Receive: the destination");
        check(received[28] == 10 && received[31] == 2, L"10.0.2.2 has answered");
    } while (!answered && wait_for_packet(net));
    check(answered, L"the question was answered");
    for (UINTN i = 0; i < 50; i++) {
        size = sizeof(received);
        if (net->Receive(net, NULL, &size, received, NULL, NULL, NULL) == EFI_NOT_READY) break;
    }
    size = 7;
    check_status(net->Receive(net, NULL, &size, received, NULL, NULL, NULL), EFI_NOT_READY, L"Receive of no more");
    check_equal(size, 7, L"the size is left alone");
    check_status(BS->CheckEvent(net->WaitForPacket), EFI_NOT_READY, L"WaitForPacket is not signaled");
}

static void check_states(EFI_SIMPLE_NETWORK_PROTOCOL *net) {
    /* A firmware's own network stack may have left it in any state. */
    if (net->Mode->State == EfiSimpleNetworkInitialized) net->Shutdown(net);
    if (net->Mode->State == EfiSimpleNetworkStarted) net->Stop(net);
    check_equal(net->Mode->State, EfiSimpleNetworkStopped, L"it is stopped");
    check_equal(net->Revision, 0x10000, L"revision");
    check_status(net->Stop(net), EFI_NOT_STARTED, L"Stop");
    check_status(net->Initialize(net, 0, 0), EFI_NOT_STARTED, L"Initialize");
    check_uninitialized(net, EFI_NOT_STARTED);
    check_status(net->Start(net), EFI_SUCCESS, L"Start");
    check_equal(net->Mode->State, EfiSimpleNetworkStarted, L"it is started");
    check_status(net->Start(net), EFI_ALREADY_STARTED, L"Start again");
    check_uninitialized(net, EFI_DEVICE_ERROR);
    check_status(net->Initialize(net, 0, 0), EFI_SUCCESS, L"Initialize");
    check_equal(net->Mode->State, EfiSimpleNetworkInitialized, L"it is initialized");
    check_status(net->Start(net), EFI_ALREADY_STARTED, L"Start");
    check_either(net->Initialize(net, 0, 0), EFI_DEVICE_ERROR, EFI_NOT_STARTED, L"Initialize again");
    check_either(net->Stop(net), EFI_DEVICE_ERROR, EFI_NOT_STARTED, L"Stop");
    check_mode(net->Mode);
    check_filters(net);
    check_settings(net);
    check_transmit_errors(net);
    if (net->Mode->MediaPresentSupported && !net->Mode->MediaPresent) skip(L"frames", L"there is no network");
    else check_answer(net);
    check_either(net->Reset(net, TRUE), EFI_SUCCESS, EFI_UNSUPPORTED, L"Reset");
    check_equal(net->Mode->State, EfiSimpleNetworkInitialized, L"it stays initialized");
    check_status(net->Shutdown(net), EFI_SUCCESS, L"Shutdown");
    check_equal(net->Mode->State, EfiSimpleNetworkStarted, L"it is started");
    check_status(net->Stop(net), EFI_SUCCESS, L"Stop");
    check_equal(net->Mode->State, EfiSimpleNetworkStopped, L"it is stopped");
}

static UINTN count_networks(void) {
    EFI_HANDLE *handles = NULL;
    UINTN count = 0;
    BS->LocateHandleBuffer(ByProtocol, GUID_OF(EFI_SIMPLE_NETWORK_PROTOCOL_GUID), NULL, &count, &handles);
    if (handles) BS->FreePool(handles);
    return count;
}

/* The firmware's driver leaves its device to whom asks for it, and comes back. */
static void check_driver(EFI_HANDLE device) {
    EFI_GUID *guid = GUID_OF(EFI_PCI_IO_PROTOCOL_GUID);
    UINTN before = count_networks();
    void *pci;
    check_status(BS->DisconnectController(device, NULL, NULL), EFI_SUCCESS, L"DisconnectController of the device");
    check_equal(count_networks(), before - 1, L"the interface is gone");
    check_status(BS->ConnectController(device, NULL, NULL, FALSE), EFI_SUCCESS, L"ConnectController of the device");
    check_equal(count_networks(), before, L"it is back");
    check_status(BS->OpenProtocol(device, guid, &pci, IMAGE, device, EFI_OPEN_PROTOCOL_BY_DRIVER), EFI_ACCESS_DENIED,
                 L"OpenProtocol of its PCI function by driver");
    check_status(BS->OpenProtocol(device, guid, &pci, IMAGE, device,
                                  EFI_OPEN_PROTOCOL_BY_DRIVER | EFI_OPEN_PROTOCOL_EXCLUSIVE),
                 EFI_SUCCESS, L"the same exclusively");
    check_equal(count_networks(), before - 1, L"the interface is gone");
    BS->ConnectController(device, NULL, NULL, FALSE);
    check_equal(count_networks(), before - 1, L"it does not come back while we have the device");
    check_status(BS->CloseProtocol(device, guid, IMAGE, device), EFI_SUCCESS, L"CloseProtocol");
    check_status(BS->ConnectController(device, NULL, NULL, FALSE), EFI_SUCCESS, L"ConnectController");
    check_equal(count_networks(), before, L"it is back");
}

/* Firmware that boots from a disk may leave network devices without their drivers. */
static void connect_network_devices(void) {
    EFI_HANDLE *handles = NULL;
    UINTN count = 0;
    BS->LocateHandleBuffer(ByProtocol, GUID_OF(EFI_PCI_IO_PROTOCOL_GUID), NULL, &count, &handles);
    for (UINTN i = 0; i < count; i++) {
        EFI_PCI_IO_PROTOCOL *pci;
        UINT8 class_code = 0;
        BS->HandleProtocol(handles[i], GUID_OF(EFI_PCI_IO_PROTOCOL_GUID), (void **)&pci);
        pci->Pci.Read(pci, EfiPciIoWidthUint8, 11, 1, &class_code);
        if (class_code == 2) BS->ConnectController(handles[i], NULL, NULL, FALSE);
    }
    if (handles) BS->FreePool(handles);
}

void check_network(void) {
    EFI_HANDLE *handles = NULL, parent;
    EFI_SIMPLE_NETWORK_PROTOCOL *net;
    EFI_GUID *guid = GUID_OF(EFI_SIMPLE_NETWORK_PROTOCOL_GUID);
    UINTN count = 0;
    UINT8 *path = NULL, *rest;
    chapter(L"24.1: the simple network protocol");
    connect_network_devices();
    if (EFI_ERROR(BS->LocateHandleBuffer(ByProtocol, guid, NULL, &count, &handles))) {
        skip(L"networks", L"there is no network device");
        return;
    }
    EFI_HANDLE handle = handles[0];
    BS->FreePool(handles);
    check_status(BS->HandleProtocol(handle, GUID_OF(EFI_DEVICE_PATH_PROTOCOL_GUID), (void **)&path), EFI_SUCCESS,
                 L"it has a device path");
    /* Ends the use of it by the firmware's network stack. */
    if (!check_status(BS->OpenProtocol(handle, guid, (void **)&net, IMAGE, NULL, EFI_OPEN_PROTOCOL_EXCLUSIVE),
                      EFI_SUCCESS, L"OpenProtocol exclusively"))
        return;
    rest = path;
    check_status(BS->LocateDevicePath(GUID_OF(EFI_PCI_IO_PROTOCOL_GUID), (EFI_DEVICE_PATH_PROTOCOL **)&rest, &parent),
                 EFI_SUCCESS, L"it is below a PCI function");
    check(rest[0] == MESSAGING_DEVICE_PATH && rest[1] == 11, L"the rest of its path is a MAC address node");
    check(memcmp(rest + 4, net->Mode->PermanentAddress.Addr, 6) == 0, L"with its address");
    check_equal(rest[36], net->Mode->IfType, L"and its type");
    check_states(net);
    check_status(BS->CloseProtocol(handle, guid, IMAGE, NULL), EFI_SUCCESS, L"CloseProtocol");
    check_driver(parent);
}
