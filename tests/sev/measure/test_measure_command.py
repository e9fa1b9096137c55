"""`cvmboot measure`, through the command line."""

import json
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from made_firmware import image, svsm_image
from test_igvm import AUTHOR, HEADERS, KEY, PAGE, POLICY, VMSA, WANTED, chain, id_block_header, igvm, page

from cvmboot.cli import main
from sev.measure import (
    Firmware,
    KernelHashes,
    sev_es_launch_digest,
    sev_launch_digest,
    snp_launch_digest,
    svsm_launch_digest,
)
from sev.measure.id_block import IdBlock, encode_public_key

MILAN = 0xA00F11
FMS = ("--vcpu-family", "25", "--vcpu-model", "1", "--vcpu-stepping", "1")
FIRMWARE = Firmware(image())


@pytest.fixture
def ovmf(tmp_path: Path) -> str:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(image())
    return str(path)


class Shell:
    """Runs command lines; `out` and `err` are what the last one wrote."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""

    def __call__(self, *words: object, status: int = 0) -> str:
        got = main(["measure", *(str(word) for word in words)])
        self.out, self.err = self._capture.readouterr()
        assert got == status, self.err
        if status in (1, 2):
            assert self.err.startswith("cvmboot: ")
            assert self.err.count("\n") == 1
        return self.out

    def json(self, *words: object, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status))


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_digest_of_qemu(measure: Shell, ovmf: str) -> None:
    wanted = snp_launch_digest(FIRMWARE, vcpus=4, signature=MILAN, guest_features=0x21).hex()
    assert (
        measure("--ovmf", ovmf, "--vcpus", 4, "--vcpu-type", "EPYC-Milan", "--guest-features", "0x21") == wanted + "\n"
    )
    assert measure("--ovmf", ovmf, "--vcpus", 4, "--vcpu-sig", "a00f11", "--guest-features", "21") == wanted + "\n"
    told = measure.json("--ovmf", ovmf, "--vcpus", 4, "--vcpu-sig", "0xA00F11", "--guest-features", "0x21")
    assert (told["digest"], told["guest_features_set"], told["vmm"]) == (wanted, ["SNP_ACTIVE", "DEBUG_SWAP"], "qemu")
    assert told["firmware"]["address"] == "0xffffc000"
    given = told["firmware"]["snp_ovmf_hash"]
    assert measure("--ovmf", ovmf, "--mode", "ovmf-hash") == given + "\n"
    assert measure("--ovmf", ovmf, "--vcpu-sig", "a00f11", "--snp-ovmf-hash", given) == measure(
        *("--ovmf", ovmf, "--vcpu-sig", "a00f11")
    )


def test_each_number_of_processors(measure: Shell, ovmf: str) -> None:
    wanted = [snp_launch_digest(FIRMWARE, vcpus=vcpus, signature=MILAN).hex() for vcpus in range(1, 65)]
    for text in ("1-64", "1..64"):
        lines = measure("--ovmf", ovmf, *FMS, "--vcpus", text).splitlines()
        assert [line.split() for line in lines] == [[str(index), each] for index, each in enumerate(wanted, 1)]
    told = measure.json("--ovmf", ovmf, *FMS, "--vcpus", "2-3")
    assert told["digests"] == [{"vcpus": 2, "digest": wanted[1]}, {"vcpus": 3, "digest": wanted[2]}]
    assert (told["vcpus"], told["vcpu_signature"]) == ([2, 3], "0x00a00f11")
    es = measure("--ovmf", ovmf, *FMS, "--vcpus", "2-3", "--mode", "sev-es").split()
    assert es[3] == sev_es_launch_digest(FIRMWARE, vcpus=3, signature=MILAN).hex()


def test_clouds_need_no_processor_model(measure: Shell, ovmf: str) -> None:
    one = measure("--ovmf", ovmf, "--vmm", "gce")
    two = measure("--ovmf", ovmf, "--vmm", "ec2")
    assert len({one, two, measure("--ovmf", ovmf, "--vmm", "krun")}) == 3
    measure("--ovmf", ovmf, status=2)
    assert "--vcpu-type" in measure.err


def test_kernel_files(measure: Shell, ovmf: str, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd"
    kernel.write_bytes(b"K" * (3 << 20))
    initrd.write_bytes(b"I")
    hashes = KernelHashes.of(b"K" * (3 << 20), b"I", "quiet")
    wanted = snp_launch_digest(FIRMWARE, vcpus=1, signature=MILAN, kernel=hashes).hex()
    files = ("--ovmf", ovmf, "--kernel", kernel, "--initrd", initrd, "--append", "quiet")
    assert measure(*files, "--vcpu-type", "EPYC-Milan") == wanted + "\n"
    assert measure(*files, "--mode", "sev") == sev_launch_digest(FIRMWARE, hashes).hex() + "\n"
    told = measure.json(*files[:-1], "wrong", "--explain", wanted, "--max-vcpus", 4, status=7)
    assert not told["found"]
    bare = snp_launch_digest(FIRMWARE, vcpus=1, signature=MILAN, kernel=KernelHashes.of(b"K" * (3 << 20), b"", "quiet"))
    assert "kernel hashes as given, no initrd\n" in measure(*files, "--explain", bare.hex(), "--max-vcpus", 4)


def test_svsm_and_igvm(measure: Shell, ovmf: str, tmp_path: Path) -> None:
    svsm = tmp_path / "svsm.bin"
    svsm.write_bytes(svsm_image())
    place = Firmware(svsm_image(), FIRMWARE.gpa - 0x3000)
    wanted = svsm_launch_digest(FIRMWARE, place, vcpus=2, signature=MILAN).hex()
    words = ("--ovmf", ovmf, "--svsm", svsm, "--vcpus", 2, "--vcpu-type", "EPYC-Milan")
    assert measure(*words, "--vars-size", "0x3000") == wanted + "\n"
    store = tmp_path / "vars.fd"
    store.write_bytes(bytes(0x3000))
    assert measure(*words, "--vars-file", store, "--guest-features", "21") == wanted + "\n"
    assert "--guest-features does not count" in measure.err
    measure(*words, status=2)
    told = measure.json(*words[:4], "--vars-file", store, "--explain", wanted)
    assert (told["match"]["kind"], told["match"]["vcpus"]) == ("SEV-SNP with an SVSM", 2)
    file = tmp_path / "guest.igvm"
    file.write_bytes(igvm(HEADERS, PAGE + VMSA))
    assert measure("--igvm", file) == chain(WANTED).hex() + "\n"
    measure("--igvm", file, "--ovmf", ovmf, status=2)
    measure("--igvm", ovmf, status=1)


def test_igvm_with_an_id_block(measure: Shell, tmp_path: Path) -> None:
    file = tmp_path / "guest.igvm"
    digest = chain(WANTED)
    for block, words in (
        (IdBlock(digest, policy=POLICY, guest_svn=3), ""),
        (IdBlock(bytes(48), policy=POLICY), f"wants the launch digest {'00' * 48}; no host will start it"),
        (IdBlock(digest, policy=POLICY | 1 << 19), "did not sign this ID block; no host will start it"),
    ):
        file.write_bytes(igvm([*HEADERS, id_block_header(block, KEY, AUTHOR)], PAGE + VMSA))
        assert measure("--igvm", file) == digest.hex() + "\n"
        assert words in measure.err if words else not measure.err
        told = measure.json("--igvm", file)
        assert (told["digest"], told["guest_policy"], told["pages"]["VMSA"]) == (digest.hex(), "0x30000", 1)
        assert bool(told["id_block"]["problem"]) == bool(words)
        assert told["id_block"]["id_key_digest"] == sha384(encode_public_key(KEY.public_key())).hexdigest()
        assert measure.json("inspect", file)["id_block"] == told["id_block"]
        assert f"launch digest     {digest.hex()}\n" in measure("inspect", file)
    file.write_bytes(igvm([*HEADERS, page(0x10000)], PAGE + VMSA))
    assert measure("--igvm", file, "--vmm", "QEMU") != measure("--igvm", file, "--native-zero")
    measure("--igvm", file, "--vmm", "QEMU")
    assert "QEMU on KVM measures another digest: it has pages after" in measure.err
    measure("--igvm", file, "--vmm", "ec2", status=2)
    measure("--ovmf", file, "--native-zero", status=2)


def test_dump_vmsa(measure: Shell, ovmf: str, tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    measure("--ovmf", ovmf, "--vcpus", 3, "--vcpu-type", "EPYC-Milan", "--dump-vmsa", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["vmsa0.bin", "vmsa1.bin", "vmsa2.bin"]
    assert (folder / "vmsa1.bin").read_bytes()[0x310:0x314] == bytes.fromhex("110fa000")


def test_explain(measure: Shell, ovmf: str) -> None:
    wanted = snp_launch_digest(FIRMWARE, vcpus=3, signature=MILAN, guest_features=0x21).hex()
    text = measure("--ovmf", ovmf, "--explain", wanted, "--vcpus", 2, "--vcpu-type", "EPYC-Genoa", "--vmm", "ec2")
    assert "vCPUs           3; you gave 2\n" in text
    assert "EPYC-Milan" in text
    assert "you gave ec2" in text
    told = measure.json("--ovmf", ovmf, "--explain", wanted)
    assert (told["found"], told["match"]["vcpus"], told["match"]["guest_features"]) == (True, 3, "0x21")
    there = measure("--ovmf", ovmf, *FMS, "--vcpus", 3).strip()
    told = measure.json("--ovmf", ovmf, "--explain", "00" * 48, "--max-vcpus", 4, "--vcpus", 3, status=7)
    assert [row["digest"] for row in told["closest"] if "EPYC-Milan" in row["vcpu_models"]] == [there]
    assert {row["vmm"] for row in told["closest"]} == {"qemu", "ec2", "gce"}
    text = measure("--ovmf", ovmf, "--explain", "00" * 48, "--max-vcpus", 2, status=7)
    assert "closest in kind" in text and f"{snp_launch_digest(FIRMWARE, vcpus=1, signature=MILAN).hex()}\n" in text
    assert text.startswith("nothing gives this digest")
    assert "vCPUs           1 to 2\n" in text


def test_explain_takes_the_file_of_a_report(measure: Shell, ovmf: str, real_data: Path) -> None:
    report = real_data / "pairs" / "milan-v2-vcek-120d77b2" / "report.bin"
    told = measure.json("--ovmf", ovmf, "--explain", report, "--max-vcpus", 2, status=7)
    assert told["digest"] == report.read_bytes()[0x90:0xC0].hex()


def test_inspect(measure: Shell, ovmf: str) -> None:
    text = measure("inspect", ovmf)
    assert "SNP_KERNEL_HASHES" in text
    assert "AP reset address  0x80b004" in text
    told = measure.json("inspect", ovmf)
    assert [part["name"] for part in told["sev_metadata"]][:2] == ["SNP_SEC_MEM", "SNP_CPUID"]
    assert told["reset_vector"] == "00" * 16


@pytest.mark.skipif(not Path("/usr/share/ovmf/OVMF.fd").exists(), reason="no OVMF image on this machine")
def test_volumes_of_a_real_image(measure: Shell) -> None:
    pytest.importorskip("uefi_firmware")
    told = measure.json("inspect", "/usr/share/ovmf/OVMF.fd")
    names = {module["name"] for volume in told["volumes"] for module in volume["modules"]}
    assert {"DxeCore", "AmdSevDxe"} <= names


def test_id_block(measure: Shell, tmp_path: Path) -> None:
    keys = []
    for name in ("id.pem", "author.pem"):
        path = tmp_path / name
        key = generate_private_key(SECP384R1())
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        keys.append(path)
    block, auth = tmp_path / "block", tmp_path / "auth"
    words = ("id-block", "--id-block", block, "--id-auth", auth)
    signed = measure.json(*words, "--digest", "ab" * 48, "--id-key", keys[0], "--author-key", keys[1], "--guest-svn", 3)
    assert (signed["launch_digest"], signed["guest_svn"], signed["policy"]) == ("ab" * 48, 3, "0x30000")
    assert measure.json(*words) == signed
    measure(*words[:3], "--id-auth", keys[0], status=1)
    measure("id-block", "--digest", "ab" * 48, status=2)
    measure("id-block", status=2)
    measure("id-block", "--digest", "ab" * 48, "--id-key", block, status=1)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ((), 2, "--ovmf FILE"),
        (("--ovmf", "/nonexistent"), 1, "No such file"),
        (("--ovmf", "OVMF", "--vmm", "xen"), 2, "'xen'"),
        (("--ovmf", "OVMF", "--mode", "tdx"), 2, "tdx"),
        (("--ovmf", "OVMF", "--vcpu-type", "486"), 2, "'486'"),
        (("--ovmf", "OVMF", "--vcpu-sig", "xyz"), 2, "--vcpu-sig xyz"),
        (("--ovmf", "OVMF", "--vcpu-sig", "1", "--vcpu-type", "EPYC"), 2, "given twice"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--vcpus", "0"), 1, "0 processors"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--vcpus", "many"), 2, "--vcpus"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--guest-features", "-1"), 2, "--guest-features -1"),
        (("--ovmf", "OVMF", "--initrd", "x"), 2, "need --kernel"),
        (("--ovmf", "OVMF", "--snp-ovmf-hash", "12"), 2, "48 bytes"),
        (("--ovmf", "OVMF", "--mode", "sev", "--snp-ovmf-hash", "12"), 2, "--mode snp"),
        (("--ovmf", "OVMF", "--mode", "sev", "--dump-vmsa", "x"), 2, "no processors"),
        (("--ovmf", "OVMF", "--explain", "12"), 2, "--explain 12"),
        (("--ovmf", "OVMF", "--explain", "0" * 96, "--max-vcpus", "-5", "--vcpus", "-5"), 1, "processors"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--vcpus", "4-1"), 2, "range upwards"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--vcpus", "1-9999"), 2, "at most 512"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--vcpus", "1-"), 2, "such as 1-64"),
        (("--ovmf", "OVMF", "--vmm", "gce", "--vcpus", "1-2", "--dump-vmsa", "x"), 2, "one number"),
        (("--ovmf", "OVMF", "--vcpu-family", "25"), 2, "all three"),
        (("--ovmf", "OVMF", *FMS, "--vcpu-type", "EPYC"), 2, "given twice"),
        (("--ovmf", "OVMF", *FMS[:-1], "99"), 2, "stepping 99"),
        (("inspect", "/nonexistent"), 1, "No such file"),
        (("inspect", "/dev/null"), 1, "0 bytes"),
    ],
)
def test_wrong_use(measure: Shell, ovmf: str, words: tuple[str, ...], status: int, text: str) -> None:
    measure(*(ovmf if word == "OVMF" else word for word in words), status=status)
    assert text in measure.err
