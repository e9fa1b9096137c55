"""Which options a snapshot keeps, which are asked for again when a machine is restored, and which make no sense then."""

from pathlib import Path
from typing import Any

from cvmboot.errors import UsageError
from cvmboot.options import RunOptions
from cvmboot.snapshots.errors import BadState

OF_THE_RUN = frozenset(
    (
        *("timeout", "trace", "screenshot", "reboot", "debug", "gdb", "ansi", "terminal_size"),
        *("net", "forward", "expose", "pcap", "net_loss", "net_delay"),
        *("engine", "platform", "restore"),
    )
)
"""Fields of RunOptions that say how a machine is run, and not what it is: a restored one has those that are given now."""

_NOT_KEPT = OF_THE_RUN - {"platform", "reboot"} | {"vars"}


def plain(options: RunOptions) -> dict[str, Any]:
    """The options of a machine that its snapshot keeps, as JSON has it."""
    defaults = RunOptions().__dict__
    kept = {
        name: value for name, value in options.__dict__.items() if name not in _NOT_KEPT and value != defaults[name]
    }
    if "nic" not in kept and (options.net is not None):
        kept["nic"] = "virtio"
    return {name: _plain(value) for name, value in kept.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return {"path": str(value.absolute())}
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return value


def restored(kept: dict[str, Any], given: dict[str, Any]) -> RunOptions:
    """The options of a restored machine: those of its snapshot, and those given now. UsageError for others, BadState."""
    for name in given:
        if name not in OF_THE_RUN:
            raise UsageError(
                f"--{name.replace('_', '-')}: the machine is in the snapshot as it was made; only options of the run can be "
                "given with --restore, such as --net, --timeout, --trace"
            )
    try:
        fields = {name: _value(value) for name, value in kept.items() if name not in _NOT_KEPT}
        return RunOptions(**{**fields, **given})
    except (TypeError, ValueError, KeyError) as error:
        raise BadState(f"its options make no sense: {error}") from None


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return Path(value["path"]) if "path" in value else bytes.fromhex(value["hex"])
    return value
