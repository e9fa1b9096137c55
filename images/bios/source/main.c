/* Loads an ELF unikernel from a BIOS disk and starts it. The plan says what to read and where; the program that made the
 * image has worked it out from the ELF file, so that nothing has to be parsed here.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { SECTOR = 512, SEGMENTS = 8, COMMAND_LINE = 256, RANGES = 128, PVH = 1, LINUX64 = 2, RAM = 1, CARRY = 1 };

/* Where things lie that outlive this program: low memory that no unikernel is loaded to. */
enum {
    BUFFER = 0x10000,      /* 32 KiB, what the BIOS reads into */
    CHUNK = 0x8000,
    START_INFO = 0x80000,  /* hvm_start_info, the memory map, the command line, the descriptor table */
    MEMORY_MAP = 0x80100,
    TEXT = 0x80e00,
    TABLE = 0x80f80,
    BOOT_PARAMS = 0x81000, /* Linux's zero page */
    PAGE_TABLES = 0x82000, /* six pages */
    ONE_MEGABYTE = 0x100000,
};

struct segment {
    u64 lba;         /* where it begins on the disk */
    u64 address;     /* physical, below 4 GiB */
    u64 file_size;   /* bytes to read */
    u64 memory_size; /* bytes in memory; the rest is zero */
};

struct plan {
    char magic[8];
    u32 mode; /* PVH or LINUX64 */
    u32 count;
    u64 entry;
    struct segment segments[SEGMENTS];
    char command_line[COMMAND_LINE];
};

struct registers {
    u32 eax, ebx, ecx, edx, esi, edi, flags;
};

struct packet { /* disk address packet of INT 13h extensions */
    u8 size, zero;
    u16 count, offset, segment;
    u64 lba;
} __attribute__((packed));

struct range { /* INT 15h, E820 */
    u64 address, size;
    u32 type, attributes;
} __attribute__((packed));

struct hvm_start_info { /* Xen, include/public/arch-x86/hvm/start_info.h */
    u32 magic, version, flags, modules;
    u64 module_list, command_line, rsdp, memory_map;
    u32 memory_map_entries, reserved;
};

struct hvm_memory_map_entry {
    u64 address, size;
    u32 type, reserved;
};

struct gdt_pointer {
    u16 limit;
    u32 base;
} __attribute__((packed));

extern u8 drive;
extern char gdt[], gdt_end[];
void bios(u32 vector, struct registers *registers);
void enter_pvh(u32 entry, u32 start_info, struct gdt_pointer *table);
void enter_linux64(u32 entry, u32 boot_params, struct gdt_pointer *table, u32 page_tables);

__attribute__((section(".plan"), used)) volatile struct plan plan = {.magic = "CVMBPLAN"};

static struct range ranges[RANGES];
static u32 range_count;
static struct packet packet;

static void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static u8 in8(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void *memcpy(void *to, const void *from, u32 count) {
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return result;
}

void *memset(void *to, int value, u32 count) {
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return result;
}

static void put(char character) {
    struct registers call = {.eax = 0x0e00 | (u8)character};
    /* A machine without a UART reads as ones. */
    for (u32 patience = 100000; patience && !(in8(0x3fd) & 0x20); patience--)
        ;
    out8(0x3f8, character);
    bios(0x10, &call);
}

static void print(const char *text) {
    while (*text)
        put(*text++);
}

static void print_number(u64 value, u32 digits) {
    while (digits)
        put("0123456789abcdef"[value >> 4 * --digits & 15]);
}

static void die(const char *text, u64 value) {
    print("cvmboot: ");
    print(text);
    print(" 0x");
    print_number(value, 16);
    print("\r\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void open_serial_port(void) {
    out8(0x3f9, 0);    /* no interrupts */
    out8(0x3fb, 0x80); /* 115200 baud */
    out8(0x3f8, 1);
    out8(0x3f9, 0);
    out8(0x3fb, 3); /* 8N1 */
    out8(0x3fc, 3); /* DTR, RTS */
}

static void check_a20(void) {
    volatile u32 *low = (u32 *)0x500, *high = (u32 *)(ONE_MEGABYTE + 0x500);
    u32 before = *low;
    *low = ~*high;
    u32 changed = *low == *high;
    *low = before;
    if (changed)
        die("address line A20 is off", 0);
}

static void read_memory_map(void) {
    struct registers call = {.ebx = 0};
    do {
        struct range *range = &ranges[range_count];
        range->attributes = 1; /* in use: an old BIOS gives 20 bytes */
        call.eax = 0xe820;
        call.ecx = sizeof *range;
        call.edx = 0x534d4150; /* "SMAP" */
        call.edi = (u32)range;
        bios(0x15, &call);
        if (call.flags & CARRY || call.eax != 0x534d4150)
            break;
        if (range->size && range->attributes & 1)
            range_count++;
    } while (call.ebx && range_count < RANGES);
    if (!range_count)
        die("the BIOS gives no memory map", 0);
}

/* Whether all of a part of memory is RAM that nobody uses; ranges may follow one another in any order. */
static int is_free(u64 address, u64 end) {
    for (u32 tries = 0; address < end && tries <= range_count; tries++)
        for (u32 index = 0; index < range_count; index++) {
            struct range *range = &ranges[index];
            if (range->type == RAM && range->address <= address && address < range->address + range->size)
                address = range->address + range->size;
        }
    return address >= end;
}

static void read_sectors(u64 lba, u32 count) {
    struct registers call = {.eax = 0x4200, .edx = drive, .esi = (u32)&packet};
    packet = (struct packet){.size = 16, .count = count, .offset = 0, .segment = BUFFER >> 4, .lba = lba};
    for (u32 tries = 0; tries < 3; tries++) {
        struct registers again = call;
        bios(0x13, &again);
        if (!(again.flags & CARRY))
            return;
    }
    die("the disk cannot be read at sector", lba);
}

static void load(const volatile struct segment *segment) {
    u8 *to = (u8 *)(u32)segment->address;
    u64 left = segment->file_size, lba = segment->lba;
    if (!is_free(segment->address, segment->address + segment->memory_size))
        die("the machine has too little memory: no RAM up to", segment->address + segment->memory_size);
    while (left) {
        u32 size = left < CHUNK ? left : CHUNK;
        read_sectors(lba, (size + SECTOR - 1) / SECTOR);
        memcpy(to, (void *)BUFFER, size);
        to += size;
        lba += CHUNK / SECTOR;
        left -= size;
    }
    memset(to, 0, segment->memory_size - segment->file_size);
}

static int is_rsdp(const char *at) {
    static const char signature[8] = "RSD PTR ";
    u8 sum = 0;
    for (u32 index = 0; index < 8; index++)
        if (at[index] != signature[index])
            return 0;
    for (u32 index = 0; index < 20; index++)
        sum += at[index];
    return !sum;
}

/* ACPI 6.5, 5.2.5.1: the first KiB of the extended BIOS data area, then 0xe0000 to 0xfffff. */
static u32 find_rsdp(void) {
    /* The segment is in the BIOS data area; the compiler must not think that nothing can lie there. */
    u32 place = 0x40e;
    __asm__("" : "+r"(place));
    u32 area = *(volatile u16 *)place << 4;
    if (area >= 0x80000)
        for (u32 at = area; at < area + 1024; at += 16)
            if (is_rsdp((char *)at))
                return at;
    for (u32 at = 0xe0000; at < 0x100000; at += 16)
        if (is_rsdp((char *)at))
            return at;
    return 0;
}

static void start_pvh(struct gdt_pointer *table) {
    struct hvm_start_info *info = (void *)START_INFO;
    struct hvm_memory_map_entry *map = (void *)MEMORY_MAP;
    memset(info, 0, sizeof *info);
    for (u32 index = 0; index < range_count; index++) {
        map[index].address = ranges[index].address;
        map[index].size = ranges[index].size;
        map[index].type = ranges[index].type;
        map[index].reserved = 0;
    }
    info->magic = 0x336ec578;
    info->version = 1;
    info->command_line = TEXT;
    info->rsdp = find_rsdp();
    info->memory_map = MEMORY_MAP;
    info->memory_map_entries = range_count;
    enter_pvh(plan.entry, START_INFO, table);
}

static void start_linux64(struct gdt_pointer *table) {
    u8 *params = (void *)BOOT_PARAMS;
    u64 *tables = (void *)PAGE_TABLES;
    memset(params, 0, 4096);
    memset(tables, 0, 2 * 4096);
    tables[0] = (PAGE_TABLES + 4096) | 3;
    for (u32 gigabyte = 0; gigabyte < 4; gigabyte++)
        tables[512 + gigabyte] = (PAGE_TABLES + (2 + gigabyte) * 4096) | 3;
    for (u32 page = 0; page < 4 * 512; page++)
        tables[1024 + page] = (u64)page << 21 | 0x83;
    for (u32 index = 0; index < range_count; index++)
        memcpy(params + 0x2d0 + 20 * index, &ranges[index], 20); /* e820_table */
    params[0x1e8] = range_count;                                 /* e820_entries */
    *(u64 *)(params + 0x070) = find_rsdp();                      /* acpi_rsdp_addr */
    *(u16 *)(params + 0x1fe) = 0xaa55;                           /* boot_flag */
    *(u32 *)(params + 0x202) = 0x53726448;                       /* "HdrS" */
    *(u16 *)(params + 0x206) = 0x020c;                           /* version */
    params[0x210] = 0xff;                                        /* type_of_loader: none assigned */
    *(u32 *)(params + 0x228) = TEXT;                             /* cmd_line_ptr */
    *(u32 *)(params + 0x230) = 0x1000000;                        /* kernel_alignment */
    enter_linux64(plan.entry, BOOT_PARAMS, table, PAGE_TABLES);
}

void main(void) {
    struct gdt_pointer table = {.limit = gdt_end - gdt - 1, .base = TABLE};
    open_serial_port();
    check_a20();
    read_memory_map();
    for (u32 index = 0; index < plan.count; index++)
        load(&plan.segments[index]);
    for (u32 index = 0; index < COMMAND_LINE; index++)
        ((char *)TEXT)[index] = plan.command_line[index];
    memcpy((void *)TABLE, gdt, gdt_end - gdt);
    out8(0x21, 0xff); /* both interrupt controllers masked: the BIOS's timer must not find the unikernel unprepared */
    out8(0xa1, 0xff);
    if (plan.mode == PVH)
        start_pvh(&table);
    if (plan.mode == LINUX64)
        start_linux64(&table);
    die("the plan's mode is", plan.mode);
}
