"""The address on which the daemon listens: ``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080``."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, NamedTuple

_PARTS: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})", re.ASCII)
_SENTENCE: Final = "must be an address with a port, such as `127.0.0.1:8080` or `[::1]:8080`"


class Address(NamedTuple):
    """A host, by name or number, and a port; port 0 is any that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Return whether this machine alone reaches it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(value: object) -> Address:
    """Return the address that a text spells; raise ValueError if it spells none."""
    if isinstance(value, Address):
        return value
    found = _PARTS.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found["port"]) > 65_535:
        raise ValueError(_SENTENCE)
    if found["six"]:
        try:
            ip_address(found["six"])
        except ValueError:
            raise ValueError(_SENTENCE) from None
    return Address(found["six"] or found["host"], int(found["port"]))
