"""What is wrong in a matrix file: the exception, and values in messages."""

from typing import Any


class Mistake(Exception):
    """Something in a matrix file; the message says what, and who catches it adds where. `key` is the key as it was written, if
    that is not known otherwise."""

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.key = key


def shown(value: Any) -> str:
    """A value of a TOML file, short."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{ascii(value[:60])[1:-1]}{"..." if len(value) > 60 else ""}"'
    if isinstance(value, int | float):
        return str(value)[:40]
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
