"""Random calls with random arguments: each gets a status or kills the guest, never this program."""

import pytest
from random_guest import RandomGuest, protocol_classes

from cvmboot import VirtualMachine

CALLS = 150


@pytest.mark.parametrize("seed", range(16))
def test_random_calls_get_a_status(seed):
    guest = RandomGuest(seed, CALLS)
    # Devices behind PCI protocols, and a network, make more to be broken.
    network = {"nic": ("none", "virtio", "gvnic")[seed % 3]}
    with VirtualMachine(guest.image, clock="virtual", memory="128M", trace=True, reboot=False, **network) as vm:
        assert vm.wait(60) in (0, 3, 4)
        assert vm.outcome.kind in ("returned", "crashed", "reset")  # the watchdog may be set
        made = [event for event in vm.trace if event["event"] in ("call", "begin")]
    # A guest that died has died late: most of what it passes is harmless.
    assert len(made) > len(protocol_classes()) + 10


def test_the_calls_are_many_and_of_all_kinds():
    names = set()
    statuses = set()
    total = 0
    for seed in range(100, 106):
        with VirtualMachine(RandomGuest(seed, CALLS).image, clock="virtual", memory="128M", trace=True) as vm:
            vm.wait(60)
            names |= {event["name"] for event in vm.trace if event["event"] == "call"}
            statuses |= {event.get("status") for event in vm.trace if event["event"] == "call"}
            total += len(vm.trace)
    assert len(names) > 80
    assert {"EFI_SUCCESS", "EFI_INVALID_PARAMETER", "EFI_NOT_FOUND", "EFI_UNSUPPORTED"} <= statuses
    assert total > 500
