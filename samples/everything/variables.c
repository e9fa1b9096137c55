/* everything.efi, 8.2: variables. */
#include "check.h"

#define BS_ACCESS EFI_VARIABLE_BOOTSERVICE_ACCESS
#define BS_RT_ACCESS (EFI_VARIABLE_BOOTSERVICE_ACCESS | EFI_VARIABLE_RUNTIME_ACCESS)
#define NV EFI_VARIABLE_NON_VOLATILE

static EFI_STATUS set(const CHAR16 *name, UINT32 attributes, UINTN size, const void *data) {
    return RT->SetVariable(name, GUID_OF(TEST_VENDOR_GUID), attributes, size, data);
}

static EFI_STATUS get(const CHAR16 *name, UINT32 *attributes, UINTN *size, void *data) {
    return RT->GetVariable(name, GUID_OF(TEST_VENDOR_GUID), attributes, size, data);
}

static void check_life(void) {
    UINT8 data[32] = { 0 };
    UINTN size = sizeof(data);
    UINT32 attributes = 0;
    check_status(get(L"Test", &attributes, &size, data), EFI_NOT_FOUND, L"GetVariable of none");
    check_status(set(L"Test", BS_ACCESS, 4, "abcd"), EFI_SUCCESS, L"SetVariable, volatile");
    size = sizeof(data);
    check_status(get(L"Test", &attributes, &size, data), EFI_SUCCESS, L"GetVariable");
    check_equal(size, 4, L"it answers the size");
    check_equal(attributes, BS_ACCESS, L"it answers the attributes");
    check(memcmp(data, "abcd", 4) == 0, L"it answers the data");
    size = sizeof(data);
    check_status(get(L"Test", NULL, &size, data), EFI_SUCCESS, L"GetVariable without asking for attributes");
    size = sizeof(data);
    check_status(RT->GetVariable(L"test", GUID_OF(TEST_VENDOR_GUID), NULL, &size, data), EFI_NOT_FOUND,
                 L"names differ by upper and lower case");
    size = sizeof(data);
    check_status(RT->GetVariable(L"Test", GUID_OF(NO_SUCH_PROTOCOL_GUID), NULL, &size, data), EFI_NOT_FOUND,
                 L"names belong to their vendor");

    size = 0, attributes = 0;
    check_status(get(L"Test", &attributes, &size, NULL), EFI_BUFFER_TOO_SMALL, L"GetVariable, no room, Data NULL");
    check_equal(size, 4, L"it answers the size needed");
    check_equal(attributes, BS_ACCESS, L"it answers the attributes, too");
    size = 3, data[0] = 'x';
    check_status(get(L"Test", NULL, &size, data), EFI_BUFFER_TOO_SMALL, L"GetVariable, room for 3 of 4 bytes");
    check(size == 4 && data[0] == 'x', L"it answers the size and writes no data");

    check_status(set(L"Test", BS_ACCESS, 6, "longer"), EFI_SUCCESS, L"SetVariable with other data");
    size = sizeof(data);
    get(L"Test", NULL, &size, data);
    check(size == 6 && memcmp(data, "longer", 6) == 0, L"the data are the new ones");
    check_status(set(L"Test", BS_ACCESS | EFI_VARIABLE_APPEND_WRITE, 3, "+++"), EFI_SUCCESS, L"SetVariable, append");
    size = sizeof(data), attributes = 0;
    get(L"Test", &attributes, &size, data);
    check(size == 9 && memcmp(data, "longer+++", 9) == 0, L"the data grew at the end");
    check_equal(attributes, BS_ACCESS, L"APPEND_WRITE is not among the attributes");
    check_status(set(L"Test", BS_ACCESS | EFI_VARIABLE_APPEND_WRITE, 0, NULL), EFI_SUCCESS,
                 L"SetVariable, append nothing");
    size = sizeof(data);
    check_status(get(L"Test", NULL, &size, data), EFI_SUCCESS, L"that does not delete");
    check_status(set(L"Test", NV | BS_ACCESS, 1, "n"), EFI_INVALID_PARAMETER, L"SetVariable with other attributes");
    check_status(set(L"Test", BS_ACCESS, 0, NULL), EFI_SUCCESS, L"SetVariable of no data deletes");
    size = sizeof(data);
    check_status(get(L"Test", NULL, &size, data), EFI_NOT_FOUND, L"the variable is gone");
    check_status(set(L"Test", BS_ACCESS, 0, NULL), EFI_NOT_FOUND, L"deleting it again");
    set(L"Test", NV | BS_RT_ACCESS, 2, "ab");
    check_status(set(L"Test", 0, 0, NULL), EFI_SUCCESS, L"SetVariable with attributes 0 deletes");
    size = sizeof(data);
    check_status(get(L"Test", NULL, &size, data), EFI_NOT_FOUND, L"the variable is gone");
    check_status(set(L"Test", BS_ACCESS | EFI_VARIABLE_APPEND_WRITE, 3, "new"), EFI_SUCCESS,
                 L"appending to none makes one");
    set(L"Test", BS_ACCESS, 0, NULL);
}

static void check_kinds(void) {
    UINT8 data[1024];
    UINTN size = sizeof(data);
    UINT32 attributes = 0;
    memset(data, 0x77, sizeof(data));
    check_status(set(L"Test NV", NV | BS_RT_ACCESS, 1000, data), EFI_SUCCESS, L"SetVariable, non-volatile, 1000 bytes");
    memset(data, 0, sizeof(data));
    check_status(get(L"Test NV", &attributes, &size, data), EFI_SUCCESS, L"GetVariable of it");
    check(size == 1000 && data[999] == 0x77, L"all bytes are there");
    check_equal(attributes, NV | BS_RT_ACCESS, L"its attributes are those that were set");
    set(L"Test NV", NV | BS_RT_ACCESS, 0, NULL);
    check_status(set(L"Test RT", BS_RT_ACCESS, 1, "r"), EFI_SUCCESS, L"SetVariable, volatile, runtime access");
    set(L"Test RT", BS_RT_ACCESS, 0, NULL);
}

static void check_errors(void) {
    UINT8 data[4] = { 0 };
    UINTN size = sizeof(data);
    EFI_GUID *vendor = GUID_OF(TEST_VENDOR_GUID);
    check_status(RT->GetVariable(NULL, vendor, NULL, &size, data), EFI_INVALID_PARAMETER, L"GetVariable, no name");
    check_status(RT->GetVariable(L"Test", NULL, NULL, &size, data), EFI_INVALID_PARAMETER, L"GetVariable, no vendor");
    check_status(RT->GetVariable(L"Test", vendor, NULL, NULL, data), EFI_INVALID_PARAMETER, L"GetVariable, no size");
    set(L"Test", BS_ACCESS, 4, "abcd");
    size = 4;
    check_status(get(L"Test", NULL, &size, NULL), EFI_INVALID_PARAMETER,
                 L"GetVariable, room said to be there, Data NULL");
    set(L"Test", BS_ACCESS, 0, NULL);
    check_status(RT->SetVariable(NULL, vendor, BS_ACCESS, 1, "x"), EFI_INVALID_PARAMETER, L"SetVariable, no name");
    check_status(RT->SetVariable(L"", vendor, BS_ACCESS, 1, "x"), EFI_INVALID_PARAMETER, L"SetVariable, empty name");
    check_status(RT->SetVariable(L"Test", NULL, BS_ACCESS, 1, "x"), EFI_INVALID_PARAMETER, L"SetVariable, no vendor");
    check_status(set(L"Test", BS_ACCESS, 1, NULL), EFI_INVALID_PARAMETER, L"SetVariable, Data NULL");
    check_status(set(L"Test", EFI_VARIABLE_RUNTIME_ACCESS, 1, "x"), EFI_INVALID_PARAMETER,
                 L"SetVariable, RUNTIME_ACCESS without BOOTSERVICE_ACCESS");
    check(EFI_ERROR(set(L"Test", 0x100 | BS_ACCESS, 1, "x")),
          L"SetVariable with an attribute that does not exist fails");
    check(EFI_ERROR(set(L"Test", NV | BS_RT_ACCESS | EFI_VARIABLE_AUTHENTICATED_WRITE_ACCESS, 1, "x")),
          L"SetVariable with AUTHENTICATED_WRITE_ACCESS, which is no more, fails");
    check_status(set(L"Test", NV | BS_RT_ACCESS | EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS, 1, "x"),
                 EFI_SECURITY_VIOLATION, L"SetVariable, time-based authenticated, without a signature");
    check(EFI_ERROR(set(L"Test", BS_ACCESS, 1ULL << 32, data)), L"SetVariable of 4 GiB fails");
    size = sizeof(data);
    check_status(get(L"Test", NULL, &size, data), EFI_NOT_FOUND, L"no refused call left a variable");
}

static void check_query(void) {
    UINT64 storage = 0, remaining = 0, largest = 0, before;
    check_status(RT->QueryVariableInfo(NV | BS_RT_ACCESS, &storage, &remaining, &largest), EFI_SUCCESS,
                 L"QueryVariableInfo, non-volatile");
    check(storage >= remaining && remaining > 0 && largest > 0 && largest <= storage, L"its figures make sense");
    before = remaining;
    UINT8 data[512] = { 1 };
    set(L"Test size", NV | BS_RT_ACCESS, sizeof(data), data);
    RT->QueryVariableInfo(NV | BS_RT_ACCESS, &storage, &remaining, &largest);
    check(remaining + sizeof(data) <= before, L"a variable of 512 bytes takes at least that much away");
    set(L"Test size", NV | BS_RT_ACCESS, 0, NULL);
    check_status(RT->QueryVariableInfo(BS_ACCESS, &storage, &remaining, &largest), EFI_SUCCESS,
                 L"QueryVariableInfo, volatile");
    check_status(RT->QueryVariableInfo(0, &storage, &remaining, &largest), EFI_INVALID_PARAMETER,
                 L"QueryVariableInfo, no attributes");
    check_status(RT->QueryVariableInfo(EFI_VARIABLE_RUNTIME_ACCESS, &storage, &remaining, &largest),
                 EFI_INVALID_PARAMETER, L"QueryVariableInfo, RUNTIME_ACCESS alone");
    check_status(RT->QueryVariableInfo(BS_ACCESS, NULL, &remaining, &largest), EFI_INVALID_PARAMETER,
                 L"QueryVariableInfo with MaximumVariableStorageSize NULL");
}

void check_variables(void) {
    chapter(L"8.2: variables");
    check_life();
    check_kinds();
    check_errors();
    check_query();
}

/* Walks over all; answers how the walk ended and how many of our own two it met. */
static EFI_STATUS walk(UINTN *total, UINTN *ours, BOOLEAN *readable) {
    CHAR16 name[512] = L"";
    EFI_GUID vendor;
    *total = *ours = 0;
    *readable = TRUE;
    for (;; ++*total) {
        UINTN size = sizeof(name), data_size = 0;
        EFI_STATUS status = RT->GetNextVariableName(&size, name, &vendor);
        if (EFI_ERROR(status) || *total > 10000) return status;
        *ours += guid_equal(&vendor, GUID_OF(TEST_VENDOR_GUID));
        *readable &= size == (text_length(name) + 1) * sizeof(CHAR16);
        *readable &= RT->GetVariable(name, &vendor, NULL, &data_size, NULL) == EFI_BUFFER_TOO_SMALL;
    }
}

void check_variable_walk(void) {
    CHAR16 name[64] = L"";
    EFI_GUID vendor = TEST_VENDOR_GUID;
    UINTN size = sizeof(name), total, ours;
    BOOLEAN readable;
    chapter(L"8.2.2: walking over the variables");
    set(L"Walk 1", BS_ACCESS, 1, "1");
    set(L"Walk 2", NV | BS_ACCESS, 1, "2");
    check_status(walk(&total, &ours, &readable), EFI_NOT_FOUND, L"the walk ends with EFI_NOT_FOUND");
    check_equal(ours, 2, L"it meets our two variables once each");
    check(readable, L"each name has its size, and GetVariable knows it");
    set(L"Walk 1", BS_ACCESS, 0, NULL);
    check_status(walk(&total, &ours, &readable), EFI_NOT_FOUND, L"the walk ends again");
    check_equal(ours, 1, L"a deleted variable is not met");
    set(L"Walk 2", NV | BS_ACCESS, 0, NULL);

    size = 2;
    check_status(RT->GetNextVariableName(&size, name, &vendor), EFI_BUFFER_TOO_SMALL, L"room for an empty name only");
    check(size > 2, L"it answers the size needed");
    check_equal(name[0], 0, L"it leaves the name as it was");
    size = sizeof(name);
    check_status(RT->GetNextVariableName(NULL, name, &vendor), EFI_INVALID_PARAMETER, L"GetNextVariableName, no size");
    check_status(RT->GetNextVariableName(&size, NULL, &vendor), EFI_INVALID_PARAMETER, L"GetNextVariableName, no name");
    check_status(RT->GetNextVariableName(&size, name, NULL), EFI_INVALID_PARAMETER, L"GetNextVariableName, no vendor");
    text_copy(name, COUNT_OF(name), L"There is no such variable");
    check_status(RT->GetNextVariableName(&size, name, &vendor), EFI_INVALID_PARAMETER,
                 L"GetNextVariableName after a variable that does not exist");
    memset(name, 0x41, sizeof(name));
    size = sizeof(name);
    check_status(RT->GetNextVariableName(&size, name, &vendor), EFI_INVALID_PARAMETER,
                 L"GetNextVariableName of a name that does not end");
}
