"""`cvmboot image build` and `inspect` as a person or a script uses them."""

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cvmboot.cli import main


class Done(NamedTuple):
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


Image = Callable[..., Done]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

COMMAND = [sys.executable, "-m", "cvmboot"]
SAMPLES = Path(__file__).parents[2] / "samples" / "built"
HELLO = SAMPLES / "hello.efi"
UNIKERNEL = SAMPLES / "unikernel_pvh.elf"
BOOT = "\\EFI\\BOOT\\BOOTX64.EFI"


@pytest.fixture
def image(capsys: pytest.CaptureFixture[str]) -> Image:
    """Run `cvmboot image ...` by its door, but in this process."""

    def run(*words: object) -> Done:
        return Done(main(["image", *map(str, words)]), *capsys.readouterr())

    return run


def test_build_then_inspect_then_run(cvmboot: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"some notes")
    done = cvmboot(
        "image", "build", HELLO, "-o", tmp_path / "d.raw", "-o", tmp_path / "d.qcow2", "--size", "64M",
        "--add", f"{tmp_path}/notes.txt:/docs/", "--label", "data", "--json",
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == b""
    raw, qcow2 = json.loads(done.stdout)
    assert raw["sha256"] == hashlib.sha256((tmp_path / "d.raw").read_bytes()).hexdigest() == qcow2["disk_sha256"]
    assert qcow2["sha256"] == hashlib.sha256((tmp_path / "d.qcow2").read_bytes()).hexdigest()
    assert (raw["boot"], raw["disk_size"], raw["format"], qcow2["format"]) == ("uefi", 64 << 20, "raw", "qcow2")

    for name in ("d.raw", "d.qcow2"):
        done = cvmboot("image", "inspect", tmp_path / name, "--json", "--digest")
        facts = json.loads(done.stdout)
        assert facts["disk_sha256"] == raw["disk_sha256"]
        assert {file["path"]: file["sha256"] for file in facts["files"]} == {
            file["path"]: file["sha256"] for file in raw["files"]
        }
        assert facts["partitions"][0]["is_esp"] and facts["partitions"][0]["file_system"]["label"] == "DATA"
        assert facts["problems"] == []
        (program,) = [file["pe"] for file in facts["files"] if file["pe"]]
        assert (program["machine"], program["subsystem"], program["nx_compat"]) == ("x86-64", "EFI application", True)
        assert [section["name"] for section in program["sections"]][:2] == [".text", ".rdata"]
        assert program["signatures"] == []
    done = cvmboot("run", tmp_path / "d.qcow2")
    assert done.returncode == 0 and b"Hello from an EFI application!" in done.stdout


def test_what_clouds_refuse(image: Image, tmp_path: Path) -> None:
    def refusals(name: str) -> dict[str, list[str]]:
        result: dict[str, list[str]] = json.loads(image("inspect", tmp_path / name, "--json")[1])["refusals"]
        return result

    assert image("build", HELLO, "-o", tmp_path / "g.tar.gz", "--no-digest")[0] == 0
    assert refusals("g.tar.gz")["gce"] == []
    assert image("build", HELLO, "-o", tmp_path / "v.vmdk", "--size", "64M")[0] == 0
    found = refusals("v.vmdk")
    assert found["ec2"] == []
    assert len(found["gce"]) == 2 and "no whole GiB" in found["gce"][1] and "--size 1G" in found["gce"][1]
    for command in (
        ["tar", "-czf", "g2.tar.gz", "--transform=s/.*/other.raw/", "small"],
        ["tar", "--format=posix", "-czf", "g3.tar.gz", "--transform=s/.*/disk.raw/", "small"],
        ["tar", "-czf", "g4.tar.gz", "--transform=s/d.small/disk.raw/", "d.small", "small"],
    ):
        (tmp_path / "small").write_bytes(bytes(1 << 20))
        (tmp_path / "d.small").write_bytes(bytes(1 << 20))
        subprocess.run(command, cwd=tmp_path, check=True)
    assert "'other.raw'; it has to be called disk.raw" in refusals("g2.tar.gz")["gce"][0]
    assert "format pax" in refusals("g3.tar.gz")["gce"][0]
    assert "more than disk.raw" in refusals("g4.tar.gz")["gce"][0]
    assert "nothing boots" in refusals("g2.tar.gz")["gce"][-1]


def test_no_boot_file_is_told(image: Image, tmp_path: Path) -> None:
    from images.block import FileDevice
    from images.disk import Disk
    from images.fat import FatVolume

    assert image("build", HELLO, "-o", tmp_path / "d.raw", "--size", "64M")[0] == 0
    volume = FatVolume(Disk(FileDevice(tmp_path / "d.raw", writable=True)).esp())
    volume.open(BOOT, write=True).delete()
    facts = json.loads(image("inspect", tmp_path / "d.raw", "--json")[1])
    assert "there is no \\EFI\\BOOT\\BOOTX64.EFI" in facts["refusals"]["ec2"][0]
    volume.make(BOOT).write(0, b"MZ no program")
    facts = json.loads(image("inspect", tmp_path / "d.raw", "--json")[1])
    assert facts["refusals"]["ec2"][0].startswith(f"{BOOT}: ")
    table = image("inspect", tmp_path / "d.raw")[1]
    assert "refuses it:" in table and "truncated" in table


def test_signing(image: Image, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for name in ("db", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt",
             "-subj", f"/CN=test {name}", "-days", "3650"], cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
    pair = f"{tmp_path}/db.key,{tmp_path}/db.crt"
    done = image("build", HELLO, "-o", tmp_path / "s.raw", "--size", "64M", "--sign", pair)
    assert done.returncode == 0, done.stderr
    facts = json.loads(image("inspect", tmp_path / "s.raw", "--json")[1])
    (signature,) = facts["files"][0]["pe"]["signatures"]
    assert signature["problem"] is None and signature["signers"][0]["subject"] == "test db"
    assert "signed by        test db (sha256); the signature is good" in image("inspect", tmp_path / "s.raw")[1]
    for words, text in (
        (f"{tmp_path}/db.key", "wanted KEY,CERT"),
        (f"{tmp_path}/other.key,{tmp_path}/db.crt", "does not belong"),
        (f"{tmp_path}/db.crt,{tmp_path}/db.crt", "no private key"),
    ):
        done = image("build", HELLO, "-o", tmp_path / "t.raw", "--sign", words)
        assert done.returncode in (1, 2) and text in done.stderr and done.stderr.count("\n") == 1
        assert not (tmp_path / "t.raw").exists()


def test_what_was_signed_here_starts_under_secure_boot(cvmboot: Run, image: Image, tmp_path: Path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    from uefi import guids
    from uefi.guids import Guid
    from uefi.security import signature_lists
    from uefi.security.signature_lists import Signature, SignatureList
    from uefi.time import EfiTime
    from uefi.variables.nv_file import NvFile
    from uefi.variables.variable import Variable

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "owner")])
    now = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7).not_valid_before(now).not_valid_after(now)
    certificate = builder.sign(key, SHA256())
    (tmp_path / "db.key").write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "db.crt").write_bytes(certificate.public_bytes(Encoding.DER))
    data = signature_lists.build(
        [SignatureList(guids.CERT_X509, [Signature(Guid(bytes(16)), certificate.public_bytes(Encoding.DER))])]
    )
    kinds = {"PK": guids.GLOBAL_VARIABLE, "KEK": guids.GLOBAL_VARIABLE, "db": guids.IMAGE_SECURITY_DATABASE}
    variables = [Variable(name, guid, 0x27, data, time=EfiTime(2026, 1, 1)) for name, guid in kinds.items()]
    NvFile(tmp_path / "vars.json").save(variables)
    for name, words in (("signed", ("--sign", f"{tmp_path}/db.key,{tmp_path}/db.crt")), ("unsigned", ())):
        assert image("build", HELLO, "-o", tmp_path / f"{name}.raw", "--size", "64M", *words).returncode == 0
        done = cvmboot("run", tmp_path / f"{name}.raw", "--vars", tmp_path / "vars.json")
        assert done.returncode == (name == "unsigned")
        assert (b"Hello from" in done.stdout) == (name == "signed")
        assert (b"Secure Boot" in done.stderr) == (name == "unsigned")


def test_a_tampered_program_is_seen(image: Image, tmp_path: Path) -> None:
    """Its signature is a good one of another image."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    from loader.authenticode_sign import Signer, sign

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bad\x1b[31m name")])
    now = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7).not_valid_before(now).not_valid_after(now)
    signed = bytearray(sign(HELLO.read_bytes(), Signer(key, [builder.sign(key, SHA256())])))
    signed[0x410] ^= 1
    (tmp_path / "app.efi").write_bytes(signed)
    facts = json.loads(image("inspect", tmp_path / "app.efi", "--json")[1])
    assert "over another image" in facts["pe"]["signatures"][0]["problem"]
    table = image("inspect", tmp_path / "app.efi").stdout
    assert "BAD: it is over another image" in table and "\x1b" not in table


def test_an_elf_unikernel(image: Image, tmp_path: Path) -> None:
    done = image("build", UNIKERNEL, "-o", tmp_path / "u.tar.gz", "--cmdline", "a b", "--json", "--no-digest")
    plain = json.loads(done.stdout)
    assert (plain["boot"], plain["sha256"], plain["disk_sha256"]) == ("bios", None, None)
    assert plain["application_sha256"] == hashlib.sha256(UNIKERNEL.read_bytes()).hexdigest()
    facts = json.loads(image("inspect", tmp_path / "u.tar.gz", "--json")[1])
    assert (facts["boot"], facts["scheme"], facts["problems"]) == ("bios", "mbr", [])
    assert (facts["bios_program"]["command_line"], facts["bios_program"]["entry_kind"]) == ("a b", "pvh")
    assert facts["refusals"]["gce"] == []
    assert "pvh entry 0x2000020" in image("inspect", tmp_path / "u.tar.gz").stdout
    assert json.loads(image("inspect", UNIKERNEL, "--json")[1])["elf"]["pvh_entry"] == "0x2000020"


@pytest.mark.parametrize(
    ("words", "text", "status"),
    [
        (("{hello}", "-o", "{tmp}/x.iso"), "the name says no format", 1),
        (("{hello}", "-o", "{tmp}/x", "--format", "vdi"), "wanted raw, gce, vmdk", 1),
        (("{hello}", "-o", "{tmp}/x.raw", "--size", "much"), "--size much: not a size", 2),
        (("{hello}", "-o", "{tmp}/x.raw", "--size", "8M"), "too small for FAT32", 1),
        (("{hello}", "-o", "{tmp}/x.tar.gz", "--size", "1500M"), "whole GiB", 1),
        (("{hello}", "-o", "{tmp}/x.raw", "--esp-size", "2G", "--size", "1G"), "--size 2050M or more", 1),
        (("{hello}", "-o", "{tmp}/x.raw", "--add", "nothing"), "wanted SRC:DEST", 2),
        (("{hello}", "-o", "{tmp}/x.raw", "--add", "{tmp}/no:/"), "no such file or folder", 1),
        (("{hello}", "-o", "{tmp}/x.raw", "--initrd", "{hello}"), "name it with --linux", 2),
        (("{hello}", "-o", "{tmp}/no/x.raw"), "make it first", 1),
        (("{tmp}/missing.efi", "-o", "{tmp}/x.raw"), "cannot be read", 1),
        (("{tmp}", "-o", "{tmp}/x.raw"), "no regular file", 1),
        (("{hello}",), "Missing option", 2),
        (("{hello}", "-o", "{tmp}/x.raw", "-o", "{tmp}/y.raw", "--format", "raw"), "--format is for one -o", 2),
        (("{elf}", "-o", "{tmp}/x.raw", "--add", "{hello}:/"), "no file system", 1),
    ],
)
def test_one_line_for_each_mistake(
    image: Image, tmp_path: Path, words: tuple[str, ...], text: str, status: int
) -> None:
    given = [word.format(hello=HELLO, tmp=tmp_path, elf=UNIKERNEL) for word in words]
    done = image("build", *given)
    assert done.returncode == status
    assert text in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_inspected(image: Image, tmp_path: Path) -> None:
    for name, content, text in (
        ("empty", b"", "problem"),
        ("a.xz", b"\xfd7zXZ\0" + bytes(600), "xz -d"),
        ("a.qcow2", b"QFI\xfb" + bytes(600), "version 0"),
        ("a.tar.gz", b"\x1f\x8b" + bytes(600), "gzip"),
    ):
        (tmp_path / name).write_bytes(content)
        done = image("inspect", tmp_path / name)
        if name == "empty":
            assert done.returncode == 0 and "boots by         nothing" in done.stdout
            continue
        assert done.returncode == 1 and text in done.stderr and name in done.stderr
        assert done.stderr.count("\n") == 1
    assert image("inspect", tmp_path / "missing")[0] == 1


def test_an_existing_file_is_kept_without_force(image: Image, tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(b"mine")
    done = image("build", HELLO, "-o", tmp_path / "x.raw")
    assert done.returncode == 1 and "--force to overwrite" in done.stderr
    assert (tmp_path / "x.raw").read_bytes() == b"mine"
    assert image("build", HELLO, "-o", tmp_path / "x.raw", "--size", "64M", "--force")[0] == 0
    assert (tmp_path / "x.raw").stat().st_size == 64 << 20


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing(command: list[str], tmp_path: Path, number: int, status: int) -> None:
    with (tmp_path / "large").open("wb") as file:
        for _ in range(8):
            file.write(os.urandom(16 << 20))
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [*command, "image", "build", HELLO, "-o", tmp_path / "out" / "x.tar.gz", "--add", f"{tmp_path}/large:/"],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any((tmp_path / "out").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == status
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_one_line(cvmboot: Run, tmp_path: Path) -> None:
    """A file system of our own that is too small, where this machine lets us have one."""
    place = tmp_path / "small"
    place.mkdir()
    command = " ".join([*COMMAND, "image", "build", str(HELLO), "-o", f"{place}/x.raw", "--size", "64M"])
    command = " ".join([*COMMAND, "image", "build", str(HELLO), "-o", f"{place}/x.raw", "--size", "64M"])
    script = f"mount -t tmpfs -o size=16k none {place} && exec {command}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script], capture_output=True, check=False
    )
    if b"unshare" in done.stderr or b"mount" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 1
    assert b"the disk is full; free some room" in done.stderr and done.stderr.count(b"\n") == 1


def test_progress_is_for_terminals_and_long_work(tmp_path: Path, command: list[str]) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*command, "image", "build", HELLO, "-o", tmp_path / "x.raw", "--size", "3G"],
        stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(master)
    assert process.wait(60) == 0
    assert b"SHA-256" in shown and b"GiB" in shown


def test_help_has_examples(cvmboot: Run) -> None:
    text = cvmboot("image", "build", "--help").stdout.decode()
    assert "--sign" in text and "cvmboot image build go-boot.efi -o disk.raw" in text
    assert "inspect" in cvmboot("image", "--help").stdout.decode()
