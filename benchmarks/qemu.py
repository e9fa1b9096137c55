"""The reference: Debian's QEMU and OVMF, without KVM, on the machine type and with the memory that cvmboot has."""

import shutil
import subprocess
from pathlib import Path

_OVMF = Path("/usr/share/OVMF")
_CODE, _VARIABLES = "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"
_PROGRAM = "qemu-system-x86_64"


def missing() -> str:
    """Why there is no reference on this machine; empty if there is."""
    if shutil.which(_PROGRAM) is None:
        return f"no {_PROGRAM}"
    absent = [name for name in (_CODE, _VARIABLES) if not (_OVMF / name).exists()]
    return f"no {' and '.join(absent)} in {_OVMF}" if absent else ""


def version() -> str:
    """QEMU's own words."""
    text = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return text.partition("\n")[0]


def prepare(folder: Path, image: Path) -> list[str]:
    """The command line that boots `image` from an EFI system partition in `folder`, where the variables are kept, too."""
    partition = folder / "esp"
    boot = partition / "EFI" / "BOOT"
    boot.mkdir(parents=True)
    shutil.copyfile(image, boot / "BOOTX64.EFI")
    variables = folder / "variables.fd"
    shutil.copyfile(_OVMF / _VARIABLES, variables)
    return [
        *(_PROGRAM, "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "2G", "-smp", "1", "-no-reboot"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={_OVMF / _CODE}"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
        *("-drive", f"file=fat:rw:{partition},format=raw"),
        *("-net", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"),
    ]
