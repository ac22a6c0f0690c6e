"""What is answered to a request that is not taken."""

from __future__ import annotations

from typing import Final, NamedTuple

CODES: Final = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    415: "unsupported_encoding",
    500: "internal_error",
    503: "unavailable",
}
"""Our word for each status. Segment's own, `invalid_request`, covers whatever is wrong with a body, its size too."""


class Refusal(NamedTuple):
    """Why a request is not taken: an HTTP status, and a sentence that repeats of a body only a type or field names."""

    status: int
    message: str

    @property
    def code(self) -> str:
        """Return the word for the status."""
        return CODES.get(self.status, CODES[400])


def invalid(message: str) -> Refusal:
    """Return the refusal of a request that is wrong in itself: the same again will be refused again."""
    return Refusal(400, message)
