/* everything.efi, 7.1: task priority levels. A notification runs only while the current level is below its own. */
#include "check.h"

/* Who was notified, in which order, and at which level it ran. */
typedef struct {
    UINT8 mark;
    EFI_TPL level;
} NOTE;
static NOTE notes[16];
static volatile UINTN note_count;

static EFI_TPL current_tpl(void) {
    EFI_TPL level = BS->RaiseTPL(TPL_HIGH_LEVEL);
    BS->RestoreTPL(level);
    return level;
}

static void note(EFI_EVENT event, void *context) {
    (void)event;
    if (note_count < COUNT_OF(notes)) notes[note_count] = (NOTE){ (UINT8)(UINTN)context, current_tpl() };
    note_count++;
}

static EFI_EVENT noting_event(EFI_TPL level, char mark) {
    EFI_EVENT event = NULL;
    BS->CreateEvent(EVT_NOTIFY_SIGNAL, level, note, (void *)(UINTN)mark, &event);
    return event;
}

static EFI_EVENT other; /* signalled from within a notification */

static void note_and_signal_other(EFI_EVENT event, void *context) {
    note(event, context);
    BS->SignalEvent(other);
    note(event, (void *)(UINTN)'e');
}

static void check_levels(void) {
    check_equal(current_tpl(), TPL_APPLICATION, L"an application runs at TPL_APPLICATION");
    check_equal(BS->RaiseTPL(TPL_CALLBACK), TPL_APPLICATION, L"RaiseTPL answers the level before");
    check_equal(BS->RaiseTPL(TPL_CALLBACK), TPL_CALLBACK, L"RaiseTPL to the level that it is already");
    check_equal(BS->RaiseTPL(TPL_NOTIFY), TPL_CALLBACK, L"RaiseTPL again");
    BS->RestoreTPL(TPL_CALLBACK);
    check_equal(current_tpl(), TPL_CALLBACK, L"RestoreTPL one level down");
    BS->RestoreTPL(TPL_APPLICATION);
    check_equal(current_tpl(), TPL_APPLICATION, L"RestoreTPL to where we began");
}

/* RaiseTPL(TPL_HIGH_LEVEL) shuts interrupts off, RestoreTPL opens them again. */
static BOOLEAN interrupts_on(void) {
    UINT64 flags;
    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    return (flags & 0x200) != 0;
}

static void check_interrupt_flag(void) {
    check(interrupts_on(), L"interrupts are on at TPL_APPLICATION");
    BS->RaiseTPL(TPL_HIGH_LEVEL);
    BOOLEAN on = interrupts_on();
    BS->RestoreTPL(TPL_APPLICATION);
    check(!on, L"interrupts are off at TPL_HIGH_LEVEL");
    check(interrupts_on(), L"interrupts are on again after RestoreTPL");
}

static void check_deferral(void) {
    EFI_EVENT low = noting_event(TPL_CALLBACK, 'c'), high = noting_event(TPL_NOTIFY, 'n');
    note_count = 0;
    BS->SignalEvent(low);
    check(note_count == 1 && notes[0].mark == 'c', L"at TPL_APPLICATION SignalEvent notifies before it returns");
    check_equal(notes[0].level, TPL_CALLBACK, L"the notification ran at TPL_CALLBACK");

    note_count = 0;
    BS->RaiseTPL(TPL_CALLBACK);
    BS->SignalEvent(low);
    UINTN deferred = note_count;
    BS->SignalEvent(high);
    UINTN notified = note_count;
    BS->RestoreTPL(TPL_APPLICATION);
    check_equal(deferred, 0, L"at TPL_CALLBACK a notification of TPL_CALLBACK waits");
    check(notified == 1 && notes[0].mark == 'n', L"at TPL_CALLBACK a notification of TPL_NOTIFY runs at once");
    check(note_count == 2 && notes[1].mark == 'c', L"RestoreTPL runs the waiting notification");

    note_count = 0;
    BS->RaiseTPL(TPL_NOTIFY);
    BS->SignalEvent(low);
    BS->SignalEvent(high);
    BS->RestoreTPL(TPL_CALLBACK);
    deferred = note_count;
    BS->RestoreTPL(TPL_APPLICATION);
    check(deferred == 1 && notes[0].mark == 'n' && notes[0].level == TPL_NOTIFY,
          L"RestoreTPL to TPL_CALLBACK runs only what is above it");
    check(note_count == 2 && notes[1].mark == 'c' && notes[1].level == TPL_CALLBACK,
          L"RestoreTPL to TPL_APPLICATION runs the rest");
    BS->CloseEvent(low);
    BS->CloseEvent(high);
}

static void check_order(void) {
    EFI_EVENT first = noting_event(TPL_CALLBACK, '1'), second = noting_event(TPL_CALLBACK, '2');
    EFI_EVENT urgent = noting_event(TPL_NOTIFY, 'u');
    note_count = 0;
    BS->RaiseTPL(TPL_HIGH_LEVEL);
    BS->SignalEvent(second);
    BS->SignalEvent(first);
    BS->SignalEvent(second);
    BS->SignalEvent(urgent);
    BS->RestoreTPL(TPL_APPLICATION);
    check(note_count >= 1 && notes[0].mark == 'u', L"the highest level is notified first");
    check(note_count >= 3 && notes[1].mark == '2' && notes[2].mark == '1',
          L"one level is notified in the order of signals");
    check_equal(note_count, 3, L"an event that is signalled twice while it waits is notified once");

    note_count = 0;
    BS->RaiseTPL(TPL_NOTIFY);
    BS->SignalEvent(first);
    BS->CloseEvent(first);
    BS->RestoreTPL(TPL_APPLICATION);
    check_equal(note_count, 0, L"an event that is closed while it waits is not notified");
    BS->CloseEvent(second);
    BS->CloseEvent(urgent);
}

static void check_nesting(void) {
    EFI_EVENT outer;
    BS->CreateEvent(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, note_and_signal_other, (void *)(UINTN)'b', &outer);
    other = noting_event(TPL_NOTIFY, 'o');
    note_count = 0;
    BS->SignalEvent(outer);
    check(note_count == 3 && notes[1].mark == 'o' && notes[2].mark == 'e',
          L"a higher notification runs within a lower one");
    BS->CloseEvent(other);

    other = noting_event(TPL_CALLBACK, 'o');
    note_count = 0;
    BS->SignalEvent(outer);
    check(note_count == 3 && notes[1].mark == 'e' && notes[2].mark == 'o',
          L"a notification of the same level runs after it");
    BS->CloseEvent(other);
    BS->CloseEvent(outer);
}

static void check_services_at_levels(void) {
    EFI_EVENT event;
    UINTN index;
    BS->CreateEvent(0, 0, NULL, NULL, &event);
    BS->SignalEvent(event);
    BS->RaiseTPL(TPL_CALLBACK);
    EFI_STATUS status = BS->WaitForEvent(1, &event, &index);
    BS->RestoreTPL(TPL_APPLICATION);
    check_status(status, EFI_UNSUPPORTED, L"WaitForEvent above TPL_APPLICATION");
    check_status(BS->CheckEvent(event), EFI_SUCCESS, L"the refused WaitForEvent left the event signalled");
    BS->CloseEvent(event);

    void *pool = NULL;
    BS->RaiseTPL(TPL_NOTIFY);
    status = BS->AllocatePool(EfiBootServicesData, 100, &pool);
    EFI_STATUS freed = BS->FreePool(pool);
    BS->RestoreTPL(TPL_APPLICATION);
    check(status == EFI_SUCCESS && freed == EFI_SUCCESS, L"AllocatePool and FreePool work at TPL_NOTIFY");
}

void check_tpl(void) {
    chapter(L"7.1: task priority levels");
    check_levels();
    check_interrupt_flag();
    check_deferral();
    check_order();
    check_nesting();
    check_services_at_levels();
}
