"""A machine with SVM for tests: Debian's kernel with kvm-amd in QEMU, whose TCG translates SVM with nested paging, too.

Its root is this machine's, read-only by 9p, so that it runs this Python and these files. It runs one shell script and goes.
It has one processor: two that QEMU translates in threads of their own wait for each other all the time on a busy host.
"""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.guests.linux_guest import Linux

QEMU = "qemu-system-x86_64"
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "kvm_amd")
_PROCESSOR = "EPYC-Milan,+svm,+npt"
_MEMORY_MIB = 2560
_INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
{modules}
mkdir -p /host /dev/shm /dev/pts
mount -t tmpfs tmp /dev/shm; mount -t devpts pts /dev/pts; ln -s /proc/self/fd /dev/fd
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=500000 root /host || poweroff -f
mkdir /dev/shm/share
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none share /dev/shm/share || poweroff -f
for folder in proc sys dev dev/shm dev/pts dev/shm/share; do mount --bind /$folder /host/$folder; done
ip link set lo up
chroot /host /bin/sh /dev/shm/share/script > /dev/shm/share/output 2>&1
echo $? > /dev/shm/share/status
poweroff -f
"""


def run_on_svm(linux: Linux, share: Path, script: str, seconds: float) -> tuple[int, str]:
    """Run `script` as root on a machine with SVM: its exit status and output. `share` is /dev/shm/share there.

    pytest.skip where there is no QEMU that can; AssertionError with what the kernel said if the script does not get to its end.
    """
    program = shutil.which(QEMU)
    if program is None:
        pytest.skip(f"no {QEMU}: Debian's package qemu-system-x86 has it")
    devices = subprocess.run([program, "-device", "help"], capture_output=True, text=True, check=False).stdout
    if "virtio-9p-pci" not in devices:
        pytest.skip(f"{QEMU} has no 9p")
    share.mkdir(exist_ok=True)
    (share / "script").write_text(script)
    names = linux.loadable(*_MODULES)
    # The TSC of a translated SVM cannot be scaled: KVM is to put up with that.
    load = "\n".join(f"insmod /modules/{name}.ko {'tsc_tolerance_ppm=900000' * (name == 'kvm')}" for name in names)
    initrd = share / "initrd.gz"
    initrd.write_bytes(linux.initrd(names, init=_INIT.format(modules=load)))
    kernel_log = share / "kernel.log"
    command = [
        *(program, "-accel", "tcg,thread=multi", "-cpu", _PROCESSOR, "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{kernel_log}"),
        *("-kernel", str(linux.kernel), "-initrd", str(initrd), "-append", "console=ttyS0 quiet panic=-1"),
        *("-virtfs", "local,path=/,security_model=none,readonly=on,mount_tag=root,multidevs=remap"),
        *("-virtfs", f"local,path={share},security_model=none,mount_tag=share,multidevs=remap"),
    ]
    with (
        (share / "qemu.log").open("wb") as said,
        suppress(subprocess.TimeoutExpired),
    ):  # what it wrote tells how far it came
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=seconds, check=False)
    output, status = share / "output", share / "status"
    text = output.read_text(errors="replace") if output.exists() else ""
    if not status.exists() or not status.read_text().strip():
        logs = "\n".join(
            log.read_text(errors="replace")[-2000:] for log in (share / "qemu.log", kernel_log) if log.exists()
        )
        raise AssertionError(f"not at its end after {seconds} s:\n{logs}\n{text[-4000:]}")
    return int(status.read_text()), text
