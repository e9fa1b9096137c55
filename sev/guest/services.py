"""What stands behind both GHCB protocols: the parts of the emulated hypervisor, and what they have in common."""

from collections.abc import Callable

from sev.guest.checker import Checker
from sev.guest.guest_request import GuestRequests
from sev.guest.page_state import PageStates
from sev.guest.processors import Processors


class Services:
    """`sev_features` are the VM's SEV_FEATURES; `hidden_ports` are I/O ports that no guest may reach through the GHCB.

    `terminate` ends the guest with a reason, `note` is for a line that helps to find a guest's mistake.
    """

    def __init__(
        self,
        checker: Checker,
        page_states: PageStates,
        requests: GuestRequests,
        processors: Processors,
        terminate: Callable[[str], None],
        note: Callable[[str], None],
        sev_features: int = 1,
        hidden_ports: frozenset[int] = frozenset(),
    ) -> None:
        self.checker = checker
        self.page_states = page_states
        self.requests = requests
        self.processors = processors
        self.terminate = terminate
        self.note = note
        self.sev_features = sev_features
        self.hidden_ports = hidden_ports
        self.dr7 = 0x400
        self.jump_table = 0
