"""The trace of a run: every service call, notification and image as an event of plain data.

An event is a dict with `time` (ns of the machine's clock since power on), `event` ("call", "begin", "end", "power on") and
`name`. Calls and begins have `arguments` and `rip` (where the guest goes on), with `function` if the image names it; calls
and ends have `duration` (ns) and `status`, or `result` for the few functions that return no EFI_STATUS. A `note` says what
is remarkable about a call; `cpu` which processor made it, if not the boot processor. A call during which something else
happened (a nested image, a notification) comes as a begin and an end.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cvmboot.symbols import Symbols
from machine.cpu import Cpu
from machine.errors import BadAddress
from uefi.dispatcher import Service
from uefi.events import Event as UefiEvent
from uefi.guids import Guid, guid_name
from uefi.status import status_name

if TYPE_CHECKING:
    from cvmboot.assembly import Assembly

Event = dict[str, Any]

LONGEST_TEXT = 256
"""Characters of a string argument that are shown."""
_TEXTS = frozenset(
    ("FileName", "Pattern", "Str", "Str1", "Str2", "String", "TextDeviceNode", "TextDevicePath", "VariableName")
)
_OUTPUT_TEXTS = frozenset(("EFI_UNICODE_COLLATION_PROTOCOL.FatToStr",))
_NO_STATUS = frozenset(("EFI_BOOT_SERVICES.RaiseTPL", "EFI_BOOT_SERVICES.RestoreTPL"))
_NO_STATUS_TABLES = (
    *("EFI_UNICODE_COLLATION_PROTOCOL.", "EFI_DEVICE_PATH_UTILITIES_PROTOCOL.", "EFI_DEVICE_PATH_TO_TEXT_PROTOCOL."),
    "EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL.",
)


class _Open:
    """Something begun that has not ended. `told` once its begin event is out."""

    __slots__ = ("event", "service", "told")

    def __init__(self, event: Event, service: Service | None) -> None:
        self.event = event
        self.service = service
        self.told = False


class Tracer:
    """Watches one machine after the other (a reset makes a new one) and hands each event to `sink`."""

    def __init__(self, sink: Callable[[Event], object]) -> None:
        self._sink = sink
        self._opens: dict[int, list[_Open]] = {0: []}
        self._open = self._opens[0]
        self._functions: dict[int, str] = {}
        self._symbols: Symbols
        self._boots = 0

    def attach(self, assembly: "Assembly") -> None:
        """Watch a machine that has its first image and is about to run."""
        firmware = assembly.firmware
        self._firmware = firmware
        self._symbols = assembly.symbols()
        self._now = firmware.clock.now
        self._opens = {0: []}
        self._open = self._opens[0]
        self._functions.clear()
        self._boots += 1
        image = firmware.images.get(firmware.images.current)
        name = image.name if image else ""
        self._sink({"time": self._now(), "event": "power on", "name": name, "boot": self._boots})
        firmware.dispatcher.before = self._before
        firmware.dispatcher.after = self._after
        firmware.trace_notify = self._notify
        firmware.note = self._note

    def finish(self) -> None:
        """The machine has ended: what had begun and not come back is told."""
        for opened in self._opens.values():
            self._open = opened
            self._tell_begins()

    def _serve(self, cpu: Cpu) -> None:
        """What follows is this processor's; each has calls of its own that have not ended."""
        self._open = self._opens.setdefault(cpu.index, [])

    # -- what the firmware calls

    def _before(self, cpu: Cpu, service: Service, values: list[Any], rsp: int) -> None:
        self._serve(cpu)
        self._tell_begins()
        event: Event = {"time": self._now(), "event": "call", "name": service.name}
        if cpu.index:
            event["cpu"] = cpu.index
        event["arguments"] = self._arguments(service, values)
        try:
            rip = self._firmware.memory.read_u64(rsp)
        except BadAddress:
            rip = 0
        event["rip"] = f"{rip:#x}"
        function = self._functions.get(rip)
        if function is None:
            function = self._functions[rip] = self._symbols.function(rip)
        if function:
            event["function"] = function
        self._open.append(_Open(event, service))

    def _after(self, cpu: Cpu, service: Service, result: Any) -> None:
        self._serve(cpu)
        while self._open:
            ended = self._open.pop()
            if ended.service is service:
                self._end(ended, self._result(service, result or 0))
                break
            self._end(ended, {})  # unwound by Exit()
        if service.name.endswith("Image"):
            self._functions.clear()

    def _note(self, text: str) -> None:
        if self._open:
            self._open[-1].event["note"] = text

    def _notify(self, cpu: Cpu, event: UefiEvent | None) -> None:
        self._serve(cpu)
        if event is not None:
            self._tell_begins()
            arguments = {"Event": f"{event.address:#x}", "Context": f"{event.context:#x}", "tpl": event.tpl}
            entry: Event = {"time": self._now(), "event": "call", "name": "notify", "arguments": arguments}
            entry["rip"] = f"{event.notify:#x}"
            function = self._symbols.function(event.notify)
            if function:
                entry["function"] = function
            self._open.append(_Open(entry, None))
            return
        while self._open:
            ended = self._open.pop()
            self._end(ended, {})
            if ended.service is None:
                break

    # -- events

    def _tell_begins(self) -> None:
        for entry in self._open:
            if not entry.told:
                entry.told = True
                self._sink({**entry.event, "event": "begin"})

    def _end(self, entry: _Open, result: Event) -> None:
        now = self._now()
        event = entry.event
        duration = {"duration": now - event["time"]}
        if entry.told:
            cpu = {"cpu": event["cpu"]} if "cpu" in event else {}
            self._sink({"time": now, "event": "end", "name": event["name"], **cpu, **duration, **result})
        else:
            self._sink({**event, **duration, **result})

    @staticmethod
    def _result(service: Service, value: int) -> Event:
        name = service.name
        if name in _NO_STATUS or name.startswith(_NO_STATUS_TABLES):
            return {"result": f"{value:#x}"}
        return {"status": status_name(value)}

    def _arguments(self, service: Service, values: list[Any]) -> Event:
        signature = service.signature
        arguments: Event = {}
        if not signature.static:
            arguments["This"] = f"{values[0]:#x}"
            values = values[1:]
        for kind, name, value in zip(signature.kinds, signature.names, values, strict=False):
            arguments[name] = self._argument(kind, name, value, service.name)
        return arguments

    def _argument(self, kind: str, name: str, value: int, service: str) -> Any:
        try:
            if kind == "guid" and value:
                return guid_name(Guid(self._firmware.memory.read(value, 16)))
            if kind == "ptr" and value and name in _TEXTS and service not in _OUTPUT_TEXTS:
                text: str = self._firmware.memory.read_ucs2(value, LONGEST_TEXT)
                return text.encode("utf-8", "backslashreplace").decode()
        except BadAddress:
            pass
        if kind in ("ptr", "guid"):
            if name == "ImageHandle" and (image := self._firmware.images.get(value)) is not None:
                return f"{value:#x} ({image.name})"
            return f"{value:#x}"
        if kind == "bool":
            return bool(value)
        return value - (1 << 64) if kind == "i64" and value >> 63 else value
