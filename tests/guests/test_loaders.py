"""Boot loaders and tools from Debian's packages, and the UEFI Shell, as a person uses them."""

import datetime
import json
import shutil
import subprocess

import pytest

from uefi import guids
from uefi.guids import Guid
from uefi.security import signature_lists
from uefi.security.signature_lists import Signature, SignatureList
from uefi.time import EfiTime
from uefi.variables.nv_file import NvFile
from uefi.variables.variable import Variable

pytestmark = pytest.mark.guests

HELLO = "Hello from an EFI application!"
DOWN, UP, ESCAPE = "\x1b[B", "\x1b[A", "\x1b"


# -- systemd-boot


@pytest.fixture
def systemd_boot(boot, program, esp, sample):
    """systemd-boot with two entries and a menu that waits."""
    folder = esp(
        {
            "EFI/BOOT/BOOTX64.EFI": program("systemd-bootx64.efi"),
            "hello.efi": sample("hello"),
            "child.efi": sample("child"),
            "loader/loader.conf": "timeout menu-force\ndefault a.conf\n",
            "loader/entries/a.conf": "title The child\nefi /child.efi\noptions fail\n",
            "loader/entries/b.conf": "title The greeting\nefi /hello.efi\noptions one two\n",
        }
    )
    vm = boot(folder / "EFI/BOOT/BOOTX64.EFI", esp=folder)
    vm.expect_exact("The greeting")
    vm.expect_exact("The child")
    return vm


def test_systemd_boot_starts_what_the_arrow_keys_chose(systemd_boot):
    systemd_boot.send(UP)
    systemd_boot.expect_exact("The greeting")
    systemd_boot.sendline()
    systemd_boot.expect_exact(HELLO)
    systemd_boot.expect_exact('"one two"')
    systemd_boot.expect_exact("All is well. Goodbye.")


def test_systemd_boot_tells_what_failed(systemd_boot):
    systemd_boot.sendline()
    systemd_boot.expect_exact('# child: load options "fail"')
    systemd_boot.expect_exact("Aborted")
    assert systemd_boot.wait() == 3


def test_systemd_boot_starts_the_default_by_itself(boot, program, esp, sample):
    files = {"loader/loader.conf": "timeout 1\n", "loader/entries/b.conf": "title T\nefi /hello.efi\n"}
    folder = esp({"EFI/BOOT/BOOTX64.EFI": program("systemd-bootx64.efi"), "hello.efi": sample("hello"), **files})
    vm = boot(folder / "EFI/BOOT/BOOTX64.EFI", esp=folder)
    vm.expect_exact(HELLO)


# -- GRUB


@pytest.mark.parametrize("name", ["grubx64.efi", "gcdx64.efi"])
def test_grub_at_its_prompt(boot, program, esp, sample, name):
    folder = esp({"grub.efi": program(name), "hello.efi": sample("hello"), "sub/file.txt": "some text\n"})
    vm = boot(folder / "grub.efi", esp=folder)

    def ask(command: str) -> str:
        vm.expect_exact("grub> ")
        vm.sendline(command)
        vm.expect_exact(command)

    ask("ls")
    vm.expect_exact("(hd0) (hd0,gpt1)")
    ask("ls (hd0,gpt1)/")
    vm.expect("hello.efi .*sub/")
    ask("cat (hd0,gpt1)/sub/file.txt")
    vm.expect_exact("some text")
    ask("nosuchcommand")
    vm.expect_exact("can't find command")
    ask("chainloader (hd0,gpt1)/hello.efi")
    ask("boot")
    vm.expect_exact(HELLO)
    vm.expect_exact("grub> ")


MENU = """set timeout=1
menuentry "First" { chainloader /hello.efi }
menuentry "Second" { echo seen-by-grub; halt }
"""


@pytest.fixture
def grub_menu(boot, program, esp, sample):
    """Debian's GRUB with a grub.cfg where it looks for it."""
    folder = esp({"EFI/debian/grubx64.efi": program("grubx64.efi"), "hello.efi": sample("hello")})
    (folder / "EFI/debian/grub.cfg").write_text(MENU)
    return boot(folder / "EFI/debian/grubx64.efi", esp=folder)


def test_grub_starts_its_first_entry_after_the_timeout(grub_menu):
    grub_menu.expect_exact("First")
    grub_menu.expect_exact(HELLO)


def test_grub_starts_the_entry_that_was_chosen(grub_menu):
    grub_menu.expect_exact("Second")
    grub_menu.send(DOWN)
    grub_menu.sendline()
    grub_menu.expect_exact("seen-by-grub")
    assert grub_menu.wait() == 0
    assert grub_menu.outcome.kind == "shutdown"


# -- shim

CSV = "shimx64.efi,debian,,A boot entry\n"


@pytest.mark.parametrize("shim", ["shimx64.efi", "shimx64.efi.signed"])
def test_shim_starts_grub(boot, program, esp, shim):
    files = {"EFI/BOOT/BOOTX64.EFI": program(shim), "EFI/BOOT/grubx64.efi": program("grubx64.efi.signed")}
    folder = esp(files)
    vm = boot(folder / "EFI/BOOT/BOOTX64.EFI", esp=folder)
    vm.expect_exact("Welcome to GRUB!")
    vm.expect_exact("grub> ")


def test_shim_without_a_second_stage(boot, program, esp):
    folder = esp({"EFI/BOOT/BOOTX64.EFI": program("shimx64.efi")})
    vm = boot(folder / "EFI/BOOT/BOOTX64.EFI", esp=folder)
    vm.expect_exact("Failed to open \\EFI\\BOOT\\grubx64.efi - Not Found")
    assert vm.wait() == 3


def test_shim_fallback_makes_a_boot_entry(boot, program, esp, tmp_path):
    folder = esp(
        {
            "EFI/BOOT/BOOTX64.EFI": program("shimx64.efi"),
            "EFI/BOOT/fbx64.efi": program("fbx64.efi"),
            "EFI/debian/shimx64.efi": program("shimx64.efi"),
            "EFI/debian/grubx64.efi": program("grubx64.efi.signed"),
            "EFI/debian/BOOTX64.CSV": CSV.encode("utf-16"),
        }
    )
    vm = boot(folder / "EFI/BOOT/BOOTX64.EFI", esp=folder, vars=tmp_path / "vars.json")
    vm.expect_exact("Welcome to GRUB!")
    kept = {
        each["name"]: bytes.fromhex(each["data"])
        for each in json.loads((tmp_path / "vars.json").read_text())["variables"]
    }
    entry = next(
        data for name, data in kept.items() if name.startswith("Boot0") and "debian\0".encode("utf-16-le") in data
    )
    assert "\\EFI\\debian\\shimx64.efi".encode("utf-16-le") in entry


# -- Secure Boot


@pytest.fixture
def keys(tmp_path):
    """A key pair, and a variables file in which its certificate is PK, KEK and db."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    if shutil.which("sbsign") is None:
        pytest.skip("no sbsign (Debian's package sbsigntool)")
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "owner")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        *(x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()),),
        *(1, start, start + datetime.timedelta(3650)),
    )
    builder, serial, begin, end = certificate
    made = builder.serial_number(serial).not_valid_before(begin).not_valid_after(end).sign(key, hashes.SHA256())
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    (tmp_path / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    der = made.public_bytes(serialization.Encoding.DER)
    data = signature_lists.build([SignatureList(guids.CERT_X509, [Signature(Guid(bytes(16)), der)])])
    time = EfiTime(2026, 1, 1)
    kinds = {"PK": guids.GLOBAL_VARIABLE, "KEK": guids.GLOBAL_VARIABLE, "db": guids.IMAGE_SECURITY_DATABASE}
    NvFile(tmp_path / "vars.json").save([Variable(name, guid, 0x27, data, time=time) for name, guid in kinds.items()])
    return tmp_path


@pytest.fixture
def signed(keys):
    """Sign an image with the owner's key."""

    def sign(source, target):
        command = ["sbsign", "--key", keys / "key.pem", "--cert", keys / "certificate.pem", "--output", target, source]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=30)
        return target

    return sign


def test_secure_boot_starts_what_the_owner_signed(cvmboot, sample, keys, signed):
    image = signed(sample("hello"), keys / "signed.efi")
    done = cvmboot("run", image, "--vars", keys / "vars.json")
    assert HELLO.encode() in done.stdout
    assert (done.returncode, done.stderr) == (0, b"")


def test_secure_boot_refuses_the_rest_and_says_why(cvmboot, sample, keys, signed):
    done = cvmboot("run", sample("hello"), "--vars", keys / "vars.json")
    assert done.returncode == 1
    assert b"Secure Boot" in done.stderr
    assert HELLO.encode() not in done.stdout
    image = signed(sample("hello"), keys / "signed.efi")
    changed = bytearray(image.read_bytes())
    at = changed.index("Hello from".encode("utf-16-le"))
    changed[at] ^= 1
    image.write_bytes(changed)
    done = cvmboot("run", image, "--vars", keys / "vars.json")
    assert done.returncode == 1
    assert b"Secure Boot" in done.stderr


def test_a_signed_loader_cannot_start_an_unsigned_image(boot, program, esp, sample, keys, signed):
    files = {"loader/loader.conf": "timeout menu-force\n", "loader/entries/b.conf": "title T\nefi /hello.efi\n"}
    folder = esp({"hello.efi": sample("hello"), **files})
    vm = boot(signed(program("systemd-bootx64.efi"), folder / "boot.efi"), esp=folder, vars=keys / "vars.json")
    vm.expect("T")
    vm.sendline()
    vm.expect("(?i)access denied|security.* violation")
    assert any("Secure Boot refuses it" in warning for warning in vm.warnings)


# -- the UEFI Shell


@pytest.fixture
def shell(boot, program, esp, sample):
    """The Shell at its prompt on FS0:, as a function of a command that gives its output."""
    folder = esp({"Shell.efi": program("Shell.efi"), "hello.efi": sample("hello"), "a.txt": "some text\r\n"})
    vm = boot(folder / "Shell.efi", esp=folder)
    vm.expect_exact("ESC")
    vm.send(ESCAPE)
    vm.expect_exact("Shell> ")

    def ask(command: str) -> str:
        vm.sendline(command)
        vm.expect(r"\n\r?(Shell|FS0:\\[^\r\n]*)> ")
        return vm.before

    ask("fs0:")
    return ask


def test_shell_version_map_and_files(shell):
    assert "UEFI Interactive Shell" in shell("ver")
    assert "FS0:" in shell("map")
    assert "hello.efi" in shell("ls")
    shell("cp a.txt b.txt")
    assert "some text" in shell("type b.txt")
    shell("rm b.txt")
    assert "b.txt" not in shell("ls *.txt").replace("ls *.txt", "")
    shell("mkdir d")
    shell("cd d")
    assert "Directory of: FS0:\\d\\" in shell("ls")


def test_shell_variables_handles_memory(shell):
    shell("set colour blue")
    assert "blue" in shell("set colour")
    shell("setvar Mine -guid 11111111-2222-3333-4444-555555555555 -bs -rt =0x1234")
    assert "34 12" in shell("dmpstore -guid 11111111-2222-3333-4444-555555555555")
    assert "SimpleFileSystem" in shell("dh -p SimpleFileSystem")
    assert "Total Memory" in shell("memmap")
    assert "not recognized" in shell("nosuchcommand")


def test_shell_starts_programs_with_arguments(shell):
    answer = shell("hello.efi one two")
    assert HELLO in answer
    assert "one two" in answer


def test_shell_runs_its_startup_script(boot, program, esp, sample):
    script = (
        "@echo -off\r\nfs0:\r\nhello.efi from a script\r\nfor %i in 1 2 3\r\necho number %i\r\nendfor\r\nreset -s\r\n"
    )
    folder = esp({"Shell.efi": program("Shell.efi"), "hello.efi": sample("hello"), "startup.nsh": script})
    vm = boot(folder / "Shell.efi", esp=folder)
    vm.expect_exact("startup.nsh")
    vm.send("x")
    vm.expect_exact("from a script")
    vm.expect_exact("number 3")
    assert vm.wait() == 0


# -- others

ENDS = {
    "gnu-efi/t.efi": ("Hello World!", 0),
    "gnu-efi/t3.efi": ("li->Unload:", 0),
    "gnu-efi/t4.efi": ("Hit any key to exit", 0),
    "gnu-efi/t6.efi": ("Load options", 0),
    "gnu-efi/t7.efi": ("UnicodeChar:", 0),
    "gnu-efi/t8.efi": ("Bye.", 0),
    "gnu-efi/tcc.efi": ("10 args works just fine here.", 0),
    "gnu-efi/setjmp.efi": ("got to be one yay", 0),
    "gnu-efi/modelist.efi": ("1280x800", 0),
    "gnu-efi/bltgrid.efi": ("", 0),
    "gnu-efi/printenv.efi": ("BootOrder", 0),
    "gnu-efi/drv0.efi": ("Driver instance loaded successfully.", 0),
    "gnu-efi/unsetdbg.efi": ("SetVariable failed: Not Found", 0),
    "gnu-efi/route80h.efi": ("Device not found.", 3),
}


@pytest.mark.parametrize("name", sorted(ENDS))
def test_gnu_efi_applications(cvmboot, program, name):
    text, status = ENDS[name]
    done = cvmboot("run", program(name, name.rpartition("/")[2]), "--timeout", "20", typed=b"\r")
    assert text.encode() in done.stdout
    assert done.returncode == status
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["gnu-efi/drv0_use.efi", "edk2/MemoryProfileInfo.efi", "edk2/VariableInfo.efi"])
def test_a_protocol_that_nobody_has_is_not_found(cvmboot, program, name):
    done = cvmboot("run", program(name, name.rpartition("/")[2]), "--timeout", "20")
    assert done.returncode in (0, 3)
    assert b"crashed" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_ipxe_at_its_prompt(boot, program):
    vm = boot(program("snponly.efi"))
    vm.expect_exact("Press Ctrl-B")
    vm.sendcontrol("b")
    vm.expect_exact("iPXE> ")
    vm.sendline("show version")
    vm.expect_exact("1.0.0")
    vm.expect_exact("iPXE> ")


def test_memtest_takes_the_screen_and_runs_on(boot, program):
    vm = boot(program("memtest86+x64.efi"), timeout=3)
    with pytest.raises(Exception, match="still runs"):
        vm.wait(3)
    assert vm.report == []
