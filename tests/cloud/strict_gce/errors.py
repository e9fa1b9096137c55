"""Refusals in the form of Google's JSON APIs."""

import json


class Refused(Exception):
    """An answer that is an error. `reason` as in errors[].reason."""

    def __init__(self, status: int, reason: str, message: str, info: str = "") -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message, self.info = status, reason, message, info

    def body(self) -> bytes:
        """As JSON."""
        error = {
            "code": self.status,
            "message": self.message,
            "errors": [{"message": self.message, "domain": "global", "reason": self.reason}],
        }
        if self.info:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            error["details"] = [{"@type": kind, "reason": self.info, "domain": "googleapis.com"}]
        return json.dumps({"error": error}).encode()


def bad_value(field: str, value: object, message: str = "") -> Refused:
    """As Compute Engine words it."""
    return Refused(400, "invalid", f"Invalid value for field '{field}': '{value}'. {message}".strip())


def not_found(what: str) -> Refused:
    """As Compute Engine words it."""
    return Refused(404, "notFound", f"The resource '{what}' was not found")
