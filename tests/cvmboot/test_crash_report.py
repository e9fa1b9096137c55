"""What a person sees when the guest dies: status 4, one line that says it all, and what is needed to find out why."""

import os

import pytest

from tests import program_database


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("page", b"page fault (vector 14, error code 0x2) at 0x600000000000"),
        ("divide", b"divide error (vector 0)"),
        ("ud2", b"invalid opcode (vector 6)"),
        ("gp", b"general protection fault (vector 13"),
        ("null-jump", b"page fault"),
        ("triple", b""),
        ("stack", b""),
    ],
)
def test_the_first_line_says_it_all(cvmboot, sample, fault, said):
    done = cvmboot("run", sample("faults"), "--args", fault)
    assert done.returncode == 4
    first = done.stderr.splitlines()[0]
    assert first.startswith(b"cvmboot: the guest crashed: " + said)
    assert b"RIP 0x" in first
    assert b"Traceback" not in done.stderr


@pytest.mark.usefixtures("engine")
def test_the_report(cvmboot, sample):
    text = cvmboot("run", sample("faults"), "--args", "divide").stderr.decode()
    assert "faults.efi" in text.splitlines()[0]
    marked = [line for line in text.splitlines() if line.strip().startswith("=>")]
    assert len(marked) == 1
    assert " div " in marked[0]
    assert "rax 0000000000000001" in text
    for heading in ("code:", "callers:", "stack at 0x", "last service calls:", "images:"):
        assert heading in text
    assert "EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL.OutputString(This=0x" in text


def test_go_functions_are_named(cvmboot, guest):
    done = cvmboot("run", guest("go-boot.efi"), typed=b"peek 600000000000 8\n")
    assert done.returncode == 4
    text = done.stderr.decode()
    assert "(go-boot.efi runtime.memmove+" in text.splitlines()[0]
    callers = [line.split()[-1] for line in text.split("callers:\n")[1].split("stack at")[0].splitlines()]
    assert callers[0].startswith("runtime.makeslicecopy+")
    assert callers[1].startswith("github.com/usbarmory/go-boot/cmd.memCopy+")
    assert any(caller.startswith("main.main+") for caller in callers)


def test_names_come_from_a_program_database_beside_the_image(cvmboot, tmp_path):
    program_database.build(
        tmp_path,
        '__attribute__((noinline)) void dies(void) { __asm__ volatile("ud2"); }\n'
        "int efi_main(void *image, void *table) { dies(); return image == table; }\n",
    )
    assert b"(app.efi dies)" in cvmboot("run", tmp_path / "app.efi").stderr.splitlines()[0]
    assert b"(app.efi efi_main+" in cvmboot("run", tmp_path / "app.efi").stderr
    (tmp_path / "app.pdb").unlink()
    os.mkfifo(tmp_path / "app.pdb")
    assert b"(app.efi+0x10" in cvmboot("run", tmp_path / "app.efi").stderr
