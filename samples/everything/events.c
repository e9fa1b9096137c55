/* everything.efi, 7.1: events and event groups. */
#include "check.h"

static void check_create_errors(void) {
    EFI_EVENT event;
    UINTN count = 0;
    check_status(BS->CreateEvent(0, TPL_CALLBACK, NULL, NULL, NULL), EFI_INVALID_PARAMETER, L"CreateEvent, Event NULL");
    check_status(BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, NULL, NULL, &event), EFI_INVALID_PARAMETER,
                 L"CreateEvent, NOTIFY_SIGNAL without a function");
    check_status(BS->CreateEvent(EVT_NOTIFY_WAIT, TPL_CALLBACK, NULL, NULL, &event), EFI_INVALID_PARAMETER,
                 L"CreateEvent, NOTIFY_WAIT without a function");
    check_status(BS->CreateEvent(EVT_NOTIFY_WAIT | EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &count, &event),
                 EFI_INVALID_PARAMETER, L"CreateEvent, NOTIFY_WAIT and NOTIFY_SIGNAL together");
    check_status(BS->CreateEvent(EVT_NOTIFY_SIGNAL, 0, count_notify, &count, &event), EFI_INVALID_PARAMETER,
                 L"CreateEvent, notification at level 0");
    check_status(BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_HIGH_LEVEL + 1, count_notify, &count, &event),
                 EFI_INVALID_PARAMETER, L"CreateEvent, notification above TPL_HIGH_LEVEL");
    check_status(BS->CreateEvent(0x00000001, TPL_CALLBACK, count_notify, &count, &event), EFI_INVALID_PARAMETER,
                 L"CreateEvent, an unknown bit in Type");
}

static void check_plain_event(void) {
    EFI_EVENT event;
    UINTN index = 99;
    check_status(BS->CreateEvent(0, 0, NULL, NULL, &event), EFI_SUCCESS, L"CreateEvent without a notification");
    check_status(BS->CheckEvent(event), EFI_NOT_READY, L"CheckEvent of a fresh event");
    check_status(BS->SignalEvent(event), EFI_SUCCESS, L"SignalEvent");
    check_status(BS->SignalEvent(event), EFI_SUCCESS, L"SignalEvent of a signalled event");
    check_status(BS->CheckEvent(event), EFI_SUCCESS, L"CheckEvent of a signalled event");
    check_status(BS->CheckEvent(event), EFI_NOT_READY, L"CheckEvent took the signal away");
    BS->SignalEvent(event);
    check_status(BS->WaitForEvent(1, &event, &index), EFI_SUCCESS, L"WaitForEvent of a signalled event");
    check_equal(index, 0, L"WaitForEvent answers its index");
    check_status(BS->CheckEvent(event), EFI_NOT_READY, L"WaitForEvent took the signal away");
    check_status(BS->CloseEvent(event), EFI_SUCCESS, L"CloseEvent");
}

static void check_two_events(void) {
    EFI_EVENT events[3] = { NULL, NULL, NULL };
    UINTN index = 99, count = 0;
    BS->CreateEvent(0, 0, NULL, NULL, &events[0]);
    BS->CreateEvent(0, 0, NULL, NULL, &events[1]);
    BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &count, &events[2]);
    BS->SignalEvent(events[1]);
    check_status(BS->WaitForEvent(2, events, &index), EFI_SUCCESS, L"WaitForEvent of two events");
    check_equal(index, 1, L"WaitForEvent answers the index of the signalled one");
    check_status(BS->WaitForEvent(0, events, &index), EFI_INVALID_PARAMETER, L"WaitForEvent of no events");
    index = 99;
    check_status(BS->WaitForEvent(3, events, &index), EFI_INVALID_PARAMETER, L"WaitForEvent of a NOTIFY_SIGNAL event");
    check_equal(index, 2, L"WaitForEvent answers the index of the wrong one");
    check_status(BS->CheckEvent(events[2]), EFI_INVALID_PARAMETER, L"CheckEvent of a NOTIFY_SIGNAL event");
    for (UINTN i = 0; i < 3; i++) BS->CloseEvent(events[i]);
}

/* A NOTIFY_WAIT event asks its function each time someone checks or waits: this one lets itself be asked thrice. */
static void signal_at_third(EFI_EVENT event, void *context) {
    if (++*(UINTN *)context == 3) BS->SignalEvent(event);
}

static void check_notify_wait(void) {
    EFI_EVENT event;
    UINTN asked = 0, index;
    check_status(BS->CreateEvent(EVT_NOTIFY_WAIT, TPL_CALLBACK, signal_at_third, &asked, &event), EFI_SUCCESS,
                 L"CreateEvent with NOTIFY_WAIT");
    check_status(BS->CheckEvent(event), EFI_NOT_READY, L"CheckEvent of a NOTIFY_WAIT event that is not ready");
    check_equal(asked, 1, L"CheckEvent called the notification function");
    check_status(BS->WaitForEvent(1, &event, &index), EFI_SUCCESS, L"WaitForEvent of a NOTIFY_WAIT event");
    check_equal(asked, 3, L"WaitForEvent called the function until it signalled");
    BS->CloseEvent(event);
}

static void close_itself(EFI_EVENT event, void *context) {
    *(EFI_STATUS *)context = BS->CloseEvent(event);
}

static void check_close_within_notification(void) {
    EFI_EVENT event;
    EFI_STATUS status = EFI_NOT_STARTED;
    BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, close_itself, &status, &event);
    BS->SignalEvent(event);
    check_status(status, EFI_SUCCESS, L"a notification may close its own event");
}

void check_events(void) {
    chapter(L"7.1: events");
    check_create_errors();
    check_plain_event();
    check_two_events();
    check_notify_wait();
    check_close_within_notification();
}

static void check_own_group(void) {
    EFI_GUID *group = GUID_OF(TEST_VENDOR_GUID);
    EFI_EVENT members[2], plain;
    UINTN counts[2] = { 0, 0 };
    check_status(BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &counts[0], group, &members[0]),
                 EFI_SUCCESS, L"CreateEventEx with a group of our own");
    BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_NOTIFY, count_notify, &counts[1], group, &members[1]);
    BS->CreateEvent(0, 0, NULL, NULL, &plain);
    BS->SignalEvent(members[0]);
    check(counts[0] == 1 && counts[1] == 1, L"signalling one member of a group notifies all");
    check_status(BS->CheckEvent(plain), EFI_NOT_READY, L"an event outside the group is not");
    BS->CloseEvent(members[0]);
    BS->SignalEvent(members[1]);
    check(counts[0] == 1 && counts[1] == 2, L"a closed member of a group is not notified");
    BS->CloseEvent(members[1]);
    BS->CloseEvent(plain);
}

static void check_group_errors(void) {
    EFI_EVENT event;
    UINTN count = 0;
    check_status(BS->CreateEventEx(EVT_SIGNAL_EXIT_BOOT_SERVICES, TPL_CALLBACK, count_notify, &count,
                                   GUID_OF(EFI_EVENT_GROUP_EXIT_BOOT_SERVICES), &event),
                 EFI_INVALID_PARAMETER, L"CreateEventEx, SIGNAL_EXIT_BOOT_SERVICES and a group");
    check_status(BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, NULL, NULL, GUID_OF(TEST_VENDOR_GUID), &event),
                 EFI_INVALID_PARAMETER, L"CreateEventEx, NOTIFY_SIGNAL without a function");
    check_status(BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &count, NULL, &event), EFI_SUCCESS,
                 L"CreateEventEx without a group");
    BS->SignalEvent(event);
    check_equal(count, 1, L"an event without a group is notified");
    BS->CloseEvent(event);
}

static void check_memory_map_change(void) {
    EFI_EVENT event;
    UINTN count = 0;
    EFI_PHYSICAL_ADDRESS page;
    BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &count,
                      GUID_OF(EFI_EVENT_GROUP_MEMORY_MAP_CHANGE), &event);
    BS->AllocatePages(AllocateAnyPages, EfiLoaderData, 1, &page);
    check(count > 0, L"AllocatePages signals the group MEMORY_MAP_CHANGE");
    count = 0;
    BS->FreePages(page, 1);
    check(count > 0, L"FreePages signals the group MEMORY_MAP_CHANGE");
    BS->CloseEvent(event);
}

static void check_ready_to_boot(void) {
    EFI_EVENT event;
    UINTN count = 0;
    check_status(BS->CreateEventEx(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, &count,
                                   GUID_OF(EFI_EVENT_GROUP_READY_TO_BOOT), &event),
                 EFI_SUCCESS, L"CreateEventEx with the group READY_TO_BOOT");
    BS->SignalEvent(event);
    check_equal(count, 1, L"a signal to READY_TO_BOOT arrives");
    BS->CloseEvent(event);
}

void check_event_groups(void) {
    chapter(L"7.1.2: event groups");
    check_own_group();
    check_group_errors();
    check_memory_map_change();
    check_ready_to_boot();
}
