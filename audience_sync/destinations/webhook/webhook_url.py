"""The URLs of webhooks: which are accepted, and how they are shown.

A URL comes from the configuration file alone. Its path and its query may contain a token, so that messages show only
where it leads. Link-local addresses are refused, in the file and when a name is resolved: the metadata services of
clouds, which hand out credentials, have one.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit


def is_link_local(address: str) -> bool:
    """Return whether an IP address is link-local, also as an IPv4-mapped one; False for a name."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_link_local


def read_webhook_url(value: object) -> str:
    """Return the URL of a webhook; raise ValueError, without any part of it, if it cannot be one."""
    sentence = "must be a URL such as `https://example.com/hooks`, without a user or fragment"
    try:
        parts = urlsplit(value) if isinstance(value, str) else SplitResult("", "", "", "", "")
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number
        is_usable = False
    if not is_usable or parts.fragment or "@" in parts.netloc or not _is_plain(str(value)):
        raise ValueError(sentence)
    if "${" in str(value):
        raise ValueError("must not contain `${NAME}`, which is not replaced here; put a token into `headers`")
    host = parts.hostname or ""
    if is_link_local(host):
        raise ValueError("must not lead to a link-local address")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("must begin with `https://`, because messages name people; `http://` only leads to this host")
    return str(value)


def shown_url(url: str) -> str:
    """Return where a URL leads, without its path and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _is_plain(url: str) -> bool:
    return url.isascii() and re.search(r"[\s\x00-\x1f\x7f\\]", url) is None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
