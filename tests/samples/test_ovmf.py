"""The samples do on OVMF what they claim: a check that real firmware fails is wrong about UEFI."""

from pathlib import Path

import pytest

from . import ovmf

BUILT = Path(__file__).parents[2] / "samples" / "built"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(ovmf.missing() is not None, reason=str(ovmf.missing())),
]


def boot(command: str, **more: object) -> str:
    files = {file.name: file for file in BUILT.glob("*.efi")}
    return ovmf.boot(files, command, **more)  # type: ignore[arg-type]


def test_hello_greets_and_shows_its_load_options() -> None:
    console = boot("\\hello.efi first second")
    assert "Hello from an EFI application!" in console
    assert 'options     "first second"' in console
    assert "# launcher: EFI_SUCCESS" in console


@pytest.mark.parametrize(
    ("option", "status"), [("return", "EFI_SUCCESS"), ("fail", "EFI_ABORTED"), ("other", "EFI_SUCCESS")]
)
def test_child_ends_as_asked(option: str, status: str) -> None:
    assert f"# launcher: {status}" in boot(f"\\child.efi {option}")


def test_files_variables_completes_and_echoes_a_line() -> None:
    console = boot("\\files_variables.efi", typed=[("Type a line: ", "hello worlds\b!\r")])
    assert 'You typed "hello world!", 12 characters.' in console
    assert "FAILED" not in console
    assert "# launcher: EFI_SUCCESS" in console
