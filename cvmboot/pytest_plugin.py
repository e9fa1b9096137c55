"""The pytest plugin: a `boot` fixture that boots EFI images, and a `clone` fixture that boots one once and clones it.

    def test_prompt(boot):
        vm = boot("go-boot.efi", memory="1G")
        vm.expect("> ")

    def test_info(clone):  # many such tests boot the image once
        vm = clone("go-boot.efi", at="> ", memory="1G")
        vm.sendline("info")

The machines are switched off when the test ends.

pytest loads this module at every start, so nothing of the machine is imported before a test asks for the fixture.
"""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cvmboot.snapshots.snapshot import Snapshot
    from cvmboot.virtual_machine import VirtualMachine

Boot = Callable[..., "VirtualMachine"]
Prepare = Callable[["VirtualMachine"], object]

GUESTS = "CVMBOOT_GUESTS"
"""Environment variable that names a folder of images."""
MARKER = "cvmboot_images"
_SHOWN = 20_000
"""Characters of each console that a failure report shows."""
_frozen: pytest.StashKey[dict[Any, "Snapshot"]] = pytest.StashKey()
_machines: pytest.StashKey[list["VirtualMachine"]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cvmboot-timeout`."""
    parser.getgroup("cvmboot").addoption(
        "--cvmboot-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long an expect() on a booted machine waits (default: 30)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{MARKER}(*names): skip the test, with a reason, unless these images are found")


def _find(name: str | Path, near: Path, root: Path) -> Path | None:
    """An image by its path, or by its name beside the test file, in pytest's root or in CVMBOOT_GUESTS."""
    folders = [near.parent, root, Path.cwd()]
    if os.environ.get(GUESTS):
        folders.append(Path(os.environ[GUESTS]))
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose images are not there."""
    for marker in item.iter_markers(MARKER):
        for name in marker.args:
            if _find(name, item.path, item.config.rootpath) is None:
                where = f"or in {GUESTS}={os.environ[GUESTS]}" if os.environ.get(GUESTS) else f"and {GUESTS} is not set"
                pytest.skip(f"no {name} beside the test or in {item.config.rootpath}, {where}")


@pytest.fixture
def boot(request: pytest.FixtureRequest) -> Iterator[Boot]:
    """`boot(image, **options)` gives a cvmboot.VirtualMachine that ends with the test.

    `image` is a path, bytes, or a name that is looked for beside the test file, in pytest's root and in CVMBOOT_GUESTS.
    """
    from cvmboot.virtual_machine import VirtualMachine

    machines = request.node.stash.setdefault(_machines, [])

    def start(image: str | Path | bytes | None, **options: Any) -> VirtualMachine:
        options.setdefault("timeout", request.config.getoption("--cvmboot-timeout"))
        if isinstance(image, str | Path):
            image = _find(image, request.path, request.config.rootpath) or Path(image)
        vm = VirtualMachine(image, **options)
        machines.append(vm)
        return vm

    yield start
    for vm in machines:
        vm.close()


@pytest.fixture
def clone(request: pytest.FixtureRequest, boot: Boot) -> Boot:
    """`clone(image, at=TEXT, prepare=FUNCTION, **options)` gives a VirtualMachine that goes on from a place reached once.

    The first call boots the image, waits for the text `at` on its console, calls `prepare(vm)`, and freezes the machine. All
    calls with the same arguments, in this test and in others of the run, get clones of it, which end with their test.
    Options are those of `boot`; of the network, each clone has its own.
    """
    from cvmboot.snapshots.options import OF_THE_RUN

    frozen = request.config.stash.setdefault(_frozen, {})

    def start(
        image: str | Path | bytes, *, at: str | None = None, prepare: Prepare | None = None, **options: Any
    ) -> "VirtualMachine":
        key = (image, at, prepare, tuple(sorted((name, repr(value)) for name, value in options.items())))
        snapshot = frozen.get(key)
        if snapshot is None:
            vm = boot(image, **options)
            if at is not None:
                vm.expect_exact(at)
            if prepare is not None:
                prepare(vm)
            snapshot = frozen[key] = vm.snapshot()
            vm.close()
        own = OF_THE_RUN | {"timeout", "encoding", "logfile", "maxread", "searchwindowsize", "codec_errors"}
        kept = {name: value for name, value in options.items() if name in own}
        return boot(None, restore=snapshot, **kept)

    return start


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of machines that were frozen for `clone`."""
    for snapshot in config.stash.get(_frozen, {}).values():
        snapshot.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the machines printed to the report of a test that failed."""
    report = yield
    if report.failed and call.when != "teardown":
        for vm in item.stash.get(_machines, []):
            report.sections.append((f"console of {vm.name}", vm.recent_console()[-_SHOWN:]))
            if vm.report:
                report.sections.append((f"crash of {vm.name}", "\n".join(vm.report)))
    return report
