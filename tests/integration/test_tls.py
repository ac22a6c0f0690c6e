"""TLS that fails: what a person must mend stops the delivery and says so, what passes by itself is tried again."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from audience_sync.destinations.http_connection import trusted_authorities
from audience_sync.errors import ConfigError, DestinationError
from audience_sync.store.database import connect
from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import ON_ONE_DATABASE, Place, customers, open_place, until
from tests.factories import AUDIENCE_KEY
from tests.sending import Sending, assert_agreed, open_sending
from tests.support.faulty_sandbox import FaultySandbox

NOW = datetime.now(UTC)
YEAR = timedelta(days=365)
RENEW = "renew it on the server or correct this machine's clock"
TRUST = "behind a TLS-inspecting proxy, set SSL_CERT_FILE to the proxy's CA bundle"
REMEDIES = {
    "expired": f"certificate expired; {RENEW}",
    "early": f"certificate not yet valid; {RENEW}",
    "other": "certificate is for another host; check the address",
    "stranger": f"certificate signed by an unknown authority; {TRUST}",
    "self-signed": f"certificate signed by an unknown authority; {TRUST}",
}
NO_TLS = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
OLD_TLS = bytes.fromhex("15 0301 0002 02 46")  # the alert: protocol version
BROKEN_TLS = bytes.fromhex("15 0303 0002 02 50")  # the alert: internal error


class Tls:
    """TLS in front of a sandbox, with the certificate that is to be shown now."""

    def __init__(self, sandbox: FaultySandbox, certificates: Mapping[str, trustme.LeafCert]) -> None:
        self._certificates = certificates
        self._accept = sandbox._server.get_request
        self.url = sandbox.url.replace("http://127.0.0.1", "https://localhost")
        self.show("good")
        sandbox._server.get_request = self._encrypted  # type: ignore[method-assign]

    def show(self, name: str) -> None:
        """Show this certificate from now on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificates[name].configure_cert(self._context)

    def _encrypted(self) -> tuple[socket.socket, Any]:
        connection, address = self._accept()
        # The thread of the connection shakes hands, when it reads.
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority that signs certificates."""
    return trustme.CA()


@pytest.fixture(scope="module")
def certificates(authority: trustme.CA) -> dict[str, trustme.LeafCert]:
    """Return certificates by what is wrong with them."""
    alone = trustme.CA()
    return {
        "self-signed": trustme.LeafCert(alone.private_key_pem.bytes(), alone.cert_pem.bytes(), []),
        "good": authority.issue_cert("localhost"),
        "expired": authority.issue_cert("localhost", not_before=NOW - 2 * YEAR, not_after=NOW - YEAR),
        "early": authority.issue_cert("localhost", not_before=NOW + YEAR, not_after=NOW + 2 * YEAR),
        "other": authority.issue_cert("localhost.example"),
        "stranger": trustme.CA().issue_cert("localhost"),
    }


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    """Return the path of a file with the authority's certificate."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def sending(
    tmp_path: Path, sqlite_template: Path, sandbox: FaultySandbox, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sending]:
    """Yield the audience gold, not yet delivered, on a machine that trusts the authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    path = tmp_path / "audience_sync.db"
    shutil.copy(sqlite_template, path)
    with closing(connect(f"sqlite:///{path}")) as database, open_sending(tmp_path, database, sandbox) as opened:
        opened.sync(gold=["u1", "u2", "u3"])
        yield opened


@pytest.fixture
def tls(sandbox: FaultySandbox, certificates: dict[str, trustme.LeafCert]) -> Tls:
    """Put TLS in front of the sandbox."""
    return Tls(sandbox, certificates)


@contextmanager
def greeting(said: bytes | None) -> Iterator[str]:
    """Serve whoever connects these bytes and hang up, or nothing for ever; yield the URL."""
    over = threading.Event()

    def greet(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            if said is None:
                over.wait()
            else:
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=greet, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


# --- what does not pass by itself -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["capture_url", "api_url"])
@pytest.mark.parametrize("wrong", REMEDIES)
def test_certificate_that_does_not_hold(sending: Sending, tls: Tls, wrong: str, setting: str) -> None:
    """A certificate that does not hold stops everything at once, keeps everything, and says what to do."""
    both = sending.with_settings(schematic={"capture_url": tls.url, "api_url": tls.url})
    if setting == "capture_url":
        assert both.deliver().events == 3  # and so the environment is known
        both.sync(gold=[])
    tls.show(wrong)
    report = both.deliver()

    assert type(report.failure) is DestinationError
    assert REMEDIES[wrong] in str(report.failure)
    assert "nothing was lost" in str(report.failure.hint)
    assert (report.failure.exit_code, report.events, report.open, report.dead) == (1, 0, 3, 0)
    tls.show("good")
    assert both.deliver().events == 3
    assert_agreed(sending)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [NO_TLS, OLD_TLS], ids=["plain HTTP", "old TLS"])
@pytest.mark.parametrize("setting", ["capture_url", "api_url"])
def test_other_protocol(sending: Sending, answer: bytes, setting: str) -> None:
    """What speaks no TLS, or none of today's, where https is asked for, is the wrong address."""
    with greeting(answer) as url:
        report = sending.with_settings(schematic={setting: url}).deliver()

    assert type(report.failure) is DestinationError
    assert f"{url}/" in str(report.failure)
    assert "the server and this machine have no TLS version in common; check the port and the scheme" in str(
        report.failure
    )
    assert (report.events, report.open, report.dead) == (0, 3, 0)
    assert sending.deliver().events == 3
    assert_agreed(sending)


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "wrong"])
def test_authorities_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    """A file of authorities that is missing, or is none, is told by its name and by that of the setting."""
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(ConfigError, match=r"authorities\.pem") as raised:
        trusted_authorities()

    assert "SSL_CERT_FILE" in str(raised.value)


# --- what may ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("answer", [b"", BROKEN_TLS, None], ids=["hung up", "alert", "silent"])
def test_handshake_that_fails(sending: Sending, answer: bytes | None) -> None:
    """A handshake that is broken off, or never answered, is a failed try like any other, within the timeout."""
    with greeting(answer) as url:
        away = {"capture_url": url, "timeout": timedelta(seconds=0.3 if answer is None else 30)}
        report = sending.with_settings(schematic=away).deliver_until(sending.tried)

    assert (report.failure, report.events, report.open, report.dead) == (None, 0, 3, 0)
    errors = [error for (error,) in sending.rows("SELECT error FROM batches WHERE status = 'open' AND tries > 0")]
    assert all(error.startswith(f"no response from {url}/batch") for error in errors)
    assert all(("within 0.3s" in error) == (answer is None) for error in errors)
    assert sending.deliver().events == 3
    assert_agreed(sending)


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, database_url: str, trusted: Path) -> Iterator[Place]:
    """Yield a shop of twenty customers and a machine that trusts the authority."""
    with open_place(tmp_path, database_url) as opened:
        opened.shop.set_orders(customers(range(20)).items())
        opened.environment["SSL_CERT_FILE"] = str(trusted)
        yield opened


@ON_ONE_DATABASE
def test_commands_say_it(place: Place, certificates: dict[str, trustme.LeafCert]) -> None:
    """`sync` leaves with 1 and one sentence with the remedy; `check` and `status` say it, too; then all goes on."""
    tls = Tls(place.sandbox, certificates)
    tls.show("expired")
    place.configure(destination=tls.url)
    failed = place.command("sync")
    checked = place.command("check")
    status = place.command("status")

    said = " ".join(failed.err.split())
    assert failed.code == 1
    assert f"error: cannot confirm that {tls.url} is Schematic: {tls.url}/whoami: {REMEDIES['expired']}" in said
    assert "hint: nothing was lost; fix the cause, then run `audience-sync deliver`" in said
    assert "Traceback" not in failed.err
    assert len(place.members()) == 20
    assert (checked.code, REMEDIES["expired"] in " ".join(checked.out.split())) == (1, True)
    assert "\nSchematic: delivery stopped since " in status.out
    tls.show("good")
    assert place.command("deliver").code == 0
    assert place.traits() == {f"u{n}": {AUDIENCE_KEY: True} for n in range(20)}


@ON_ONE_DATABASE
def test_daemon_goes_on_by_itself(place: Place, certificates: dict[str, trustme.LeafCert]) -> None:
    """The daemon says that it stopped for an expired certificate, and goes on when it is renewed."""
    tls = Tls(place.sandbox, certificates)
    tls.show("expired")
    place.configure(destination=tls.url)
    with local_daemon(place) as daemon:
        daemon.wait_for("delivery_stopped")
        assert place.received() == 0
        tls.show("good")
        until(lambda: place.received() == 20)

    (stopped, *_) = (line for line in daemon.logged if line["event"] == "delivery_stopped")
    assert (stopped["level"], REMEDIES["expired"] in stopped["error"]) == ("error", True)
    assert place.traits() == {f"u{n}": {AUDIENCE_KEY: True} for n in range(20)}
