"""Standard input that is no terminal: bytes of a pipe or file, as somebody would type them."""

import os
import select


class TypedInput:
    """Turns each line's end, LF or CR LF, into the CR of the Enter key, however the bytes come in pieces."""

    def __init__(self) -> None:
        self._carriage_return = False

    def convert(self, data: bytes) -> bytes:
        """The next bytes as keys."""
        if self._carriage_return and data[:1] == b"\n":
            data = data[1:]
            self._carriage_return = False
        if data:
            self._carriage_return = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\r").replace(b"\n", b"\r")


class InputGate:
    """Gives a guest under virtual time one key after the other, each when the guest waits for it.

    Virtual time stands still meanwhile: what the guest does depends on the input alone, not on how fast it comes. After
    the end of the input there is none, at once. `next_key` belongs to the machine's thread, `abandon` to any.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._typed = TypedInput()
        self._keys = b""
        self._at = 0
        self._ended = False
        self._abandon, self._abandoned = os.pipe()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(self._abandon, select.POLLIN)

    def next_key(self) -> int | None:
        """The next byte, waiting for it; None at the end of the input, or when abandoned."""
        while self._at == len(self._keys):
            if self._ended:
                return None
            self._read()
        self._at += 1
        return self._keys[self._at - 1]

    def _read(self) -> None:
        for descriptor, _ in self._poll.poll():
            if descriptor == self._abandon:
                self._ended = True
                return
        try:
            data = os.read(self._descriptor, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._ended = not data
        self._keys = self._typed.convert(data)
        self._at = 0

    def abandon(self) -> None:
        """End a `next_key` that waits, and all that follow."""
        os.write(self._abandoned, b"x")

    def close(self) -> None:
        """Close what was opened here, not the input."""
        os.close(self._abandon)
        os.close(self._abandoned)
