/* Asks Linux's /dev/sev-guest for an attestation report over 64 bytes of "report me", and prints it in hexadecimal.
   A program without a library: clang -static -nostdlib. (include/uapi/linux/sev-guest.h, SNP_GET_REPORT) */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

enum { READ = 0, WRITE = 1, OPEN = 2, IOCTL = 16, EXIT = 60 };
enum { READ_WRITE = 2, REPORT_AT = 0x20, REPORT_SIZE = 0x4A0 };
#define SNP_GET_REPORT 0xC0205300ul

struct request { u8 user_data[64]; u32 vmpl; u8 reserved[28]; };
struct command { u8 version; u64 request; u64 response; u64 firmware_error; };

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static void fail(const char *text, long size)
{
    call(WRITE, 2, (long)text, size);
    call(EXIT, 1, 0, 0);
}

static u8 response[4000];
static char text[2 * REPORT_SIZE + 1];

void _start(void)
{
    struct request request;
    for (u32 n = 0; n < sizeof request; n++)
        ((volatile u8 *)&request)[n] = 0;
    for (u32 n = 0; n < sizeof request.user_data; n++)
        request.user_data[n] = "report me"[n % 9];
    struct command command = {1, (u64)&request, (u64)response, 0};
    long device = call(OPEN, (long)"/dev/sev-guest", READ_WRITE, 0);
    if (device < 0)
        fail("no /dev/sev-guest\n", 18);
    if (call(IOCTL, device, SNP_GET_REPORT, (long)&command) < 0 || command.firmware_error)
        fail("the report was refused\n", 23);
    for (u32 n = 0; n < REPORT_SIZE; n++) {
        u8 byte = response[REPORT_AT + n];
        text[2 * n] = "0123456789abcdef"[byte >> 4];
        text[2 * n + 1] = "0123456789abcdef"[byte & 15];
    }
    text[2 * REPORT_SIZE] = '\n';
    call(WRITE, 1, (long)text, sizeof text);
    call(EXIT, 0, 0, 0);
}
