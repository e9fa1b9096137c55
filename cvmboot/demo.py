"""`cvmboot demo`: boots the samples that ship with the program, as a person would."""

import sys
import time
from importlib.resources import as_file, files
from pathlib import Path

from cvmboot.errors import CvmbootError
from cvmboot.options import RunOptions
from cvmboot.run import Session
from cvmboot.status import ERROR, SUCCESS

STEPS = (("hello.efi", "greetings from the command line", "An EFI application says where it found itself:"),)
ATTESTER = "snp_report.efi"
NONCE_SIZE = 64
POLICY = 7
"""Exit status of `attest verify` for a report that is genuine and not what was asked for."""
_SHOWN = 3
"""Lines of the report that are shown of its 37."""


def sample(name: str) -> Path:
    """The built sample `name`: shipped within the package, or beside it in the source tree. CvmbootError if missing."""
    tree = Path(__file__).resolve().parent.parent / "samples" / "built" / name
    if tree.is_file():
        return tree
    with as_file(files("cvmboot") / "samples" / name) as packaged:
        if packaged.is_file():
            return packaged
    raise CvmbootError(f"the sample {name} is missing: neither {tree} nor {packaged} is there; install cvmboot again")


def demo() -> int:
    """Boot the samples, verify a report; gives the exit status of the first that fails."""
    for name, arguments, heading in STEPS:
        image = sample(name)
        _show(f'{heading}\n\n$ cvmboot run {name} --args "{arguments}"\n')
        begin = time.perf_counter()
        result = Session(image, RunOptions(args=arguments, timeout=60.0)).run()
        if result != SUCCESS:
            return result
        _show(f"\n({name} returned EFI_SUCCESS; {time.perf_counter() - begin:.2f} s from power on to power off.)\n\n")
    result = _attest()
    if result != SUCCESS:
        return result
    _show("No firmware image, no QEMU, no root, no EPYC server was needed. Now try your own: cvmboot run IMAGE\n")
    return SUCCESS


def _attest() -> int:
    """An SEV-SNP guest gets a report over our nonce; it is verified under the emulated platform, which is named."""
    from secrets import token_bytes

    from cvmboot.snp import DEFAULT_PRODUCT, open_platform, user_platform_folder
    from cvmboot.virtual_machine import VirtualMachine

    nonce = token_bytes(NONCE_SIZE)
    folder = user_platform_folder(DEFAULT_PRODUCT)
    _show("A third one runs as an SEV-SNP guest and asks its secure processor for a report over a nonce of ours:\n\n")
    _show(f"$ cvmboot run --snp {ATTESTER} --args {nonce.hex()[:16]}...\n")
    open_platform(folder if (folder / "platform.json").exists() else None, None)
    with VirtualMachine(sample(ATTESTER), snp=True, args=nonce.hex(), timeout=60) as vm:
        vm.expect_exact("bytes:")
        words = vm.read().split()
        status = vm.wait(60)
    _show("attestation report, 1184 bytes:\n" + "".join(f"{word}\n" for word in words[:_SHOWN]) + "[...]\n")
    if status != SUCCESS:
        return status or ERROR
    return _verify(bytes.fromhex("".join(words)), nonce, folder)


def _verify(raw: bytes, nonce: bytes, folder: Path) -> int:
    from cvmboot.attest import platform_certificates
    from cvmboot.attest_verdict import print_verdict
    from sev.appraisal import appraise
    from sev.evidence import Evidence
    from sev.report import Report
    from sev.verifier import verify

    _show(
        "\nWhoever sent the nonce verifies it; making the emulated chip's certificates takes seconds the first time:\n\n"
    )
    _show("$ cvmboot attest verify report.bin --platform PLATFORM\n")
    evidence = Evidence(raw)
    roots = platform_certificates(evidence, folder)
    verdict = verify(evidence.report, evidence.certificates, roots=roots)
    report = Report.decode(raw)
    appraise(verdict, report)
    print_verdict(verdict)
    if report.report_data != nonce:
        _show("The report is over another nonce than ours!\n")
        return POLICY
    _show("\nThe report's data are our nonce: it is an answer to us, now.\n\n")
    return int(verdict.status)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
