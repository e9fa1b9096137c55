/* everything.efi, 7.1: timer events. Times are generous: a slow or busy host must not fail the checks. */
#include "check.h"

#define MILLISECOND 10000ULL /* the unit of SetTimer is 100 ns */

static UINT64 timer_tpl; /* the level that the last timer notification ran at */

static void count_and_note_level(EFI_EVENT event, void *context) {
    timer_tpl = BS->RaiseTPL(TPL_HIGH_LEVEL);
    BS->RestoreTPL(timer_tpl);
    count_notify(event, context);
}

static EFI_EVENT plain_timer(void) {
    EFI_EVENT event = NULL;
    BS->CreateEvent(EVT_TIMER, 0, NULL, NULL, &event);
    return event;
}

static void check_errors(void) {
    EFI_EVENT event, timer = plain_timer();
    BS->CreateEvent(0, 0, NULL, NULL, &event);
    check_status(BS->SetTimer(event, TimerRelative, MILLISECOND), EFI_INVALID_PARAMETER,
                 L"SetTimer of an event that is no timer");
    check_status(BS->SetTimer(timer, (EFI_TIMER_DELAY)3, MILLISECOND), EFI_INVALID_PARAMETER,
                 L"SetTimer with a wrong Type");
    BS->CloseEvent(event);
    BS->CloseEvent(timer);
}

static void check_wait(void) {
    EFI_EVENT timer = plain_timer();
    UINTN index = 99;
    check_status(BS->CheckEvent(timer), EFI_NOT_READY, L"a timer that is not set");
    check_status(BS->SetTimer(timer, TimerRelative, 300 * MILLISECOND), EFI_SUCCESS, L"SetTimer, relative");
    check_status(BS->CheckEvent(timer), EFI_NOT_READY, L"the timer has not gone off yet");
    check_status(BS->WaitForEvent(1, &timer, &index), EFI_SUCCESS, L"WaitForEvent of the timer");
    BS->Stall(30000);
    check_status(BS->CheckEvent(timer), EFI_NOT_READY, L"a relative timer goes off once");

    BS->SetTimer(timer, TimerRelative, 0);
    check_status(BS->WaitForEvent(1, &timer, &index), EFI_SUCCESS, L"a relative timer of 0 goes off at the next tick");

    BS->SetTimer(timer, TimerPeriodic, 10 * MILLISECOND);
    EFI_STATUS status = EFI_SUCCESS;
    for (UINTN i = 0; i < 3; i++) status |= BS->WaitForEvent(1, &timer, &index);
    check_status(status, EFI_SUCCESS, L"a periodic timer goes off again and again");
    check_status(BS->SetTimer(timer, TimerCancel, 0), EFI_SUCCESS, L"SetTimer, cancel");
    BS->CheckEvent(timer);
    BS->Stall(30000);
    check_status(BS->CheckEvent(timer), EFI_NOT_READY, L"a cancelled timer is silent");

    BS->SetTimer(timer, TimerRelative, 10 * MILLISECOND);
    BS->SetTimer(timer, TimerRelative, 1000000 * MILLISECOND);
    BS->Stall(30000);
    check_status(BS->CheckEvent(timer), EFI_NOT_READY, L"a new time replaces the old one");
    check_status(BS->CloseEvent(timer), EFI_SUCCESS, L"CloseEvent of a running timer");
}

static void check_polling(void) {
    EFI_EVENT timer = plain_timer();
    EFI_STATUS status = EFI_NOT_READY;
    BS->SetTimer(timer, TimerRelative, 20 * MILLISECOND);
    for (UINTN tries = 0; tries < 100000000 && status == EFI_NOT_READY; tries++) status = BS->CheckEvent(timer);
    check_status(status, EFI_SUCCESS, L"polling by CheckEvent sees the timer go off");
    BS->CloseEvent(timer);
}

/* Waits for notifications. Reading a port makes time pass even where an emulator's clock counts such events only. */
static BOOLEAN spin_until(volatile UINTN *count, UINTN wanted) {
    for (UINTN tries = 0; tries < 20000000 && *count < wanted; tries++) in8(0x80);
    return *count >= wanted;
}

/* The same with nothing at all that the firmware could notice: only an interrupt gets in. */
static void check_busy_program(void) {
    const CHAR16 *what = L"a timer interrupts a program that calls nothing";
    EFI_EVENT timer;
    volatile UINTN count = 0;
    if (has_option(L"virtual")) {
        skip(what, L"the clock is virtual");
        return;
    }
    BS->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, TPL_CALLBACK, count_notify, (void *)&count, &timer);
    BS->SetTimer(timer, TimerRelative, 10 * MILLISECOND);
    for (UINTN tries = 0; tries < 20000000 && !count; tries++) __asm__ volatile("pause");
    check_equal(count, 1, what);
    BS->CloseEvent(timer);
}

static void check_notification(EFI_TPL level, const CHAR16 *what, const CHAR16 *at_level) {
    EFI_EVENT timer;
    volatile UINTN count = 0;
    BS->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, level, count_and_note_level, (void *)&count, &timer);
    BS->SetTimer(timer, TimerPeriodic, 10 * MILLISECOND);
    check(spin_until(&count, 3), what);
    check_equal(timer_tpl, level, at_level);

    BS->RaiseTPL(level);
    UINTN before = count;
    BS->Stall(50000);
    UINTN during = count;
    BS->RestoreTPL(TPL_APPLICATION);
    BOOLEAN arrived = spin_until(&count, before + 1);
    check(during == before && arrived, L"a timer that goes off at a raised level is notified after RestoreTPL");

    BS->SetTimer(timer, TimerCancel, 0);
    before = count;
    BS->Stall(30000);
    check_equal(count, before, L"a cancelled timer notifies no more");
    BS->CloseEvent(timer);
}

static void check_order(void) {
    EFI_EVENT late = plain_timer(), soon = plain_timer();
    EFI_EVENT both[2] = { late, soon };
    UINTN index = 99;
    BS->SetTimer(late, TimerRelative, 600 * MILLISECOND);
    BS->SetTimer(soon, TimerRelative, 20 * MILLISECOND);
    BS->WaitForEvent(2, both, &index);
    check_equal(index, 1, L"of two timers the sooner goes off first");
    BS->WaitForEvent(2, both, &index);
    check_equal(index, 0, L"and then the later one");
    BS->CloseEvent(late);
    BS->CloseEvent(soon);
}

/* A timer of half a second against Stall: neither may be off by more than a factor that a busy host explains. */
static void check_duration(void) {
    EFI_EVENT timer = plain_timer();
    BS->SetTimer(timer, TimerRelative, 500 * MILLISECOND);
    BS->Stall(20000);
    check_status(BS->CheckEvent(timer), EFI_NOT_READY, L"500 ms are not over after Stall of 20 ms");
    BS->Stall(600000);
    check_status(BS->CheckEvent(timer), EFI_SUCCESS, L"500 ms are over after Stall of 620 ms");
    BS->CloseEvent(timer);
}

void check_timers(void) {
    chapter(L"7.1.6: timers");
    check_errors();
    check_wait();
    check_polling();
    check_busy_program();
    check_notification(TPL_CALLBACK, L"a periodic timer is notified at TPL_CALLBACK again and again",
                       L"the timer notification ran at TPL_CALLBACK");
    check_notification(TPL_NOTIFY, L"a periodic timer is notified at TPL_NOTIFY again and again",
                       L"the timer notification ran at TPL_NOTIFY");
    check_order();
    check_duration();
}
