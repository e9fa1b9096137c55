/* everything.efi, 13.5: directories, and information on files and file systems. */
#include "check.h"

#define READ EFI_FILE_MODE_READ
#define READ_WRITE (EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE)
#define MAKE (EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE | EFI_FILE_MODE_CREATE)

static UINT8 space[1024] __attribute__((aligned(8)));
static EFI_FILE_INFO *const info = (EFI_FILE_INFO *)space;

static EFI_STATUS read_info(EFI_FILE_PROTOCOL *file) {
    UINTN size = sizeof(space);
    return file->GetInfo(file, GUID_OF(EFI_FILE_INFO_ID), &size, info);
}

static EFI_STATUS write_info(EFI_FILE_PROTOCOL *file) {
    return file->SetInfo(file, GUID_OF(EFI_FILE_INFO_ID), info->Size, info);
}

/* Reads all entries; answers how many, and how many had one of the two names. FAT also has "." and "..". */
static UINTN list(EFI_FILE_PROTOCOL *directory, const CHAR16 *first, const CHAR16 *second, UINTN *found) {
    UINTN count = 0;
    for (*found = 0;; count++) {
        UINTN size = sizeof(space);
        if (EFI_ERROR(directory->Read(directory, &size, space)) || size == 0) return count;
        if (text_equal(info->FileName, L".") || text_equal(info->FileName, L"..")) count--;
        *found += text_equal(info->FileName, first) || text_equal(info->FileName, second);
    }
}

static void check_reading(EFI_FILE_PROTOCOL *directory) {
    UINTN found, size;
    UINT64 position;
    directory->SetPosition(directory, 0);
    check_equal(list(directory, L"file", L"inner", &found), 2, L"reading the directory gives two entries");
    check_equal(found, 2, L"both have their names");
    size = sizeof(space);
    check_status(directory->Read(directory, &size, space), EFI_SUCCESS, L"Read at the end of a directory");
    check_equal(size, 0, L"it reads nothing");
    check_status(directory->SetPosition(directory, 0), EFI_SUCCESS, L"SetPosition 0 begins again");
    check_equal(list(directory, L"file", L"inner", &found), 2, L"reading it again gives the same");
    check_status(directory->SetPosition(directory, 1), EFI_UNSUPPORTED, L"SetPosition 1 of a directory");
    check_status(directory->GetPosition(directory, &position), EFI_UNSUPPORTED, L"GetPosition of a directory");
    directory->SetPosition(directory, 0);
    size = 8;
    check_status(directory->Read(directory, &size, space), EFI_BUFFER_TOO_SMALL, L"Read of an entry, too little room");
    check(size > sizeof(EFI_FILE_INFO), L"it answers the size needed");
    UINTN needed = size;
    check_status(directory->Read(directory, &size, space), EFI_SUCCESS, L"Read with that room gives the entry");
    check_equal(size, needed, L"it answers the same size");
    size = 4;
    check_status(directory->Write(directory, &size, "text"), EFI_UNSUPPORTED, L"Write to a directory");
}

static void check_paths(EFI_FILE_PROTOCOL *root, EFI_FILE_PROTOCOL *directory) {
    static const struct {
        BOOLEAN from_root;
        const CHAR16 *path, *name;
    } paths[] = {
        { FALSE, L"file", L"file" },
        { FALSE, L"inner\\deep", L"deep" },
        { FALSE, L"\\Test dir\\file", L"file" },
        { FALSE, L"..\\Test dir", L"Test dir" },
        { FALSE, L".", L"Test dir" },
        { FALSE, L"inner\\..\\file", L"file" },
        { TRUE, L"Test dir\\inner", L"inner" },
        { TRUE, L"test DIR\\FILE", L"file" },
    };
    CHAR16 what[100];
    for (UINTN i = 0; i < COUNT_OF(paths); i++) {
        EFI_FILE_PROTOCOL *from = paths[i].from_root ? root : directory, *file;
        EFI_STATUS status = from->Open(from, &file, paths[i].path, READ, 0);
        format_text(what, COUNT_OF(what), L"Open %s from the %s", paths[i].path,
                    paths[i].from_root ? L"root" : L"directory");
        if (!check_status(status, EFI_SUCCESS, what)) continue;
        read_info(file);
        format_text(what, COUNT_OF(what), L"its name is %s", paths[i].name);
        check_text(info->FileName, paths[i].name, what);
        file->Close(file);
    }
    EFI_FILE_PROTOCOL *file;
    check_status(directory->Open(directory, &file, L"Test dir", READ, 0), EFI_NOT_FOUND,
                 L"Open from a directory does not look in the root");
    check(EFI_ERROR(directory->Open(directory, &file, L"file\\deep", READ, 0)), L"Open through a file fails");
}

void check_directories(void) {
    EFI_FILE_PROTOCOL *root = open_root(), *directory, *inner, *file;
    chapter(L"13.5: directories");
    if (!root) return;
    check_status(root->Open(root, &directory, L"\\Test dir", MAKE, EFI_FILE_DIRECTORY), EFI_SUCCESS,
                 L"Open to create a directory");
    directory->Open(directory, &inner, L"inner", MAKE, EFI_FILE_DIRECTORY);
    check_status(inner->Open(inner, &file, L"deep", MAKE, 0), EFI_SUCCESS, L"Open to create a file two levels down");
    file->Close(file);
    inner->Close(inner);
    directory->Open(directory, &file, L"file", MAKE, 0);
    file->Close(file);
    check_status(read_info(directory), EFI_SUCCESS, L"GetInfo of the directory");
    check(info->Attribute & EFI_FILE_DIRECTORY, L"it has the attribute of a directory");
    check_reading(directory);
    check_paths(root, directory);

    root->Open(root, &inner, L"\\Test dir\\inner", READ_WRITE, 0);
    check_status(inner->Delete(inner), EFI_WARN_DELETE_FAILURE, L"Delete of a directory that is not empty");
    root->Open(root, &file, L"\\Test dir\\inner\\deep", READ_WRITE, 0);
    file->Delete(file);
    root->Open(root, &inner, L"\\Test dir\\inner", READ_WRITE, 0);
    check_status(inner->Delete(inner), EFI_SUCCESS, L"Delete of an empty directory");
    root->Open(root, &file, L"\\Test dir\\file", READ_WRITE, 0);
    file->Delete(file);
    check_status(directory->Delete(directory), EFI_SUCCESS, L"Delete of the outer directory");
    check_status(root->Open(root, &directory, L"\\Test dir", READ, 0), EFI_NOT_FOUND, L"it is gone");
    check_status(root->Delete(root), EFI_WARN_DELETE_FAILURE, L"Delete of the root");
}

static void check_get_info(EFI_FILE_PROTOCOL *file) {
    UINTN size = 0;
    check_status(file->GetInfo(file, GUID_OF(EFI_FILE_INFO_ID), &size, NULL), EFI_BUFFER_TOO_SMALL,
                 L"GetInfo, no room");
    check_equal(size, sizeof(EFI_FILE_INFO) + sizeof(L"Info.txt"), L"it answers the size needed, name and all");
    check_status(file->GetInfo(file, GUID_OF(EFI_FILE_INFO_ID), &size, info), EFI_SUCCESS, L"GetInfo");
    check_equal(info->Size, size, L"its Size is that of the structure");
    check_equal(info->FileSize, 10, L"its FileSize is that of the file");
    check(info->PhysicalSize >= 10, L"its PhysicalSize is not less");
    check_text(info->FileName, L"Info.txt", L"its name is without a path");
    check_equal(info->Attribute & (EFI_FILE_DIRECTORY | EFI_FILE_READ_ONLY), 0,
                L"it is no directory and not read-only");
    check(info->ModificationTime.Year >= 1980 && info->ModificationTime.Month >= 1, L"it has a time of modification");
    size = sizeof(space);
    check_status(file->GetInfo(file, GUID_OF(NO_SUCH_PROTOCOL_GUID), &size, space), EFI_UNSUPPORTED,
                 L"GetInfo of an unknown type");
}

static void check_set_info(EFI_FILE_PROTOCOL *root, EFI_FILE_PROTOCOL *file) {
    EFI_FILE_PROTOCOL *other;
    UINT8 data[16];
    read_info(file);
    info->FileSize = 4;
    check_status(write_info(file), EFI_SUCCESS, L"SetInfo, the file made shorter");
    UINTN size = sizeof(data);
    file->SetPosition(file, 0);
    file->Read(file, &size, data);
    check(size == 4 && memcmp(data, "0123", 4) == 0, L"it is shorter");
    read_info(file);
    info->FileSize = 9;
    check_status(write_info(file), EFI_SUCCESS, L"SetInfo, the file made longer");
    read_info(file);
    check_equal(info->FileSize, 9, L"it is longer");
    text_copy(info->FileName, 64, L"Info with another name.txt");
    info->Size = sizeof(EFI_FILE_INFO) + sizeof(L"Info with another name.txt");
    check_status(write_info(file), EFI_SUCCESS, L"SetInfo, another name");
    check_status(root->Open(root, &other, L"\\Info.txt", READ, 0), EFI_NOT_FOUND, L"the old name is gone");
    check_status(root->Open(root, &other, L"\\Info with another name.txt", READ, 0), EFI_SUCCESS,
                 L"the new one is there");
    read_info(other);
    check(EFI_ERROR(file->SetInfo(file, GUID_OF(EFI_FILE_INFO_ID), 10, info)), L"SetInfo of too few bytes fails");
    info->FileSize = 1;
    check(EFI_ERROR(write_info(other)), L"SetInfo, another size, of a file that is open to read fails");
    other->Close(other);

    root->Open(root, &other, L"\\taken", MAKE, 0);
    read_info(file);
    text_copy(info->FileName, 64, L"taken");
    check_status(write_info(file), EFI_ACCESS_DENIED, L"SetInfo, a name that another file has");
    other->Delete(other);
    read_info(file);
    info->Attribute |= EFI_FILE_DIRECTORY;
    check_status(write_info(file), EFI_ACCESS_DENIED, L"SetInfo, a file made a directory");
    read_info(file);
    info->ModificationTime.Year = 2001;
    info->ModificationTime.Month = 2;
    info->ModificationTime.Day = 3;
    check_status(write_info(file), EFI_SUCCESS, L"SetInfo, another time of modification");
    read_info(file);
    check(info->ModificationTime.Year == 2001 && info->ModificationTime.Day == 3, L"the time is the new one");
    info->Attribute |= EFI_FILE_READ_ONLY | EFI_FILE_HIDDEN;
    check_status(write_info(file), EFI_SUCCESS, L"SetInfo, read-only and hidden");
    check_status(root->Open(root, &other, L"\\Info with another name.txt", READ_WRITE, 0), EFI_ACCESS_DENIED,
                 L"Open to write of a read-only file");
    read_info(file);
    check(info->Attribute & EFI_FILE_HIDDEN, L"it is hidden");
    info->Attribute &= ~(EFI_FILE_READ_ONLY | EFI_FILE_HIDDEN);
    check_status(write_info(file), EFI_SUCCESS, L"SetInfo, neither");
}

static void check_system_info(EFI_FILE_PROTOCOL *root, EFI_FILE_PROTOCOL *file) {
    EFI_FILE_SYSTEM_INFO *system = (EFI_FILE_SYSTEM_INFO *)space;
    CHAR16 label[40] = L"";
    UINTN size = 0;
    EFI_GUID *guid = GUID_OF(EFI_FILE_SYSTEM_INFO_ID), *label_guid = GUID_OF(EFI_FILE_SYSTEM_VOLUME_LABEL_ID);
    check_status(root->GetInfo(root, guid, &size, NULL), EFI_BUFFER_TOO_SMALL, L"GetInfo of the file system, no room");
    check(size >= SIZE_OF_EFI_FILE_SYSTEM_INFO + 2, L"it answers the size needed");
    check_status(root->GetInfo(root, guid, &size, system), EFI_SUCCESS, L"GetInfo of the file system");
    check_equal(system->Size, size, L"its Size is that of the structure");
    check(!system->ReadOnly, L"it is not read-only");
    check(system->VolumeSize > 0 && system->FreeSpace <= system->VolumeSize && system->BlockSize > 0,
          L"its sizes make sense");
    size = sizeof(space);
    check_status(file->GetInfo(file, guid, &size, system), EFI_SUCCESS, L"any file tells of its file system");
    size = sizeof(label);
    check_status(root->GetInfo(root, label_guid, &size, label), EFI_SUCCESS, L"GetInfo of the volume label");
    check_text(label, system->VolumeLabel, L"it is that of the file system");
}

void check_file_info(void) {
    EFI_FILE_PROTOCOL *root = open_root(), *file;
    UINTN size = 10;
    chapter(L"13.5: information on files");
    if (!root) return;
    if (!check_status(root->Open(root, &file, L"\\Info.txt", MAKE, 0), EFI_SUCCESS, L"a file to look at")) return;
    file->Write(file, &size, "0123456789");
    check_get_info(file);
    check_set_info(root, file);
    check_system_info(root, file);
    check_status(file->Delete(file), EFI_SUCCESS, L"Delete of the file");
    read_info(root);
    check_text(info->FileName, L"", L"the root's name is empty");
    root->Close(root);
}
