/* everything.efi: the processors of the machine (PI 1.8, volume 2, 13.4). With one processor most of it has no occasion. */
#include "check.h"

#define MOST_PROCESSORS 64
#define SECOND 1000000ULL /* time-outs are in microseconds */
#define END_OF_CPU_LIST 0xffffffffULL
#define CPU_V2_EXTENDED_TOPOLOGY (1ULL << 24)

static EFI_MP_SERVICES_PROTOCOL *services;
static UINTN count, me;

static volatile UINT64 ran, inside, most_inside;
static volatile BOOLEAN may_end;
static volatile UINTN who[MOST_PROCESSORS];
static volatile EFI_STATUS answers[7];

static void add(volatile UINT64 *counter, UINT64 value) { __asm__ volatile("lock addq %1, %0" : "+m"(*counter) : "r"(value)); }

static void wait_a_while(void) {
    for (volatile UINTN tries = 0; tries < 20000; tries++) __asm__ volatile("pause");
}

/* Procedures for the other processors. None of them may call a service but WhoAmI, or print. */

static void count_processor(void *argument) { add((volatile UINT64 *)argument, 1); }

static void note_number(void *argument) {
    UINTN number = MOST_PROCESSORS;
    (void)argument;
    if (services->WhoAmI(services, &number) == EFI_SUCCESS && number < MOST_PROCESSORS) who[number]++;
    add(&ran, 1);
}

static void note_company(void *argument) {
    (void)argument;
    add(&inside, 1);
    if (inside > most_inside) most_inside = inside;
    wait_a_while();
    add(&inside, -1ULL);
    add(&ran, 1);
}

static void wait_for_the_word(void *argument) {
    (void)argument;
    while (!may_end) __asm__ volatile("pause");
    add(&ran, 1);
}

static void call_services(void *argument) {
    UINTN number = 0, enabled = 0;
    EFI_PROCESSOR_INFORMATION info;
    (void)argument;
    answers[0] = services->GetNumberOfProcessors(services, &number, &enabled);
    answers[1] = services->GetProcessorInfo(services, me, &info);
    answers[2] = services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, NULL);
    answers[3] = services->StartupThisAP(services, count_processor, me, NULL, 0, (void *)&ran, NULL);
    answers[4] = services->SwitchBSP(services, me, TRUE);
    answers[5] = services->EnableDisableAP(services, me, FALSE, NULL);
    answers[6] = services->WhoAmI(services, &number);
}

static UINTN first_other(void) { return me == 0 ? 1 : 0; }

static EFI_EVENT plain_event(void) {
    EFI_EVENT event = NULL;
    BS->CreateEvent(0, 0, NULL, NULL, &event);
    return event;
}

static UINT32 flags_of(UINTN number) {
    EFI_PROCESSOR_INFORMATION info;
    memset(&info, 0, sizeof(info));
    return EFI_ERROR(services->GetProcessorInfo(services, number, &info)) ? 0 : info.StatusFlag;
}

static void check_all(void) {
    BOOLEAN flags = TRUE, alone = TRUE, places = TRUE;
    static UINT64 ids[MOST_PROCESSORS];
    for (UINTN number = 0; number < count; number++) {
        EFI_PROCESSOR_INFORMATION info;
        UINT32 wanted = PROCESSOR_ENABLED_BIT | PROCESSOR_HEALTH_STATUS_BIT | (number == me ? PROCESSOR_AS_BSP_BIT : 0);
        flags &= services->GetProcessorInfo(services, number, &info) == EFI_SUCCESS && (info.StatusFlag & 7) == wanted;
        ids[number] = info.ProcessorId;
        for (UINTN other = 0; other < number; other++) alone &= ids[other] != ids[number];
        places &= services->GetProcessorInfo(services, number | CPU_V2_EXTENDED_TOPOLOGY, &info) == EFI_SUCCESS;
    }
    check(flags, L"each processor is enabled and healthy, one of them the boot processor");
    check(alone, L"each has a ProcessorId of its own");
    check(places, L"GetProcessorInfo with CPU_V2_EXTENDED_TOPOLOGY");
}

static void check_blocking(void) {
    BOOLEAN once = TRUE;
    UINTN *failed = (UINTN *)1;
    ran = 0;
    check_status(services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, &failed), EFI_SUCCESS,
                 L"StartupAllAPs, blocking");
    check_equal(ran, count - 1, L"all others have run the procedure when it returns");
    check(failed == NULL, L"FailedCpuList is NULL");
    ran = 0;
    services->StartupAllAPs(services, note_number, FALSE, NULL, 10 * SECOND, NULL, NULL);
    for (UINTN number = 0; number < count; number++) once &= who[number] == (number != me);
    check(once, L"by WhoAmI each of them is another");
    ran = most_inside = 0;
    check_status(services->StartupAllAPs(services, note_company, TRUE, NULL, 0, NULL, NULL), EFI_SUCCESS,
                 L"StartupAllAPs, one after the other");
    check_equal(ran, count - 1, L"all others have run");
    check_equal(most_inside, 1, L"and never two at a time");
}

static void check_one(void) {
    BOOLEAN finished = FALSE;
    ran = 0;
    check_status(services->StartupThisAP(services, count_processor, first_other(), NULL, 0, (void *)&ran, &finished),
                 EFI_SUCCESS, L"StartupThisAP, blocking");
    check_equal(ran, 1, L"it ran the procedure once");
    check(finished, L"Finished is TRUE");
    services->StartupThisAP(services, call_services, first_other(), NULL, 10 * SECOND, NULL, NULL);
    BOOLEAN refused = TRUE;
    for (UINTN i = 0; i < 6; i++) refused &= answers[i] == EFI_DEVICE_ERROR;
    check(refused, L"services called by another than the boot processor: EFI_DEVICE_ERROR");
    check_status(answers[6], EFI_SUCCESS, L"but for WhoAmI");
}

static void check_not_blocking(void) {
    EFI_EVENT event = plain_event();
    UINTN index = 99, *failed = NULL;
    ran = 0;
    may_end = FALSE;
    check_status(services->StartupAllAPs(services, wait_for_the_word, FALSE, event, 0, NULL, &failed), EFI_SUCCESS,
                 L"StartupAllAPs, with an event");
    check_status(BS->CheckEvent(event), EFI_NOT_READY, L"which is not signaled while they run");
    check_status(services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, NULL), EFI_NOT_READY,
                 L"StartupAllAPs when they are busy");
    may_end = TRUE;
    check_status(BS->WaitForEvent(1, &event, &index), EFI_SUCCESS, L"it is signaled when all have finished");
    check_equal(ran, count - 1, L"all others have run");
    check(failed == NULL, L"FailedCpuList stays NULL");

    BOOLEAN finished = TRUE;
    ran = 0;
    may_end = FALSE;
    check_status(services->StartupThisAP(services, wait_for_the_word, first_other(), event, 0, NULL, &finished), EFI_SUCCESS,
                 L"StartupThisAP, with an event");
    check(!finished, L"Finished is FALSE meanwhile");
    BS->Stall(20000);
    check_status(BS->CheckEvent(event), EFI_NOT_READY, L"the event is not signaled either");
    may_end = TRUE;
    BS->WaitForEvent(1, &event, &index);
    check(finished && ran == 1, L"both are, when it has finished");
    BS->CloseEvent(event);
}

/* Whether the list names all processors but the boot processor, and ends. */
static BOOLEAN names_all(const UINTN *failed) {
    UINTN listed = 0;
    if (!failed) return FALSE;
    for (UINTN number = 0; number < count; number++)
        if (number != me && failed[listed++] != number) return FALSE;
    return failed[listed] == END_OF_CPU_LIST;
}

static void check_time_outs(void) {
    EFI_EVENT event = plain_event();
    UINTN index = 99, *failed = NULL;
    BOOLEAN finished = TRUE;
    may_end = FALSE;
    check_status(services->StartupAllAPs(services, wait_for_the_word, FALSE, NULL, SECOND / 10, NULL, &failed), EFI_TIMEOUT,
                 L"StartupAllAPs of a procedure that takes longer than its time");
    check(names_all(failed), L"FailedCpuList names all others, then END_OF_CPU_LIST");
    if (failed) check_status(BS->FreePool(failed), EFI_SUCCESS, L"it is pool memory");
    check_status(services->StartupThisAP(services, wait_for_the_word, first_other(), NULL, SECOND / 10, NULL, &finished),
                 EFI_TIMEOUT, L"StartupThisAP of the same");
    check(!finished, L"Finished is FALSE");
    failed = NULL;
    check_status(services->StartupAllAPs(services, wait_for_the_word, FALSE, event, SECOND / 10, NULL, &failed), EFI_SUCCESS,
                 L"StartupAllAPs of the same, with an event");
    BS->WaitForEvent(1, &event, &index);
    check(names_all(failed), L"FailedCpuList names all others when the event is signaled");
    ran = 0;
    check_status(services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, NULL), EFI_SUCCESS,
                 L"after that they run procedures again");
    check_equal(ran, count - 1, L"all of them");
    BS->CloseEvent(event);
}

static void check_disabled(void) {
    UINTN other = first_other(), all = 0, enabled = 0;
    UINT32 health = 0;
    check_status(services->EnableDisableAP(services, other, FALSE, NULL), EFI_SUCCESS, L"EnableDisableAP, off");
    services->GetNumberOfProcessors(services, &all, &enabled);
    check(all == count && enabled == count - 1, L"one less is enabled");
    check_equal(flags_of(other) & PROCESSOR_ENABLED_BIT, 0, L"GetProcessorInfo says which");
    check_status(services->StartupThisAP(services, count_processor, other, NULL, 0, (void *)&ran, NULL),
                 EFI_INVALID_PARAMETER, L"StartupThisAP of a disabled processor");
    check_status(services->SwitchBSP(services, other, TRUE), EFI_INVALID_PARAMETER, L"SwitchBSP to a disabled processor");
    ran = 0;
    check_status(services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, NULL),
                 count > 2 ? EFI_SUCCESS : EFI_NOT_STARTED, L"StartupAllAPs runs on those that are enabled");
    check_equal(ran, count - 2, L"and on no other");
    check_status(services->EnableDisableAP(services, other, TRUE, &health), EFI_SUCCESS, L"EnableDisableAP, on, unhealthy");
    check_equal(flags_of(other) & 6, PROCESSOR_ENABLED_BIT, L"GetProcessorInfo says that, too");
    health = PROCESSOR_HEALTH_STATUS_BIT;
    services->EnableDisableAP(services, other, TRUE, &health);
    check_equal(flags_of(other) & 6, PROCESSOR_ENABLED_BIT | PROCESSOR_HEALTH_STATUS_BIT, L"and that it is well again");
}

static void check_errors(void) {
    UINT64 unused = 0;
    UINTN enabled;
    check_status(services->GetNumberOfProcessors(services, NULL, &enabled), EFI_INVALID_PARAMETER,
                 L"GetNumberOfProcessors with NumberOfProcessors NULL");
    check_status(services->GetProcessorInfo(services, me, NULL), EFI_INVALID_PARAMETER,
                 L"GetProcessorInfo with ProcessorInfoBuffer NULL");
    check_status(services->StartupThisAP(services, count_processor, count, NULL, 0, &unused, NULL), EFI_NOT_FOUND,
                 L"StartupThisAP of one too many");
    check_status(services->StartupThisAP(services, count_processor, me, NULL, 0, &unused, NULL), EFI_INVALID_PARAMETER,
                 L"StartupThisAP of the boot processor");
    check_either(services->StartupAllAPs(services, NULL, FALSE, NULL, 0, NULL, NULL), EFI_INVALID_PARAMETER,
                 EFI_NOT_STARTED, L"StartupAllAPs without a procedure");
    check_status(services->EnableDisableAP(services, me, FALSE, NULL), EFI_INVALID_PARAMETER,
                 L"EnableDisableAP of the boot processor");
    check_status(services->EnableDisableAP(services, count, FALSE, NULL), EFI_NOT_FOUND,
                 L"EnableDisableAP of one too many");
    check_status(services->SwitchBSP(services, me, TRUE), EFI_INVALID_PARAMETER, L"SwitchBSP to the boot processor");
    check_status(services->SwitchBSP(services, count, TRUE), EFI_NOT_FOUND, L"SwitchBSP to one too many");
    check_status(services->WhoAmI(services, NULL), EFI_INVALID_PARAMETER, L"WhoAmI with ProcessorNumber NULL");
}

void check_processors(void) {
    UINTN enabled = 0;
    struct {
        EFI_PROCESSOR_INFORMATION info;
        UINT64 behind; /* firmware that takes the structure for larger than it is writes here */
    } space;
    services = find_protocol(GUID_OF(EFI_MP_SERVICES_PROTOCOL_GUID));
    me = 99;
    memset(&space, 0x5a, sizeof(space));
    chapter(L"PI, volume 2, 13.4: processors");
    if (!services) {
        skip(L"processors", L"there is no multiprocessor services protocol");
        return;
    }
    check_status(services->GetNumberOfProcessors(services, &count, &enabled), EFI_SUCCESS, L"GetNumberOfProcessors");
    check(count >= 1 && enabled >= 1 && enabled <= count, L"its numbers make sense");
    check_status(services->WhoAmI(services, &me), EFI_SUCCESS, L"WhoAmI");
    check(me < count, L"we are one of the processors");
    check_status(services->GetProcessorInfo(services, me, &space.info), EFI_SUCCESS,
                 L"GetProcessorInfo of ourselves");
    check_equal(space.behind, 0x5a5a5a5a5a5a5a5a, L"it writes 48 bytes and no more");
    check_equal(space.info.StatusFlag & 7, PROCESSOR_AS_BSP_BIT | PROCESSOR_ENABLED_BIT | PROCESSOR_HEALTH_STATUS_BIT,
                L"we are the boot processor, enabled and healthy");
    check_status(services->GetProcessorInfo(services, count, &space.info), EFI_NOT_FOUND,
                 L"GetProcessorInfo of one too many");
    check_errors();
    if (count == 1) {
        check_status(services->StartupAllAPs(services, count_processor, FALSE, NULL, 0, (void *)&ran, NULL),
                     EFI_NOT_STARTED, L"StartupAllAPs when there are none");
        return;
    }
    if (count > MOST_PROCESSORS) {
        skip(L"other processors", L"there are more than this program has room for");
        return;
    }
    check_all();
    check_blocking();
    check_one();
    check_not_blocking();
    check_time_outs();
    check_disabled();
}
