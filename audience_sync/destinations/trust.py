"""Whom TLS trusts, and what is said of a server that cannot be trusted."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from functools import cache
from typing import Final

from audience_sync.errors import ConfigError

_CLOCK = "renew it on the server, or correct this machine's clock"
_NAME = "certificate for another host; check the address"
_SIGNER = (
    "certificate signed by an unknown authority;"
    " behind a TLS-inspecting proxy, set SSL_CERT_FILE to the proxy's CA bundle"
)
_CERTIFICATES: Final[Mapping[int, str]] = {  # by OpenSSL's X509_V_ERR_…
    9: f"certificate not valid yet; {_CLOCK}",
    10: f"certificate expired; {_CLOCK}",
    18: _SIGNER,
    19: _SIGNER,
    20: _SIGNER,
    21: _SIGNER,
    62: _NAME,
    64: _NAME,
}
_OTHER_PROTOCOLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})


def trusted_authorities() -> ssl.SSLContext:
    """Return how TLS is spoken: with the authorities of SSL_CERT_FILE or SSL_CERT_DIR, else those that httpx brings.

    Raises:
        ConfigError: they cannot be read.
    """
    name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "certifi")
    try:
        return _bundled_authorities() if name == "certifi" else _authorities()
    except OSError as error:  # ssl.SSLError is one, too
        raise ConfigError(
            f"the certificates of {name}, {os.environ.get(name, 'a Python package')}, cannot be read: {error}",
            hint=f"let {name} name a PEM file of certificates, or unset it",
        ) from None


@cache
def _bundled_authorities() -> ssl.SSLContext:
    """Return the authorities of certifi, read once: the file does not change, and reading it takes long."""
    return _authorities()


def _authorities() -> ssl.SSLContext:
    import httpx  # noqa: PLC0415 - a tenth of every start, and most commands open no connection

    return httpx.create_ssl_context()


def lasting_problem(error: BaseException) -> str | None:
    """Return what keeps us from trusting who answers, and the remedy; None when the next try may go better."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        usual = f"certificate not accepted ({cause.verify_message})"
        return _CERTIFICATES.get(cause.verify_code, usual)
    if cause is not None and cause.reason in _OTHER_PROTOCOLS:
        return "no common TLS version; check the port and the scheme"
    return None
