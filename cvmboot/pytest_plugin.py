"""The pytest plugin: a `boot` fixture that boots EFI images and switches them off when the test ends.

    def test_prompt(boot):
        vm = boot("go-boot.efi", memory="1G")
        vm.expect("> ")

pytest loads this module at every start, so nothing of the machine is imported before a test asks for the fixture.
"""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cvmboot.virtual_machine import VirtualMachine

Boot = Callable[..., "VirtualMachine"]

GUESTS = "CVMBOOT_GUESTS"
"""Environment variable that names a folder of images."""
MARKER = "cvmboot_images"
_SHOWN = 20_000
"""Characters of each console that a failure report shows."""
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

    def start(image: str | Path | bytes, **options: Any) -> VirtualMachine:
        options.setdefault("timeout", request.config.getoption("--cvmboot-timeout"))
        if not isinstance(image, bytes):
            image = _find(image, request.path, request.config.rootpath) or Path(image)
        vm = VirtualMachine(image, **options)
        machines.append(vm)
        return vm

    yield start
    for vm in machines:
        vm.close()


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
