"""What the monitor cannot carry: states of a processor that it cannot have in ring 3."""

from typing import Any

from machine import registers as reg
from machine.cpu_state import SEGMENTS
from machine.paging import CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, EFER_LME

_CR0_EM, _CR0_TS = 1 << 2, 1 << 3
_EFER, _LSTAR = 0xC000_0080, 0xC000_0082
_DR7_ENABLED = 0xFF
_LONG = 1 << 13
"""L among the attributes of a code segment"""


def why_not(state: dict[str, Any]) -> str | None:
    """Why a processor in this state (`machine.cpu_state`) cannot go on in ring 3 under a monitor, as the end of a sentence."""
    cr0, _, _, cr4, _ = state["control"]
    msrs = dict(state["msrs"])
    selector, _, _, attributes = state["segments"][SEGMENTS.index("cs")]
    if not cr0 & CR0_PE:
        return "it is in real mode"
    if not (cr0 & CR0_PG and msrs[_EFER] & EFER_LME and cr4 & CR4_PAE):
        return "it is not in long mode"
    if selector | 7 > state["gdtr"][1]:  # that of real mode, until the first far jump
        return "it is on its way from real mode"
    if selector & 3:
        return "it is in ring 3"
    if not attributes & _LONG:
        return "it is in 32-bit code"
    if cr4 & CR4_LA57:
        return "it has page tables of five levels"
    if cr0 & (_CR0_EM | _CR0_TS):
        return "it wants to know when the x87 or SSE is used (CR0.TS, CR0.EM)"
    if msrs[_LSTAR]:
        return "it is prepared for system calls"
    if state["ldtr"][0] & 0xFFFC:
        return "it has a local descriptor table"
    if state["debug"][-1] & _DR7_ENABLED:
        return "it has set hardware breakpoints"
    return "it steps through itself" if state["general"][reg.RFLAGS] & reg.RFLAGS_TF else None
