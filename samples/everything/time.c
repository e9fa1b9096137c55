/* everything.efi, 8.3, 8.5 and 7.5: time of day, wake-up, monotonic count, Stall, watchdog, capsules. */
#include "check.h"

static BOOLEAN sensible(EFI_TIME *time) {
    static const UINT8 days[] = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    return time->Year >= 1998 && time->Year <= 2099 && time->Month >= 1 && time->Month <= 12 && time->Day >= 1 &&
           time->Day <= days[time->Month - 1] && time->Hour < 24 && time->Minute < 60 && time->Second < 60 &&
           time->Nanosecond < 1000000000 &&
           ((time->TimeZone >= -1440 && time->TimeZone <= 1440) || time->TimeZone == 0x7ff);
}

/* Seconds of the month, enough to compare two moments that lie close together. */
static INT64 seconds(EFI_TIME *time) {
    return ((time->Day * 24LL + time->Hour) * 60 + time->Minute) * 60 + time->Second;
}

static void check_passing(void) {
    EFI_TIME before, after;
    RT->GetTime(&before, NULL);
    BS->Stall(2100000);
    RT->GetTime(&after, NULL);
    INT64 passed = seconds(&after) - seconds(&before);
    check(passed >= 2 || passed < 0, L"the time of day went on by 2 seconds during Stall of 2.1 seconds");
    check(passed < 60, L"and not by much more"); /* at the end of a month the difference is negative */
}

static void check_set_time(void) {
    EFI_TIME now, wrong, again;
    RT->GetTime(&now, NULL);
    wrong = now, wrong.Month = 13;
    check_status(RT->SetTime(&wrong), EFI_INVALID_PARAMETER, L"SetTime, month 13");
    wrong = now, wrong.Month = 2, wrong.Day = 30;
    check_status(RT->SetTime(&wrong), EFI_INVALID_PARAMETER, L"SetTime, 30 February");
    wrong = now, wrong.Hour = 24;
    check_status(RT->SetTime(&wrong), EFI_INVALID_PARAMETER, L"SetTime, hour 24");
    wrong = now, wrong.TimeZone = 1441;
    check_status(RT->SetTime(&wrong), EFI_INVALID_PARAMETER, L"SetTime, a time zone beyond 24 hours");
    check_status(RT->SetTime(NULL), EFI_INVALID_PARAMETER, L"SetTime with Time NULL");
    RT->GetTime(&now, NULL);
    EFI_STATUS status = RT->SetTime(&now);
    RT->GetTime(&again, NULL);
    if (status == EFI_UNSUPPORTED) {
        skip(L"SetTime", L"the clock cannot be set");
        return;
    }
    check_status(status, EFI_SUCCESS, L"SetTime to what it is");
    INT64 passed = seconds(&again) - seconds(&now);
    check(passed >= 0 && passed < 10, L"the time is what was set");
    check_equal((UINT16)again.TimeZone, (UINT16)now.TimeZone, L"the time zone, too");
}

void check_time(void) {
    EFI_TIME time;
    EFI_TIME_CAPABILITIES capabilities = { 0, 0, 2 };
    BOOLEAN enabled, pending;
    chapter(L"8.3: time of day");
    check_status(RT->GetTime(&time, &capabilities), EFI_SUCCESS, L"GetTime");
    check(sensible(&time), L"its time is one that a calendar and a clock can show");
    check(capabilities.Resolution >= 1, L"the clock ticks at least once a second");
    check(capabilities.SetsToZero <= 1, L"SetsToZero is TRUE or FALSE");
    check_status(RT->GetTime(NULL, NULL), EFI_INVALID_PARAMETER, L"GetTime with Time NULL");
    check_passing();
    check_set_time();
    check_either(RT->GetWakeupTime(&enabled, &pending, &time), EFI_SUCCESS, EFI_UNSUPPORTED, L"GetWakeupTime");
    check_either(RT->GetWakeupTime(NULL, &pending, &time), EFI_INVALID_PARAMETER, EFI_UNSUPPORTED,
                 L"GetWakeupTime with Enabled NULL");
    check_either(RT->SetWakeupTime(FALSE, NULL), EFI_SUCCESS, EFI_UNSUPPORTED, L"SetWakeupTime, switched off");
}

void check_misc(void) {
    UINT64 count = 0, next = 0, largest;
    UINT32 high = 0;
    EFI_CAPSULE_HEADER **capsules = NULL;
    EFI_RESET_TYPE reset;
    chapter(L"7.5 and 8.5: miscellaneous services");
    check_status(BS->GetNextMonotonicCount(&count), EFI_SUCCESS, L"GetNextMonotonicCount");
    BS->GetNextMonotonicCount(&next);
    check_equal(next, count + 1, L"the next is one more");
    check_status(BS->GetNextMonotonicCount(NULL), EFI_INVALID_PARAMETER, L"GetNextMonotonicCount with Count NULL");
    check_status(RT->GetNextHighMonotonicCount(&high), EFI_SUCCESS, L"GetNextHighMonotonicCount");
    check_equal(high, (count >> 32) + 1, L"the high half is one more");
    BS->GetNextMonotonicCount(&next);
    check_equal(next >> 32, high, L"the whole count goes on with it");
    check_status(RT->GetNextHighMonotonicCount(NULL), EFI_INVALID_PARAMETER,
                 L"GetNextHighMonotonicCount with HighCount NULL");
    check_status(BS->Stall(0), EFI_SUCCESS, L"Stall of 0");
    check_status(BS->Stall(1000), EFI_SUCCESS, L"Stall of 1 ms");
    check_status(BS->SetWatchdogTimer(300, 0x10000, 0, NULL), EFI_SUCCESS, L"SetWatchdogTimer of 5 minutes");
    check_status(BS->SetWatchdogTimer(0, 0x10000, 0, NULL), EFI_SUCCESS, L"SetWatchdogTimer, switched off");
    check_either(RT->UpdateCapsule(capsules, 0, 0), EFI_INVALID_PARAMETER, EFI_UNSUPPORTED, L"UpdateCapsule of none");
    check_either(RT->QueryCapsuleCapabilities(capsules, 0, &largest, &reset), EFI_INVALID_PARAMETER, EFI_UNSUPPORTED,
                 L"QueryCapsuleCapabilities of none");
    void *interface;
    check_status(BS->LocateProtocol(GUID_OF(NO_SUCH_PROTOCOL_GUID), NULL, &interface), EFI_NOT_FOUND,
                 L"LocateProtocol of a protocol that nobody has");
    check_status(BS->HandleProtocol(LOADED->DeviceHandle, GUID_OF(EFI_LOAD_FILE2_PROTOCOL_GUID), &interface),
                 EFI_UNSUPPORTED, L"our device has no load file 2");
    EFI_TIMESTAMP_PROTOCOL *timestamp = find_protocol(GUID_OF(EFI_TIMESTAMP_PROTOCOL_GUID));
    EFI_TIMESTAMP_PROPERTIES properties = { 0, 0 };
    if (!timestamp) {
        skip(L"timestamps", L"there is no timestamp protocol");
        return;
    }
    check_status(timestamp->GetProperties(&properties), EFI_SUCCESS, L"GetProperties of timestamps");
    check(properties.Frequency > 0 && properties.EndValue > 0, L"they have a frequency and an end");
    check_status(timestamp->GetProperties(NULL), EFI_INVALID_PARAMETER, L"GetProperties with Properties NULL");
    UINT64 first = timestamp->GetTimestamp();
    BS->Stall(1000);
    check(timestamp->GetTimestamp() != first, L"timestamps go on");
}
