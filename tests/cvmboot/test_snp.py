"""`cvmboot run --snp`: options, the platform that is kept for the user, statuses, and real guests with their SEV commands."""

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmboot import VirtualMachine
from cvmboot.errors import CvmbootError, UsageError
from sev.platform import Platform
from sev.report import Report
from tests.cvmboot.conftest import Run
from tests.cvmboot.guest_code import RESET_OR_RETURN, application

Guest = Callable[[str], Path]
RAW = re.compile(rb"[0-9a-f]{2368}")


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform kept for the user is not the one of whoever runs the tests."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    folder = tmp_path / "platform"
    Platform.new(folder, "milan", with_certificates=False)
    return folder


def reports(output: bytes) -> list[Report]:
    return [Report.decode(bytes.fromhex(found.decode())) for found in RAW.findall(output)]


# -- options


def test_the_platform_kept_for_the_user_is_made_once(cvmboot: Run, sample: Guest, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cvmboot" / "platforms"
    assert cvmboot("run", "--snp", sample("hello")).returncode == 0
    kept = (folder / "turin" / "secret.bin").read_bytes()
    assert cvmboot("run", "--snp", sample("hello")).returncode == 0
    assert (folder / "turin" / "secret.bin").read_bytes() == kept
    assert cvmboot("run", "--snp", "--product", "genoa", sample("hello")).returncode == 0
    assert Platform.load(folder / "genoa").settings.product == "genoa"


def test_a_well_behaved_guest_is_not_complained_of(cvmboot: Run, sample: Guest, platform: Path) -> None:
    for name in ("hello", "files_variables"):
        plain = cvmboot("run", "--args", "noinput", sample(name))
        snp = cvmboot(
            "run", "--args", "noinput", "--snp", "--snp-check", "strict", "--platform", platform, sample(name)
        )
        assert snp.returncode == plain.returncode == 0
        assert b"SEV-SNP rules" not in snp.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vmpl", "1"], "--vmpl says how an SEV-SNP guest is made; add --snp"),
        (["--snp-check", "off"], "--snp-check says how"),
        (["--snp", "--vmpl", "4"], "--vmpl 4: wanted a number from 0 to 3"),
        (["--snp", "--report-version", "4"], "--report-version 4: wanted 2 or 3 or 5"),
        (["--snp", "--host-data", "abcd"], "--host-data abcd: wanted 32 bytes"),
        (["--snp", "--measurement", "zz"], "--measurement zz: wanted 48 bytes"),
        (["--snp", "--guest-policy", "0x10000"], "guest policy 0x10000: bit 17 must be one"),
        (["--snp", "--guest-policy", "-1"], "--guest-policy -1: wanted a number"),
        (["--snp", "--snp-check", "maybe"], "--snp-check maybe: wanted off or warn or strict"),
        (["--snp", "--product", "rome"], "--product rome: wanted milan or genoa or turin"),
        (["--snp", "--id-block", "nowhere"], "--id-block and --id-auth go together"),
    ],
)
def test_options_that_make_no_sense(cvmboot: Run, sample: Guest, words: list[str], message: str) -> None:
    ended = cvmboot("run", *words, sample("hello"))
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"cvmboot: ")
    assert message in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1


def test_a_platform_that_is_none(cvmboot: Run, sample: Guest, tmp_path: Path, platform: Path) -> None:
    ended = cvmboot("run", "--snp", "--platform", tmp_path, sample("hello"))
    assert ended.returncode == 1
    assert b"no emulated platform there" in ended.stderr
    ended = cvmboot("run", "--snp", "--platform", platform, "--product", "turin", sample("hello"))
    assert ended.returncode == 2
    assert b"is a milan" in ended.stderr


# -- ID blocks


def _public_key(key: object) -> bytes:
    numbers = key.public_key().public_numbers()  # type: ignore[attr-defined]
    raw = (2).to_bytes(4, "little") + numbers.x.to_bytes(72, "little") + numbers.y.to_bytes(72, "little")
    return raw.ljust(0x404, b"\0")


def _signed(key: object, data: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))  # type: ignore[attr-defined]
    return (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(512, b"\0")


def id_files(tmp_path: Path, measurement: bytes, policy: int = 0x30000) -> tuple[Path, Path, bytes, bytes]:
    """ID block (raw) and authentication (base64) of fresh keys, and the digests of the ID key and the author key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    id_key, author_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    block = measurement + b"F" * 16 + b"I" * 16 + (1).to_bytes(4, "little") + (7).to_bytes(4, "little")
    block += policy.to_bytes(8, "little")
    auth = bytearray(4096)
    auth[0:8] = b"\1\0\0\0\1\0\0\0"
    auth[0x40:0x240] = _signed(id_key, block)
    auth[0x240 : 0x240 + 0x404] = _public_key(id_key)
    auth[0x680:0x880] = _signed(author_key, _public_key(id_key))
    auth[0x880 : 0x880 + 0x404] = _public_key(author_key)
    paths = tmp_path / "block", tmp_path / "auth"
    paths[0].write_bytes(block)
    paths[1].write_bytes(base64.encodebytes(bytes(auth)))
    digests = [hashlib.sha384(_public_key(key)).digest() for key in (id_key, author_key)]
    return *paths, digests[0], digests[1]


def test_an_id_block_has_to_fit(sample: Guest, tmp_path: Path, platform: Path) -> None:
    digest = hashlib.sha384(sample("hello").read_bytes()).digest()
    block, auth, _, _ = id_files(tmp_path, digest)
    with VirtualMachine(sample("hello"), snp=True, platform=platform, id_block=block, id_auth=auth) as vm:
        assert vm.wait() == 0
    block, auth, _, _ = id_files(tmp_path, bytes(48))
    with pytest.raises(CvmbootError, match="BAD_MEASUREMENT"):
        VirtualMachine(sample("hello"), snp=True, platform=platform, id_block=block, id_auth=auth)
    block, auth, _, _ = id_files(tmp_path, digest, 0xB0000)
    with pytest.raises(CvmbootError, match="POLICY_FAILURE"):
        VirtualMachine(sample("hello"), snp=True, platform=platform, id_block=block, id_auth=auth)
    block.write_bytes(block.read_bytes()[:-1] + b"\1")
    with pytest.raises(CvmbootError, match="signature over the ID block does not verify"):
        VirtualMachine(sample("hello"), snp=True, platform=platform, id_block=block, id_auth=auth)
    block.write_bytes(b"short")
    with pytest.raises(CvmbootError, match="wanted 96"):
        VirtualMachine(sample("hello"), snp=True, platform=platform, id_block=block, id_auth=auth)
    with pytest.raises(UsageError, match="give both"):
        VirtualMachine(sample("hello"), snp=True, platform=platform, id_auth=auth)


# -- small guests

_WRITE_GHCB = b"\xb9\x30\x01\x01\xc0"  # mov ecx, 0xc0010130
_VMGEXIT = b"\xf3\x0f\x01\xd9"
_RETURN = b"\x31\xc0\xc3"


def test_a_guest_that_asks_for_its_termination_has_crashed(
    cvmboot: Run, image: Callable[[bytes], Path], platform: Path
) -> None:
    code = b"\xb8\x00\x11\x02\x00\x31\xd2" + _WRITE_GHCB + b"\x0f\x30" + _VMGEXIT + b"\xeb\xfe"  # reason 2 of set 1
    ended = cvmboot("run", "--snp", "--platform", platform, image(application(code)))
    assert ended.returncode == 4
    assert b"the guest asked for its termination: reason 0x2 of set 1, PVALIDATE failed" in ended.stderr


def test_a_refused_request_is_explained(cvmboot: Run, image: Callable[[bytes], Path], platform: Path) -> None:
    # RDMSR gives the GHCB; exit code 0x1234, all fields valid, VMGEXIT
    code = _WRITE_GHCB + b"\x0f\x32\x48\xc7\x80\x90\x03\x00\x00\x34\x12\x00\x00\x48\xc7\x80\xf8\x03\x00\x00"
    code += b"\xff\xff\xff\xff" + _VMGEXIT + _RETURN
    ended = cvmboot("run", "--snp", "--platform", platform, image(application(code)))
    assert ended.returncode == 0
    assert b"refused: 1, the last:\n  GHCB: SW_EXITCODE 0x1234 is not known" in ended.stderr


def test_a_reset_is_a_new_launch(image: Callable[[bytes], Path], platform: Path) -> None:
    with VirtualMachine(image(RESET_OR_RETURN), snp=True, platform=platform) as vm:
        vm.expect_exact("R")
        vm.send("r")
        vm.expect_exact("R")
        vm.send("x")
        assert vm.wait() == 0


# -- real guests


def test_tamago_sev_example(guest: Guest, cvmboot: Run, platform: Path) -> None:
    image = guest("tamago-sev-example.efi")
    typed = b"sev\nsev-report\nsev-tsc\nsev-kdf\nshutdown\n"
    ended = cvmboot("run", "--snp", "--platform", platform, image, typed=typed)
    text = ended.stdout.decode()
    assert ended.returncode == 0
    for line in (
        *("SEV ................: true", "SEV-ES .............: true", "SEV-SNP ............: true"),
        *("Encrypted bit ......: 51", "SNP Version ........: 1", "Secrets Page .......: 0x80d000 (4096 bytes)"),
        *("Secrets Version ....: 4", "TSC Factor .........: 0xc8", "Launch Mitigations .: 0xb"),
        *("GHCB GPA ...........: 0x820000", "Hypervisor Features : 0x3", "Guest TSC Scale ....: 4294967296"),
        f"Measurement ........: {hashlib.sha384(image.read_bytes()).hexdigest()}",
    ):
        assert line in text
    assert "error" not in text
    summary = ended.stderr.decode()
    assert "pvalidate-shared" in summary, "TamaGo converts its first pages again and again"
    assert "kvm/sev.pvalidate" in summary


def test_derived_keys_last_and_reports_do_not(guest: Guest, cvmboot: Run, platform: Path, tmp_path: Path) -> None:
    image = guest("tamago-sev-example.efi")

    def key(*words: object) -> bytes:
        ended = cvmboot("run", "--snp", "--platform", platform, *words, image, typed=b"sev-kdf\nshutdown\n")
        found = re.findall(rb"^([0-9a-f]{64})\r?$", ended.stdout, re.MULTILINE)
        assert len(found) == 1
        return bytes(found[0])

    first = key()
    assert key() == first
    assert key("--host-data", "11" * 32) == first, "host data is not selected"
    others = [key("--guest-policy", "0xb0000"), key("--measurement", "22" * 48)]
    Platform.new(tmp_path / "other", "milan", with_certificates=False)
    others.append(key("--platform", tmp_path / "other"))
    assert len({first, *others}) == 4


@pytest.mark.parametrize("name", ["tamago-sev-example.efi", "go-boot.efi"])
def test_a_raw_report_verifies_with_its_platform_alone(
    guest: Guest, cvmboot: Run, platform: Path, tmp_path: Path, name: str
) -> None:
    typed = b"sev\nsev-report raw\nsev-report raw\nshutdown\n"
    options = ["--host-data", "5a" * 32, "--measurement", "77" * 48]
    found = reports(cvmboot("run", "--snp", "--platform", platform, *options, guest(name), typed=typed).stdout)
    assert len(found) == 2
    report, again = found
    assert (report.version, report.vmpl, report.guest_svn) == (5, 0, 0)
    assert (report.host_data, report.measurement) == (b"\x5a" * 32, b"\x77" * 48)
    assert report.report_id == again.report_id
    assert report.report_data != again.report_data
    file = tmp_path / "report.bin"
    file.write_bytes(report.encode())
    assert cvmboot("attest", "verify", file, "--platform", platform).returncode == 0
    assert cvmboot("attest", "verify", file).returncode != 0
    Platform.new(tmp_path / "other", "milan")
    assert cvmboot("attest", "verify", file, "--platform", tmp_path / "other").returncode != 0


def test_what_tamago_does_with_other_versions_and_busy_times(guest: Guest, cvmboot: Run, platform: Path) -> None:
    image = guest("tamago-sev-example.efi")

    def say(*words: object) -> str:
        typed = b"sev-report\nsev-report\nshutdown\n"
        return cvmboot("run", "--snp", "--platform", platform, *words, image, typed=typed).stdout.decode()

    assert say("--report-version", "3").count("unsupported report version") == 2
    assert say("--vmpl", "1").count("could not get report") == 2, "VMPCK0 is not the guest's"
    busy = say("--sp-busy", "1")
    assert "info2:0x200000000" in busy
    assert busy.count("SignatureR") == 1


def test_an_id_block_in_the_report(guest: Guest, cvmboot: Run, platform: Path, tmp_path: Path) -> None:
    block, auth, id_digest, author_digest = id_files(tmp_path, b"\x77" * 48)
    options = ["--measurement", "77" * 48, "--id-block", block, "--id-auth", auth]
    image = guest("tamago-sev-example.efi")
    typed = b"sev-report raw\nshutdown\n"
    (report,) = reports(cvmboot("run", "--snp", "--platform", platform, *options, image, typed=typed).stdout)
    assert (report.family_id, report.image_id, report.guest_svn) == (b"F" * 16, b"I" * 16, 7)
    assert (report.id_key_digest, report.author_key_digest) == (id_digest, author_digest)
    assert report.author_key_en


@pytest.mark.usefixtures("engine")
def test_strict_ends_with_its_own_status(guest: Guest, cvmboot: Run, platform: Path) -> None:
    image = guest("tamago-sev-example.efi")
    for mode, status in (("off", 0), ("warn", 0), ("strict", 6)):
        ended = cvmboot("run", "--snp", "--platform", platform, "--snp-check", mode, image, typed=b"shutdown\n")
        assert ended.returncode == status
        assert (b"pvalidate-shared" in ended.stderr) == (mode != "off")


def test_the_same_input_gives_the_same_keys_under_virtual_time(guest: Guest, cvmboot: Run, platform: Path) -> None:
    def run() -> bytes:
        options = ["--snp", "--platform", platform, "--clock", "virtual"]
        typed = b"sev\nsev-kdf\nsev-tsc\nshutdown\n"
        return bytes(cvmboot("run", *options, guest("tamago-sev-example.efi"), typed=typed).stdout)

    assert run() == run()


def test_dma_memory_that_tamago_never_converts_is_named(guest: Guest, platform: Path) -> None:
    """Its loop converts the first 253 pages again and again; its network driver then uses the others."""
    image = guest("tamago-sev-example.efi")
    with VirtualMachine(image, snp=True, platform=platform, nic="gvnic", net="user:builtin") as vm:
        vm.expect_exact("> ")
        vm.sendline("net-gve 10.0.2.15/24 10.0.2.2")
        vm.expect_exact("stopping serial console")
    (summary,) = vm.warnings
    assert "private-as-shared: used as shared (C-bit 0), but never converted" in summary
    assert re.search(
        r"at RIP 0x[0-9a-f]+ \(tamago-sev-example.efi runtime\.memclr.*first at address 0x[0-9a-f]+", summary
    )


# -- several processors


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_guest_creates_and_destroys_its_second_processor(
    cvmboot: Run, sample: Guest, platform: Path, clock: str
) -> None:
    words = ("--snp", "--snp-check", "strict", "--platform", platform, "--clock", clock, "--cpus", "2")
    done = cvmboot("run", *words, sample("snp_processors"))
    assert b"FAILED" not in done.stdout and done.returncode == 0
    assert b"an INIT starts it from its VMSA" in done.stdout
    assert b"requests of the guest that were refused: 3" in done.stderr
    assert b"that RMPADJUST has not made one" in done.stderr
    assert b"SEV-SNP rules" not in done.stderr


def test_a_machine_with_one_processor_has_none_to_create(cvmboot: Run, sample: Guest, platform: Path) -> None:
    done = cvmboot("run", "--snp", "--platform", platform, sample("snp_processors"))
    assert b"FAILED: the second processor is created" in done.stdout and done.returncode == 3


def test_boot_services_run_procedures_on_an_snp_guests_processors(cvmboot: Run, sample: Guest, platform: Path) -> None:
    words = ("--snp", "--snp-check", "strict", "--platform", platform, "--cpus", "3", "--args", "processors")
    done = cvmboot("run", *words, sample("everything"))
    assert b"passed 62 failed 0" in done.stdout and done.returncode == 0
