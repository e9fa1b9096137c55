/* everything.efi: disks (13.7, 13.9), graphics (12.9), collation (21.1), decompression (19), random numbers (37.5). */
#include "check.h"

static void check_disk_io(EFI_BLOCK_IO_MEDIA *media, const UINT8 *sector) {
    EFI_DISK_IO_PROTOCOL *disk;
    UINT8 data[16];
    UINT64 end = (media->LastBlock + 1) * media->BlockSize;
    if (EFI_ERROR(BS->HandleProtocol(LOADED->DeviceHandle, GUID_OF(EFI_DISK_IO_PROTOCOL_GUID), (void **)&disk))) {
        skip(L"disk I/O", L"our device does not have it");
        return;
    }
    check_status(disk->ReadDisk(disk, media->MediaId, 505, 7, data), EFI_SUCCESS, L"ReadDisk of 7 bytes at 505");
    check(memcmp(data, sector + 505, 7) == 0, L"they are the end of the boot sector");
    check_status(disk->ReadDisk(disk, media->MediaId, media->BlockSize - 1, 2, data), EFI_SUCCESS,
                 L"ReadDisk over the edge of a block");
    check(data[0] == sector[media->BlockSize - 1], L"it begins with the last byte of the block");
    check_status(disk->ReadDisk(disk, media->MediaId, end, 1, data), EFI_INVALID_PARAMETER, L"ReadDisk behind the end");
    check_status(disk->ReadDisk(disk, media->MediaId + 1, 0, 1, data), EFI_MEDIA_CHANGED,
                 L"ReadDisk of another medium");
}

void check_block_io(void) {
    EFI_BLOCK_IO_PROTOCOL *block;
    UINT8 *sector;
    chapter(L"13.9: block I/O");
    if (EFI_ERROR(BS->HandleProtocol(LOADED->DeviceHandle, GUID_OF(EFI_BLOCK_IO_PROTOCOL_GUID), (void **)&block))) {
        skip(L"block I/O", L"our device does not have it");
        return;
    }
    EFI_BLOCK_IO_MEDIA *media = block->Media;
    UINTN size = media->BlockSize;
    check(block->Revision >= 0x00010000, L"revision");
    check(media->MediaPresent, L"the medium is present");
    check(size >= 512 && (size & (size - 1)) == 0, L"the block size is a power of two from 512 on");
    check(media->LastBlock > 0, L"the medium has blocks");
    BS->AllocatePool(EfiLoaderData, 3 * size, (void **)&sector);
    check_status(block->ReadBlocks(block, media->MediaId, 0, size, sector), EFI_SUCCESS,
                 L"ReadBlocks of the first block");
    check(sector[510] == 0x55 && sector[511] == 0xaa, L"it is a boot sector");
    check_status(block->ReadBlocks(block, media->MediaId, 0, 2 * size, sector + size), EFI_SUCCESS,
                 L"ReadBlocks of two");
    check(memcmp(sector, sector + size, size) == 0, L"the first is the same again");
    check_status(block->ReadBlocks(block, media->MediaId, media->LastBlock, size, sector + size), EFI_SUCCESS,
                 L"ReadBlocks of the last block");
    check_status(block->ReadBlocks(block, media->MediaId, media->LastBlock + 1, size, sector + size),
                 EFI_INVALID_PARAMETER, L"ReadBlocks behind the last block");
    check_status(block->ReadBlocks(block, media->MediaId, media->LastBlock, 2 * size, sector + size),
                 EFI_INVALID_PARAMETER, L"ReadBlocks over the end");
    check_status(block->ReadBlocks(block, media->MediaId, 0, size - 1, sector + size), EFI_BAD_BUFFER_SIZE,
                 L"ReadBlocks of a part of a block");
    check_status(block->ReadBlocks(block, media->MediaId, 0, 0, sector + size), EFI_SUCCESS, L"ReadBlocks of nothing");
    check_status(block->ReadBlocks(block, media->MediaId, 0, size, NULL), EFI_INVALID_PARAMETER,
                 L"ReadBlocks with Buffer NULL");
    check_status(block->ReadBlocks(block, media->MediaId + 1, 0, size, sector + size), EFI_MEDIA_CHANGED,
                 L"ReadBlocks of another medium");
    check_status(block->FlushBlocks(block), EFI_SUCCESS, L"FlushBlocks");
    check_disk_io(media, sector);
    BS->FreePool(sector);
}

static BOOLEAN is_colour(EFI_GRAPHICS_OUTPUT_BLT_PIXEL *pixel, UINT8 red, UINT8 green, UINT8 blue) {
    return pixel->Red == red && pixel->Green == green && pixel->Blue == blue;
}

/* Works in the lower right corner of the screen, 32 pixels wide and 16 high, and puts back what was there. */
static void check_blt(EFI_GRAPHICS_OUTPUT_PROTOCOL *graphics) {
    static EFI_GRAPHICS_OUTPUT_BLT_PIXEL saved[16 * 32], pixels[16 * 32];
    EFI_GRAPHICS_OUTPUT_BLT_PIXEL orange = { 0x10, 0x80, 0xf0, 0 };
    UINTN width = graphics->Mode->Info->HorizontalResolution, height = graphics->Mode->Info->VerticalResolution;
    UINTN x = width - 32, y = height - 16;
    graphics->Blt(graphics, saved, EfiBltVideoToBltBuffer, x, y, 0, 0, 32, 16, 0);
    EFI_STATUS fill = graphics->Blt(graphics, &orange, EfiBltVideoFill, 0, 0, x, y, 16, 16, 0);
    EFI_STATUS move = graphics->Blt(graphics, NULL, EfiBltVideoToVideo, x, y, x + 16, y, 16, 16, 0);
    EFI_STATUS read = graphics->Blt(graphics, pixels, EfiBltVideoToBltBuffer, x, y, 0, 0, 32, 16, 0);
    BOOLEAN first = is_colour(&pixels[0], 0xf0, 0x80, 0x10), last = is_colour(&pixels[511], 0xf0, 0x80, 0x10);
    for (UINTN i = 0; i < 512; i++) pixels[i] = (EFI_GRAPHICS_OUTPUT_BLT_PIXEL){ (UINT8)i, (UINT8)(i / 32), 7, 0 };
    /* One pixel out of the middle of a buffer that is 32 pixels wide. */
    EFI_STATUS write = graphics->Blt(graphics, pixels, EfiBltBufferToVideo, 5, 3, x + 1, y + 1, 1, 1, 32 * 4);
    graphics->Blt(graphics, pixels, EfiBltVideoToBltBuffer, x + 1, y + 1, 0, 0, 1, 1, 0);
    BOOLEAN part = is_colour(&pixels[0], 7, 3, 3 * 32 + 5);
    EFI_STATUS right = graphics->Blt(graphics, &orange, EfiBltVideoFill, 0, 0, x + 1, y, 32, 16, 0);
    EFI_STATUS empty = graphics->Blt(graphics, &orange, EfiBltVideoFill, 0, 0, x, y, 0, 16, 0);
    EFI_STATUS wrong = graphics->Blt(graphics, &orange, EfiGraphicsOutputBltOperationMax, 0, 0, x, y, 1, 1, 0);
    graphics->Blt(graphics, saved, EfiBltBufferToVideo, 0, 0, x, y, 32, 16, 0);
    check_status(fill, EFI_SUCCESS, L"Blt fills");
    check_status(move, EFI_SUCCESS, L"Blt copies on the screen");
    check_status(read, EFI_SUCCESS, L"Blt reads back");
    check(first && last, L"both squares have the colour");
    check_status(write, EFI_SUCCESS, L"Blt writes");
    check(part, L"it took the right pixel of the buffer");
    check_status(right, EFI_INVALID_PARAMETER, L"Blt over the right edge");
    check_status(empty, EFI_INVALID_PARAMETER, L"Blt of no width");
    check_status(wrong, EFI_INVALID_PARAMETER, L"Blt of a wrong operation");
}

void check_graphics(void) {
    EFI_GRAPHICS_OUTPUT_PROTOCOL *graphics = find_protocol(GUID_OF(EFI_GRAPHICS_OUTPUT_PROTOCOL_GUID));
    EFI_GRAPHICS_OUTPUT_MODE_INFORMATION *info = NULL;
    UINTN size = 0;
    chapter(L"12.9: graphics output");
    if (!graphics) {
        skip(L"graphics", L"there is no graphics output protocol");
        return;
    }
    EFI_GRAPHICS_OUTPUT_PROTOCOL_MODE *mode = graphics->Mode;
    check(mode->Mode < mode->MaxMode, L"the screen is in one of its modes");
    check(mode->Info->HorizontalResolution >= 320 && mode->Info->VerticalResolution >= 200, L"it has a size");
    check(mode->Info->PixelFormat < PixelFormatMax, L"it has a pixel format");
    check(mode->Info->PixelsPerScanLine >= mode->Info->HorizontalResolution, L"its lines hold all pixels");
    check(mode->Info->PixelFormat == PixelBltOnly || mode->FrameBufferSize >= mode->Info->PixelsPerScanLine * 4ULL,
          L"its frame buffer has a size");
    check_status(graphics->QueryMode(graphics, mode->Mode, &size, &info), EFI_SUCCESS,
                 L"QueryMode of the mode it is in");
    check(size >= sizeof(*info) && info && info->HorizontalResolution == mode->Info->HorizontalResolution,
          L"it answers the size that the screen has");
    if (info) check_status(BS->FreePool(info), EFI_SUCCESS, L"its information is pool memory");
    check_status(graphics->QueryMode(graphics, mode->MaxMode, &size, &info), EFI_INVALID_PARAMETER,
                 L"QueryMode of a mode too many");
    check_status(graphics->QueryMode(graphics, mode->Mode, NULL, &info), EFI_INVALID_PARAMETER,
                 L"QueryMode with SizeOfInfo NULL");
    check_status(graphics->SetMode(graphics, mode->MaxMode), EFI_UNSUPPORTED, L"SetMode of a mode too many");
    check_blt(graphics);
}

void check_collation(void) {
    EFI_UNICODE_COLLATION_PROTOCOL *collation = find_protocol(GUID_OF(EFI_UNICODE_COLLATION_PROTOCOL2_GUID));
    CHAR16 text[32] = L"Mixed Case 1";
    CHAR8 fat[16];
    chapter(L"21.1: unicode collation");
    if (!collation) {
        skip(L"collation", L"there is no unicode collation protocol");
        return;
    }
    check(collation->StriColl(collation, L"abc", L"ABC") == 0, L"StriColl: upper and lower case are equal");
    check(collation->StriColl(collation, L"abc", L"abd") < 0, L"StriColl: c before d");
    check(collation->StriColl(collation, L"abcd", L"ABC") > 0, L"StriColl: the longer after the shorter");
    static const struct {
        CHAR16 *text, *pattern;
        BOOLEAN match;
    } matches[] = {
        { L"file.efi", L"*.EFI", TRUE },    { L"file.efi", L"f?le.*", TRUE },       { L"file.efi", L"*.txt", FALSE },
        { L"", L"*", TRUE },                { L"b", L"[abc]", TRUE },               { L"d", L"[a-c]", FALSE },
        { L"B", L"[a-c]", TRUE },           { L"ab", L"?", FALSE },                 { L"abcabd", L"*ab?", TRUE },
    };
    CHAR16 what[64];
    for (UINTN i = 0; i < COUNT_OF(matches); i++) {
        format_text(what, COUNT_OF(what), L"MetaiMatch of \"%s\" and \"%s\"", matches[i].text, matches[i].pattern);
        check_equal(collation->MetaiMatch(collation, matches[i].text, matches[i].pattern), matches[i].match, what);
    }
    collation->StrUpr(collation, text);
    check_text(text, L"MIXED CASE 1", L"StrUpr");
    collation->StrLwr(collation, text);
    check_text(text, L"mixed case 1", L"StrLwr");
    collation->FatToStr(collation, 8, "ABC", text);
    check_text(text, L"ABC", L"FatToStr stops at the end of the text");
    collation->FatToStr(collation, 4, "ABCDEFGH", text);
    check_text(text, L"ABCD", L"FatToStr stops at its size");
    memset(fat, 0, sizeof(fat));
    check(!collation->StrToFat(collation, L"name.ext", 11, fat), L"StrToFat of a plain name");
    check(memcmp(fat, "NAMEEXT", 7) == 0, L"it leaves dots out and uses capitals");
    memset(fat, 0, sizeof(fat));
    check(collation->StrToFat(collation, L"a+b", 11, fat), L"StrToFat of a name with a character that FAT lacks");
    check(memcmp(fat, "A_B", 3) == 0, L"it puts an underscore in its place");
    check(collation->SupportedLanguages && *collation->SupportedLanguages, L"it names its languages");
}

void check_decompress(void) {
    /* "abcabcabcabcabc" as three characters and one copy of twelve; "AAAAAAAAAAAAAAAA" as sixteen codes of no bits. */
    static UINT8 copy[] = { 12,   0,    0,    0,    15,   0,    0,    0,    0x00, 0x04,
                            0x28, 0x05, 0x30, 0xa1, 0x37, 0x92, 0x30, 0x21, 0xb0, 0x00 };
    static UINT8 single[] = { 8, 0, 0, 0, 16, 0, 0, 0, 0x00, 0x10, 0x00, 0x00, 0x04, 0x10, 0x00, 0x00 };
    EFI_DECOMPRESS_PROTOCOL *decompress = find_protocol(GUID_OF(EFI_DECOMPRESS_PROTOCOL_GUID));
    UINT32 size = 0, scratch_size = 0;
    UINT8 text[16];
    void *scratch = NULL;
    chapter(L"19.5: decompression");
    if (!decompress) {
        skip(L"decompression", L"there is no decompress protocol");
        return;
    }
    check_status(decompress->GetInfo(decompress, copy, sizeof(copy), &size, &scratch_size), EFI_SUCCESS, L"GetInfo");
    check_equal(size, 15, L"it answers the size of the text");
    check_status(decompress->GetInfo(decompress, copy, 7, &size, &scratch_size), EFI_INVALID_PARAMETER,
                 L"GetInfo of less than a header");
    check_status(decompress->GetInfo(decompress, copy, 12, &size, &scratch_size), EFI_INVALID_PARAMETER,
                 L"GetInfo of less than the header says");
    if (scratch_size) BS->AllocatePool(EfiLoaderData, scratch_size, &scratch);
    check_status(decompress->Decompress(decompress, copy, sizeof(copy), text, 15, scratch, scratch_size), EFI_SUCCESS,
                 L"Decompress");
    check(memcmp(text, "abcabcabcabcabc", 15) == 0, L"the text is right");
    check_status(decompress->Decompress(decompress, single, sizeof(single), text, 16, scratch, scratch_size),
                 EFI_SUCCESS, L"Decompress of one character repeated");
    check(memcmp(text, "AAAAAAAAAAAAAAAA", 16) == 0, L"the text is right");
    if (scratch) BS->FreePool(scratch);
}

void check_random(void) {
    EFI_RNG_PROTOCOL *random = find_protocol(GUID_OF(EFI_RNG_PROTOCOL_GUID));
    EFI_GUID list[16];
    UINT8 first[32] = { 0 }, second[32] = { 0 };
    UINTN size = 0;
    chapter(L"37.5: random numbers");
    if (!random) {
        skip(L"random numbers", L"there is no random number generator protocol");
        return;
    }
    check_status(random->GetInfo(random, &size, NULL), EFI_BUFFER_TOO_SMALL, L"GetInfo, no room");
    check(size > 0 && size % sizeof(EFI_GUID) == 0, L"it answers the size of a list of GUIDs");
    check_status(random->GetInfo(random, &size, list), EFI_SUCCESS, L"GetInfo");
    check_status(random->GetRNG(random, NULL, sizeof(first), first), EFI_SUCCESS, L"GetRNG of 32 bytes");
    random->GetRNG(random, NULL, sizeof(second), second);
    check(memcmp(first, second, sizeof(first)) != 0, L"the next 32 are others");
    check_status(random->GetRNG(random, &list[0], sizeof(first), first), EFI_SUCCESS, L"GetRNG by a named algorithm");
    check_status(random->GetRNG(random, GUID_OF(NO_SUCH_PROTOCOL_GUID), 1, first), EFI_UNSUPPORTED,
                 L"GetRNG by an unknown algorithm");
    check_status(random->GetRNG(random, NULL, 0, first), EFI_INVALID_PARAMETER, L"GetRNG of nothing");
    check_status(random->GetRNG(random, NULL, 1, NULL), EFI_INVALID_PARAMETER, L"GetRNG with RNGValue NULL");
}
