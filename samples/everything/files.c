/* everything.efi, 13.4 and 13.5: files. Directories and file information are in directories.c. */
#include "check.h"

#define READ EFI_FILE_MODE_READ
#define READ_WRITE (EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE)
#define MAKE (EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE | EFI_FILE_MODE_CREATE)
#define FILE_NAME L"\\Test file.txt"

static EFI_FILE_PROTOCOL *root;

static void check_open(void) {
    EFI_FILE_PROTOCOL *file, *again;
    check_status(root->Open(root, &file, FILE_NAME, READ, 0), EFI_NOT_FOUND, L"Open of no file");
    check_status(root->Open(root, &file, FILE_NAME, EFI_FILE_MODE_WRITE, 0), EFI_INVALID_PARAMETER,
                 L"Open to write and not to read");
    check_status(root->Open(root, &file, FILE_NAME, READ | EFI_FILE_MODE_CREATE, 0), EFI_INVALID_PARAMETER,
                 L"Open to create and not to write");
    check_status(root->Open(root, &file, FILE_NAME, MAKE, 0x100), EFI_INVALID_PARAMETER,
                 L"Open to create with a wrong attribute");
    check_status(root->Open(root, &file, FILE_NAME, READ_WRITE, 0), EFI_NOT_FOUND, L"Open to write of no file");
    check_status(root->Open(root, &file, FILE_NAME, MAKE, 0), EFI_SUCCESS, L"Open to create");
    check_status(file->Close(file), EFI_SUCCESS, L"Close");
    check_status(root->Open(root, &file, FILE_NAME, READ, 0), EFI_SUCCESS, L"Open of the new file");
    check_status(root->Open(root, &again, L"\\TEST FILE.TXT", READ, 0), EFI_SUCCESS, L"Open by its name in capitals");
    again->Close(again);
    check_status(root->Open(root, &again, L"Test file.txt", READ, 0), EFI_SUCCESS, L"Open by a name without backslash");
    again->Close(again);
    check_status(root->Open(root, &again, L"\\.\\Test file.txt", READ, 0), EFI_SUCCESS, L"Open by a path with a dot");
    again->Close(again);
    check_status(root->Open(root, &again, FILE_NAME, MAKE, 0), EFI_SUCCESS, L"Open to create of a file that exists");
    again->Close(again);
    check_status(root->Open(root, &again, L"\\no directory\\file", READ, 0), EFI_NOT_FOUND, L"Open in no directory");
    check(EFI_ERROR(root->Open(root, &again, L"\\no directory\\file", MAKE, 0)),
          L"Open to create in no directory fails");
    file->Close(file);
}

static void check_read_write(void) {
    EFI_FILE_PROTOCOL *file, *reader;
    UINT8 data[64];
    UINTN size = 10;
    UINT64 position = 99;
    root->Open(root, &file, FILE_NAME, READ_WRITE, 0);
    check_status(file->Write(file, &size, "0123456789"), EFI_SUCCESS, L"Write of 10 bytes");
    check_equal(size, 10, L"it wrote all");
    check_status(file->GetPosition(file, &position), EFI_SUCCESS, L"GetPosition");
    check_equal(position, 10, L"the position is behind them");
    size = sizeof(data);
    check_status(file->Read(file, &size, data), EFI_SUCCESS, L"Read at the end");
    check_equal(size, 0, L"it reads nothing");
    check_status(file->SetPosition(file, 4), EFI_SUCCESS, L"SetPosition");
    size = 3;
    check_status(file->Read(file, &size, data), EFI_SUCCESS, L"Read of 3 bytes");
    check(size == 3 && memcmp(data, "456", 3) == 0, L"they are the right ones");
    size = sizeof(data);
    file->Read(file, &size, data);
    check(size == 3 && memcmp(data, "789", 3) == 0, L"the next Read goes on, up to the end");
    check_status(file->SetPosition(file, ~0ULL), EFI_SUCCESS, L"SetPosition to the end");
    file->GetPosition(file, &position);
    check_equal(position, 10, L"the position is the size");
    size = 2;
    file->Write(file, &size, "AB");
    file->SetPosition(file, 2);
    size = 2;
    file->Write(file, &size, "xy");
    check_status(file->Flush(file), EFI_SUCCESS, L"Flush");
    check_status(root->Open(root, &reader, FILE_NAME, READ, 0), EFI_SUCCESS, L"Open a second time");
    size = sizeof(data);
    reader->Read(reader, &size, data);
    check(size == 12 && memcmp(data, "01xy456789AB", 12) == 0, L"the second handle reads what the first wrote");
    size = 1;
    check_status(reader->Write(reader, &size, "z"), EFI_ACCESS_DENIED, L"Write to a file that is open to read");
    reader->Close(reader);

    file->SetPosition(file, 20);
    size = sizeof(data);
    check_status(file->Read(file, &size, data), EFI_DEVICE_ERROR, L"Read behind the end");
    size = 1;
    check_status(file->Write(file, &size, "!"), EFI_SUCCESS, L"Write behind the end");
    file->SetPosition(file, 11);
    size = sizeof(data);
    file->Read(file, &size, data);
    check(size == 10 && data[0] == 'B' && data[9] == '!', L"the file grew to there");
    check(data[1] == 0 && data[8] == 0, L"the gap is zero");
    file->Close(file);
}

static void check_long_file(void) {
    static UINT8 block[5000];
    EFI_FILE_PROTOCOL *file;
    BOOLEAN good = TRUE;
    check_status(root->Open(root, &file, L"\\long.bin", MAKE, 0), EFI_SUCCESS, L"Open to create a long file");
    for (UINTN i = 0; i < 60; i++) {
        UINTN size = sizeof(block);
        memset(block, (int)i, size);
        good &= file->Write(file, &size, block) == EFI_SUCCESS && size == sizeof(block);
    }
    check(good, L"Write of 300000 bytes in 60 parts");
    file->SetPosition(file, 4999);
    UINTN size = 2;
    file->Read(file, &size, block);
    check(block[0] == 0 && block[1] == 1, L"Read over the edge of two parts");
    file->SetPosition(file, 299999);
    size = sizeof(block);
    file->Read(file, &size, block);
    check(size == 1 && block[0] == 59, L"Read of the last byte");
    check_status(file->Delete(file), EFI_SUCCESS, L"Delete");
}

static void check_delete(void) {
    EFI_FILE_PROTOCOL *file;
    root->Open(root, &file, FILE_NAME, READ, 0);
    check_status(file->Delete(file), EFI_WARN_DELETE_FAILURE, L"Delete of a file that is open to read");
    check_status(root->Open(root, &file, FILE_NAME, READ_WRITE, 0), EFI_SUCCESS, L"it is still there");
    check_status(file->Delete(file), EFI_SUCCESS, L"Delete of a file that is open to write");
    check_status(root->Open(root, &file, FILE_NAME, READ, 0), EFI_NOT_FOUND, L"it is gone");
}

static void check_names(void) {
    static const CHAR16 *const names[] = {
        L"\\a", L"\\Two words and a third.text", L"\\Gr\u00fc\u00dfe.txt", L"\\.hidden", L"\\UPPER.TXT",
        L"\\many.dots.in.it",
        L"\\a name of more than a hundred characters, which needs many entries of the long kind in the table.txt",
    };
    BOOLEAN made = TRUE, found = TRUE, deleted = TRUE;
    EFI_FILE_PROTOCOL *file;
    for (UINTN i = 0; i < COUNT_OF(names); i++) {
        made &= root->Open(root, &file, names[i], MAKE, 0) == EFI_SUCCESS;
        file->Close(file);
    }
    for (UINTN i = 0; i < COUNT_OF(names); i++) {
        found &= root->Open(root, &file, names[i], READ_WRITE, 0) == EFI_SUCCESS;
        deleted &= file->Delete(file) == EFI_SUCCESS;
    }
    check(made, L"files of all kinds of names can be made");
    check(found, L"they are found by their names");
    check(deleted, L"they can be deleted");
    check(EFI_ERROR(root->Open(root, &file, L"\\a*b", MAKE, 0)), L"a name with an asterisk is refused");
    check(EFI_ERROR(root->Open(root, &file, L"\\a:b", MAKE, 0)), L"a name with a colon is refused");
}

void check_files(void) {
    EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *system;
    EFI_GUID *guid = GUID_OF(EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID);
    chapter(L"13.5: files");
    EFI_STATUS status = BS->HandleProtocol(LOADED->DeviceHandle, guid, (void **)&system);
    if (!check_status(status, EFI_SUCCESS, L"our device has a simple file system")) return;
    check_equal(system->Revision, 0x00010000, L"its revision");
    if (!check_status(system->OpenVolume(system, &root), EFI_SUCCESS, L"OpenVolume")) return;
    check(root->Revision == 0x00010000 || root->Revision == 0x00020000, L"the file protocol's revision");
    check_open();
    check_read_write();
    check_long_file();
    check_delete();
    check_names();
    check_status(root->Close(root), EFI_SUCCESS, L"Close of the root");
}
