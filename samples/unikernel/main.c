/* A unikernel that prints on the serial port what its boot loader told it, checks that it was loaded whole, and resets. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

extern const u32 pattern[], pattern_end[];
static volatile u8 zeros[100000];
static volatile u32 written = 0x600d600d;

static void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static u8 in8(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void print(const char *text) {
    for (; *text; text++) {
        while (!(in8(0x3fd) & 0x20))
            ;
        out8(0x3f8, *text);
    }
}

static void number(u64 value) {
    for (int shift = 60; shift >= 0; shift -= 4)
        if (value >> shift || !shift) {
            char text[2] = {"0123456789abcdef"[value >> shift & 15], 0};
            print(text);
        }
}

static void line(const char *name, u64 value) {
    print(name);
    print(" ");
    number(value);
    print("\r\n");
}

static void range(u64 address, u64 size, u32 type) {
    print("memory ");
    number(address);
    print(" ");
    number(size);
    print(" ");
    number(type);
    print("\r\n");
}

static void check(void) {
    u32 wrong = 0, dirty = 0;
    for (u32 index = 0; index < (u32)(pattern_end - pattern); index++)
        wrong += pattern[index] != (u32)(index * 2654435761u);
    for (u32 index = 0; index < sizeof zeros; index++)
        dirty += zeros[index] != 0;
    line("wrong words", wrong);
    line("dirty bytes", dirty);
    line("data", written);
}

static void rest(u64 rsdp, const char *command_line) {
    line("rsdp", rsdp != 0);
    print("command line \"");
    print(command_line);
    print("\"\r\n");
    check();
    unsigned long flags;
    __asm__ volatile("pushf; pop %0" : "=r"(flags));
    line("interrupts", flags >> 9 & 1);
    print("done\r\n");
    for (u32 index = 0; index < sizeof zeros; index++)
        zeros[index] = 0xff; /* memory outlives a reset: the next boot has to clear it */
    out8(0x64, 0xfe);
}

#ifdef PVH
void main(const u32 *info) {
    line("\r\npvh magic", info[0]);
    line("version", info[1]);
    const u8 *map = (const u8 *)info[10];
    for (u32 index = 0; index < info[12]; index++, map += 24)
        range(*(u64 *)map, *(u64 *)(map + 8), *(u32 *)(map + 16));
    rest(info[8], (const char *)info[6]);
}
#else
void main(const u8 *params) {
    line("\r\nlinux64 magic", *(u32 *)(params + 0x202));
    line("version", *(u16 *)(params + 0x206));
    const u8 *map = params + 0x2d0;
    for (u32 index = 0; index < params[0x1e8]; index++, map += 20)
        range(*(u64 *)map, *(u64 *)(map + 8), *(u32 *)(map + 16));
    rest(*(u64 *)(params + 0x70), (const char *)(u64) * (u32 *)(params + 0x228));
}
#endif
