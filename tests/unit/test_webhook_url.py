"""URLs of hooks: https, or http on this host; never link-local; and never shown with their path."""

from __future__ import annotations

import pytest

from audience_sync.destinations.webhook.webhook_url import is_link_local, read_webhook_url, shown_url


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example.com",
        "https://crm.example.com:8443/hooks/t0ken?a=b",
        "http://127.0.0.1:8400/",
        "http://[::1]:8400/hook",
        "http://localhost/hook",
    ],
)
def test_urls(url: str) -> None:
    """TLS everywhere but on this host; a path and a query are allowed."""
    assert read_webhook_url(url) == url


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://crm.example.com/t0ken", "must begin with `https://`"),
        ("http://10.0.0.1/t0ken", "must begin with `https://`"),
        ("https://169.254.169.254/latest/t0ken", "must not lead to a link-local address"),
        ("https://[fe80::1]/t0ken", "must not lead to a link-local address"),
        ("https://[::ffff:169.254.169.254]/t0ken", "must not lead to a link-local address"),
        ("ftp://crm.example.com/t0ken", "must be a URL"),
        ("https://user:t0ken@crm.example.com/", "must be a URL"),
        ("https://crm.example.com/#t0ken", "must be a URL"),
        ("https://crm.example.com/t0ken with blanks", "must be a URL"),
        ("https://crm.example.com/t0ken\r\nX: y", "must be a URL"),
        ("https://crm.example.com:99999/t0ken", "must be a URL"),
        ("https:///t0ken", "must be a URL"),
        ("t0ken", "must be a URL"),
        (7, "must be a URL"),
    ],
)
def test_unusable_urls(url: object, sentence: str) -> None:
    """The sentence names the rule, and repeats nothing of the URL."""
    with pytest.raises(ValueError, match=sentence) as caught:
        read_webhook_url(url)

    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.1.1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("2001:db8::1", False),
        ("crm.example.com", False),
    ],
)
def test_link_local_addresses(address: str, expected: bool) -> None:
    """IPv4, IPv6, and IPv4 within IPv6."""
    assert is_link_local(address) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://crm.example.com/hooks/t0ken?a=b", "https://crm.example.com"),
        ("https://crm.example.com:8443/t0ken", "https://crm.example.com:8443"),
        ("http://[::1]:8400/t0ken", "http://[::1]:8400"),
    ],
)
def test_a_shown_url_has_no_path(url: str, expected: str) -> None:
    """The path and the query may contain a token."""
    assert shown_url(url) == expected
