/* everything.efi, chapter 12: text consoles. */
#include "check.h"

typedef struct {
    INT32 column, row, attribute;
    BOOLEAN visible;
} STATE;

static STATE state(void) {
    SIMPLE_TEXT_OUTPUT_MODE *mode = ST->ConOut->Mode;
    STATE now = { mode->CursorColumn, mode->CursorRow, mode->Attribute, mode->CursorVisible };
    return now;
}

static BOOLEAN at(STATE now, INT32 column, INT32 row) { return now.column == column && now.row == row; }

/* Where the cursor is after `text` was printed from the given place. */
static STATE after(INT32 column, INT32 row, const CHAR16 *text) {
    ST->ConOut->SetCursorPosition(ST->ConOut, column, row);
    ST->ConOut->OutputString(ST->ConOut, text);
    return state();
}

static void check_modes(void) {
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *out = ST->ConOut;
    UINTN columns = 0, rows = 0;
    INT32 mode = out->Mode->Mode, count = out->Mode->MaxMode;
    check(count >= 1 && mode >= 0 && mode < count, L"the console is in one of its modes");
    check_status(out->QueryMode(out, 0, &columns, &rows), EFI_SUCCESS, L"QueryMode of mode 0");
    check(columns == 80 && rows == 25, L"mode 0 has 80 columns and 25 rows");
    check_status(out->QueryMode(out, count, &columns, &rows), EFI_UNSUPPORTED, L"QueryMode of a mode too many");
    check_status(out->SetMode(out, count), EFI_UNSUPPORTED, L"SetMode of a mode too many");
    check_equal(out->Mode->Mode, mode, L"the mode stays");
    if (count == 1) {
        check_status(out->SetMode(out, 0), EFI_SUCCESS, L"SetMode of mode 0");
        skip(L"SetMode of another mode", L"there is but one mode");
        return;
    }
    INT32 another = mode == 0 ? count - 1 : 0; /* mode 1 may be missing among more modes */
    EFI_STATUS status = out->SetMode(out, another);
    STATE now = state();
    INT32 mode_now = out->Mode->Mode;
    out->SetMode(out, mode);
    check_status(status, EFI_SUCCESS, L"SetMode of another mode");
    check_equal(mode_now, another, L"the mode is that other one");
    check(at(now, 0, 0), L"SetMode puts the cursor at the upper left");
}

static void check_cursor(void) {
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *out = ST->ConOut;
    UINTN columns = 80, rows = 25;
    out->QueryMode(out, out->Mode->Mode, &columns, &rows);
    EFI_STATUS cleared = out->ClearScreen(out);
    STATE clear = state();
    EFI_STATUS set = out->SetCursorPosition(out, 10, 5), beyond = out->SetCursorPosition(out, columns, 0);
    EFI_STATUS below = out->SetCursorPosition(out, 0, rows);
    STATE there = state();
    STATE text = after(3, 2, L"abc"), newline = after(3, 2, L"\n"), home = after(3, 2, L"\r");
    STATE back = after(3, 2, L"\b"), stop = after(0, 2, L"\b");
    STATE wrapped = after((INT32)columns - 2, 2, L"abc");
    STATE scrolled = after(5, (INT32)rows - 1, L"\n");
    STATE both = after(7, 3, L"\r\nx");
    out->ClearScreen(out);
    out->OutputString(out, L"\r\n");
    check_status(cleared, EFI_SUCCESS, L"ClearScreen");
    check(at(clear, 0, 0), L"it puts the cursor at the upper left");
    check_status(set, EFI_SUCCESS, L"SetCursorPosition");
    check_status(beyond, EFI_UNSUPPORTED, L"SetCursorPosition right of the screen");
    check_status(below, EFI_UNSUPPORTED, L"SetCursorPosition below the screen");
    check(at(there, 10, 5), L"the mode has the cursor's position");
    check(at(text, 6, 2), L"text moves the cursor right");
    check(at(newline, 3, 3), L"line feed moves it down only");
    check(at(home, 0, 2), L"carriage return moves it to the left edge");
    check(at(back, 2, 2), L"backspace moves it left");
    check(at(stop, 0, 2) || stop.row == 1, L"backspace at the left edge stays on the screen");
    check(at(wrapped, 1, 3), L"text wraps at the right edge");
    check(at(scrolled, 5, (INT32)rows - 1), L"line feed in the last row scrolls");
    check(at(both, 1, 4), L"carriage return and line feed begin a new line");
}

static void check_attributes(void) {
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *out = ST->ConOut;
    INT32 before = out->Mode->Attribute;
    EFI_STATUS status = out->SetAttribute(out, EFI_YELLOW | EFI_BLUE << 4), wrong = out->SetAttribute(out, 0x100);
    STATE now = state();
    out->SetAttribute(out, before);
    check_status(status, EFI_SUCCESS, L"SetAttribute");
    check_equal(now.attribute, EFI_YELLOW | EFI_BLUE << 4, L"the mode has the attribute");
    check_status(wrong, EFI_UNSUPPORTED, L"SetAttribute of 0x100");
    check_equal(out->Mode->Attribute, before, L"the attribute can be put back");
    BOOLEAN visible = out->Mode->CursorVisible;
    out->EnableCursor(out, FALSE);
    now = state();
    out->EnableCursor(out, TRUE);
    STATE then = state();
    out->EnableCursor(out, visible);
    check(!now.visible && then.visible, L"EnableCursor hides and shows the cursor");
}

static void check_strings(void) {
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *out = ST->ConOut;
    check_status(out->TestString(out, L"plain text"), EFI_SUCCESS, L"TestString of plain text");
    check_status(out->OutputString(out, L""), EFI_SUCCESS, L"OutputString of nothing");
    check_status(ST->StdErr->OutputString(ST->StdErr, L""), EFI_SUCCESS, L"OutputString of StdErr");
    check_either(out->OutputString(out, L"# \x2502 \x2500 \x2588 \x25ba\r\n"), EFI_SUCCESS, EFI_WARN_UNKNOWN_GLYPH,
                 L"OutputString of box drawing, blocks and arrows");
}

void check_console(void) {
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *out = ST->ConOut;
    EFI_STATUS status = out->Reset(out, FALSE);
    STATE now = state();
    chapter(L"12.4: text output");
    check_status(status, EFI_SUCCESS, L"Reset of the console");
    check(at(now, 0, 0), L"it puts the cursor at the upper left");
    check_modes();
    check_cursor();
    check_attributes();
    check_strings();
}

static EFI_STATUS key_notify(EFI_KEY_DATA *key) {
    (void)key;
    return EFI_SUCCESS;
}

static void check_input_ex(void) {
    EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL *in = NULL;
    EFI_KEY_DATA key = { { 0x17, 0 }, { 0, 0 } };
    void *notify = NULL;
    EFI_GUID *guid = GUID_OF(EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL_GUID);
    if (EFI_ERROR(BS->HandleProtocol(ST->ConsoleInHandle, guid, (void **)&in))) {
        skip(L"simple text input ex", L"the console's handle does not have it");
        return;
    }
    check_status(in->Reset(in, FALSE), EFI_SUCCESS, L"Reset of input ex");
    EFI_KEY_DATA nothing;
    check_status(in->ReadKeyStrokeEx(in, &nothing), EFI_NOT_READY, L"ReadKeyStrokeEx when no key was pressed");
    check_status(in->ReadKeyStrokeEx(in, NULL), EFI_INVALID_PARAMETER, L"ReadKeyStrokeEx with KeyData NULL");
    check_status(BS->CheckEvent(in->WaitForKeyEx), EFI_NOT_READY, L"WaitForKeyEx is not signalled");
    UINT8 toggles = EFI_TOGGLE_STATE_VALID;
    check_either(in->SetState(in, &toggles), EFI_SUCCESS, EFI_UNSUPPORTED, L"SetState");
    check_status(in->SetState(in, NULL), EFI_INVALID_PARAMETER, L"SetState with KeyToggleState NULL");
    check_status(in->RegisterKeyNotify(in, &key, key_notify, &notify), EFI_SUCCESS, L"RegisterKeyNotify");
    check_status(in->RegisterKeyNotify(in, NULL, key_notify, &notify), EFI_INVALID_PARAMETER,
                 L"RegisterKeyNotify with KeyData NULL");
    check_status(in->RegisterKeyNotify(in, &key, NULL, &notify), EFI_INVALID_PARAMETER,
                 L"RegisterKeyNotify without a function");
    check_status(in->UnregisterKeyNotify(in, notify), EFI_SUCCESS, L"UnregisterKeyNotify");
    check_status(in->UnregisterKeyNotify(in, notify), EFI_INVALID_PARAMETER, L"UnregisterKeyNotify twice");
    check_status(in->UnregisterKeyNotify(in, NULL), EFI_INVALID_PARAMETER, L"UnregisterKeyNotify of NULL");
}

void check_console_input(void) {
    EFI_SIMPLE_TEXT_INPUT_PROTOCOL *in = ST->ConIn;
    EFI_INPUT_KEY key;
    EFI_EVENT events[2];
    UINTN index = 99;
    chapter(L"12.3: text input");
    check_status(in->Reset(in, FALSE), EFI_SUCCESS, L"Reset of the input");
    check_status(in->ReadKeyStroke(in, &key), EFI_NOT_READY, L"ReadKeyStroke when no key was pressed");
    check_status(BS->CheckEvent(in->WaitForKey), EFI_NOT_READY, L"WaitForKey is not signalled");
    events[0] = in->WaitForKey;
    BS->CreateEvent(EVT_TIMER, 0, NULL, NULL, &events[1]);
    BS->SetTimer(events[1], TimerRelative, 500000);
    check_status(BS->WaitForEvent(2, events, &index), EFI_SUCCESS, L"waiting for a key or 50 ms");
    check_equal(index, 1, L"the timer ends it");
    BS->CloseEvent(events[1]);
    check_input_ex();
}
