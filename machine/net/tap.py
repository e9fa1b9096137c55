"""A TAP interface of the host's as the network (Linux, tun(4)); who may open it decides the host's administrator."""

import fcntl
import os
import struct
from collections.abc import Callable

from machine.net.backend import MAXIMUM_FRAME, Backend, NetworkError
from machine.net.poller import READABLE, Poller

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_NAME_SIZE = 16
_AT_ONCE = 64


class TapBackend(Backend):
    """The interface `name`, which is made if it is missing and the rights suffice. NetworkError otherwise."""

    def __init__(self, post: Callable[[Callable[[], None]], None], name: str) -> None:
        super().__init__()
        raw = name.encode()
        if not 0 < len(raw) < _NAME_SIZE or b"/" in raw:
            raise NetworkError(f"tap:{name}: wanted an interface name of 1 to {_NAME_SIZE - 1} bytes")
        self._poller = Poller(post)
        self._descriptor = -1
        try:
            self._descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self._descriptor, _TUNSETIFF, struct.pack("16sH22x", raw, _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            self.close()
            raise NetworkError(
                f"tap:{name}: {error.strerror or error}; "
                f"have an administrator make it: ip tuntap add {name} mode tap user $USER"
            ) from None
        self._watch()

    def _watch(self) -> None:
        self._poller.watch(self._descriptor, READABLE, self._ready)

    def send(self, frame: bytes) -> None:
        """Write one frame; lost while the interface is down, or full."""
        if self._descriptor >= 0:
            try:
                os.write(self._descriptor, frame)
            except BlockingIOError:
                pass
            except OSError as error:
                self._failed(error)

    def _ready(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                frame = os.read(self._descriptor, MAXIMUM_FRAME + 1)
            except BlockingIOError:
                break
            except OSError as error:
                self._failed(error)
                return
            self.on_receive(frame)
        self._watch()

    def _failed(self, error: OSError) -> None:
        """EIO says that the interface is down, which may pass; anything else that it has been removed."""
        import errno

        if error.errno != errno.EIO:
            self._poller.forget(self._descriptor)
            self.set_link(False)

    def close(self) -> None:
        """Let go of the interface."""
        if self._descriptor >= 0:
            self._poller.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._poller.close()
