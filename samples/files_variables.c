/* files_variables.efi: the console, files and variables, as a program uses them.
 *
 * It lists the root of the file system that it was loaded from, makes a file and takes it through its life, reads its
 * own image, does the same with a variable, and last asks for a line on the console.
 *
 * Load options:   noinput   does not ask for a line
 */
#include "sample.h"

/* Tells of one step, and remembers whether any failed. */
static EFI_STATUS first_error = EFI_SUCCESS;

static BOOLEAN step(const CHAR16 *what, EFI_STATUS status) {
    BOOLEAN good = status == EFI_SUCCESS;
    ST->ConOut->SetAttribute(ST->ConOut, good ? EFI_LIGHTGREEN : EFI_LIGHTRED);
    print(good ? L"  done   " : L"  FAILED ");
    ST->ConOut->SetAttribute(ST->ConOut, EFI_LIGHTGRAY);
    print(good ? L"%s\n" : L"%s: %r\n", what, status);
    if (!good && first_error == EFI_SUCCESS) first_error = status;
    return good;
}

static void heading(const CHAR16 *text) {
    ST->ConOut->SetAttribute(ST->ConOut, EFI_YELLOW);
    print(L"%s\n", text);
    ST->ConOut->SetAttribute(ST->ConOut, EFI_LIGHTGRAY);
}

/* ---- files ---- */

/* Reading a directory gives one EFI_FILE_INFO a call, in no special order, and no bytes at the end. */
static EFI_STATUS list_directory(EFI_FILE_PROTOCOL *directory) {
    UINT8 space[sizeof(EFI_FILE_INFO) + 256 * sizeof(CHAR16)] __attribute__((aligned(8)));
    EFI_FILE_INFO *info = (EFI_FILE_INFO *)space;
    for (;;) {
        UINTN size = sizeof(space);
        EFI_STATUS status = directory->Read(directory, &size, space);
        if (EFI_ERROR(status) || size == 0) return status;
        if (info->Attribute & EFI_FILE_DIRECTORY)
            print(L"         %12s  %s\n", L"<directory>", info->FileName);
        else
            print(L"         %12lu  %s\n", info->FileSize, info->FileName);
    }
}

/* A file is renamed by setting its information with another name. */
static EFI_STATUS rename(EFI_FILE_PROTOCOL *file, const CHAR16 *name) {
    UINT8 space[sizeof(EFI_FILE_INFO) + 256 * sizeof(CHAR16)] __attribute__((aligned(8)));
    EFI_FILE_INFO *info = (EFI_FILE_INFO *)space;
    UINTN size = sizeof(space);
    EFI_STATUS status = file->GetInfo(file, GUID_OF(EFI_FILE_INFO_ID), &size, info);
    if (EFI_ERROR(status)) return status;
    text_copy(info->FileName, 256, name);
    info->Size = sizeof(EFI_FILE_INFO) + (text_length(name) + 1) * sizeof(CHAR16);
    return file->SetInfo(file, GUID_OF(EFI_FILE_INFO_ID), info->Size, info);
}

static void life_of_a_file(EFI_FILE_PROTOCOL *root) {
    static const CHAR8 line[] = "A line in a file, written by an EFI application.\r\n";
    const UINT64 make = EFI_FILE_MODE_CREATE | EFI_FILE_MODE_WRITE | EFI_FILE_MODE_READ;
    CHAR8 back[sizeof(line)];
    UINTN size = sizeof(line) - 1;
    EFI_FILE_PROTOCOL *file, *gone;

    if (!step(L"create \\sample.txt", root->Open(root, &file, L"\\sample.txt", make, 0))) return;
    step(L"write a line", file->Write(file, &size, line));
    step(L"flush", file->Flush(file));
    step(L"go back to the start", file->SetPosition(file, 0));
    size = sizeof(back); /* more than there is: the service says how much it read */
    step(L"read it back", file->Read(file, &size, back));
    BOOLEAN same = size == sizeof(line) - 1 && memcmp(line, back, size) == 0;
    step(L"compare", same ? EFI_SUCCESS : EFI_CRC_ERROR);
    step(L"rename to \\renamed.txt", rename(file, L"renamed.txt"));
    file->Close(file);

    EFI_STATUS status = root->Open(root, &gone, L"\\sample.txt", EFI_FILE_MODE_READ, 0);
    step(L"find no \\sample.txt any more", status == EFI_NOT_FOUND ? EFI_SUCCESS : EFI_ABORTED);
    status = root->Open(root, &file, L"\\renamed.txt", EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE, 0);
    if (!step(L"open \\renamed.txt", status)) return;
    step(L"delete it", file->Delete(file)); /* closes it, too */
    status = root->Open(root, &gone, L"\\renamed.txt", EFI_FILE_MODE_READ, 0);
    step(L"find no \\renamed.txt any more", status == EFI_NOT_FOUND ? EFI_SUCCESS : EFI_ABORTED);
}

/* The path of our own image is in its device path, one or more nodes of text; an end node has another type. */
static void own_image(void) {
    CHAR16 path[256] = L"";
    void *data;
    UINTN size;
    for (const UINT8 *node = (const UINT8 *)LOADED->FilePath; node && node[0] == MEDIA_DEVICE_PATH;
         node += node[2] | node[3] << 8) {
        if (node[1] != MEDIA_FILEPATH_DP) continue;
        UINTN used = text_length(path);
        if (used && used + 1 < COUNT_OF(path) && path[used - 1] != L'\\') path[used++] = L'\\';
        text_copy(path + used, COUNT_OF(path) - used, (const CHAR16 *)(node + 4));
    }
    print(L"         my own path is %s\n", path);
    if (!step(L"read my own image", read_file(path, &data, &size))) return;
    const CHAR8 *bytes = data;
    print(L"         %lu bytes, the first two are \"%c%c\"\n", size, bytes[0], bytes[1]);
    BS->FreePool(data);
}

/* ---- variables ---- */

#define OUR_VENDOR_GUID { 0x6f1d9c52, 0x0a4b, 0x4c8e, { 0x9d, 0x1e, 0x52, 0x3a, 0x77, 0x10, 0xc4, 0x2b } }

/* Walks over all variables: each call takes the name and GUID of the last and gives those of the next. */
static EFI_STATUS count_variables(UINTN *count, BOOLEAN *found) {
    CHAR16 name[512] = L"";
    EFI_GUID vendor;
    for (*count = 0, *found = FALSE;; ++*count) {
        UINTN size = sizeof(name);
        EFI_STATUS status = RT->GetNextVariableName(&size, name, &vendor);
        if (status == EFI_NOT_FOUND) return EFI_SUCCESS; /* that was the last */
        if (EFI_ERROR(status)) return status;
        if (text_equal(name, L"SampleText") && guid_equal(&vendor, GUID_OF(OUR_VENDOR_GUID))) *found = TRUE;
    }
}

static void life_of_a_variable(void) {
    const UINT32 kind = EFI_VARIABLE_NON_VOLATILE | EFI_VARIABLE_BOOTSERVICE_ACCESS;
    EFI_GUID *vendor = GUID_OF(OUR_VENDOR_GUID);
    CHAR8 value[32];
    UINTN size, count;
    UINT32 attributes;
    BOOLEAN found;

    step(L"set SampleText to \"one\"", RT->SetVariable(L"SampleText", vendor, kind, 3, "one"));
    step(L"append \" two\"", RT->SetVariable(L"SampleText", vendor, kind | EFI_VARIABLE_APPEND_WRITE, 4, " two"));
    size = sizeof(value) - 1;
    if (step(L"get it", RT->GetVariable(L"SampleText", vendor, &attributes, &size, value))) {
        value[size] = 0;
        print(L"         \"%a\", %lu bytes, attributes 0x%x\n", value, size, attributes);
        step(L"compare", size == 7 && memcmp(value, "one two", 7) == 0 ? EFI_SUCCESS : EFI_CRC_ERROR);
    }
    if (step(L"walk over all variables", count_variables(&count, &found)))
        print(L"         %lu variables\n", count);
    step(L"meet it on the way", found ? EFI_SUCCESS : EFI_NOT_FOUND);
    step(L"delete it: set it to nothing", RT->SetVariable(L"SampleText", vendor, kind, 0, NULL));
    size = sizeof(value);
    EFI_STATUS status = RT->GetVariable(L"SampleText", vendor, NULL, &size, value);
    step(L"find it gone", status == EFI_NOT_FOUND ? EFI_SUCCESS : EFI_ABORTED);
}

/* ---- console ---- */

/* Reads a line with echo. Firmware gives keys, one at a time; editing is up to us. */
static void read_line(CHAR16 *line, UINTN size) {
    UINTN length = 0, index;
    for (;;) {
        EFI_INPUT_KEY key;
        BS->WaitForEvent(1, &ST->ConIn->WaitForKey, &index);
        if (EFI_ERROR(ST->ConIn->ReadKeyStroke(ST->ConIn, &key))) continue;
        if (key.UnicodeChar == CHAR_CARRIAGE_RETURN) break;
        if (key.UnicodeChar == CHAR_BACKSPACE) {
            if (length) length--, print(L"\b \b");
        } else if (key.UnicodeChar >= L' ' && length + 1 < size) {
            line[length++] = key.UnicodeChar;
            print(L"%c", key.UnicodeChar);
        }
    }
    line[length] = 0;
    print(L"\n");
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table) {
    sample_init(image, table);
    INT32 colours = ST->ConOut->Mode->Attribute;

    heading(L"Files");
    EFI_FILE_PROTOCOL *root = open_root();
    if (step(L"open the file system that I came from", root ? EFI_SUCCESS : EFI_NO_MEDIA)) {
        step(L"list its root", list_directory(root));
        life_of_a_file(root);
        own_image();
        root->Close(root);
    }

    heading(L"Variables");
    life_of_a_variable();

    heading(L"Console");
    if (!has_option(L"noinput")) {
        CHAR16 line[80];
        print(L"         Type a line: ");
        read_line(line, COUNT_OF(line));
        print(L"         You typed \"%s\", %lu characters.\n", line, text_length(line));
    }
    print(first_error == EFI_SUCCESS ? L"  All done.\n" : L"  Ended with %r.\n", first_error);
    ST->ConOut->SetAttribute(ST->ConOut, colours);
    return first_error;
}
