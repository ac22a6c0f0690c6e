"""Requests of hooks: signed with every secret, to no refused address, and with nothing secret in what is reported."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import httpx
import pytest
from pydantic import SecretStr

from audience_sync.config import HookTable
from audience_sync.destinations.destination_protocol import DestinationClient
from audience_sync.destinations.http_connection import AddressRefused, DeadlineConnection, lasting_problem
from audience_sync.destinations.outcomes import BatchAccepted, Outcome, RetryLater, WrongDestination
from audience_sync.destinations.webhook.webhook_destination import WebhookDestination
from audience_sync.destinations.webhook.webhook_signature import signed_headers
from tests.support.webhook_receiver import SECRET, Fault, WebhookReceiver, receiving

NEXT = "another horse, another battery"
TOKEN = "t0ken-of-the-path"
SIGNATURE = "77ecc855c5e0f875f14c1c6ebeed407f486ba59fad2d98cd87864b5df0ea3c04"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@contextmanager
def connected(url: str, **settings: object) -> Iterator[DestinationClient]:
    """Connect to a receiver with two secrets and a header."""
    hook = HookTable.model_validate({"name": "crm", "url": url, "secret": "${CRM}", **settings})
    destination = WebhookDestination(hook, SecretStr(NEXT), {"Authorization": SecretStr("Bearer s3cret-of-the-header")})
    tls = httpx.create_ssl_context()
    with closing(destination.connect(SecretStr(SECRET), tls=tls, clock=lambda: NOW)) as client:
        yield client


def send(url: str, **settings: object) -> Outcome:
    """Send one message."""
    with connected(url, **settings) as client:
        return client.send(['{"id":"1"}'])


@pytest.mark.parametrize("secret", [SECRET, NEXT])
def test_a_receiver_with_either_secret_accepts(secret: str) -> None:
    """During a rotation, requests have a signature for each of two secrets."""
    with receiving([secret]) as receiver:
        assert send(receiver.url) == BatchAccepted(204)
        (request,) = receiver.requests

    assert request.body == b'{"messages":[{"id":"1"}]}'
    assert request.headers["audience-sync-timestamp"] == "1772366400"
    assert request.headers["authorization"] == "Bearer s3cret-of-the-header"
    assert request.headers["audience-sync-signature"].count("v1=") == 2


def test_the_signature_is_the_documented_one() -> None:
    """HMAC-SHA256 of the timestamp, a dot and the body: worked out with `openssl dgst -sha256 -hmac`."""
    headers = signed_headers(b'{"messages":[]}', ["0123456789abcdef"], now=NOW)

    assert headers["Audience-Sync-Signature"] == "v1=" + SIGNATURE


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(receiver: WebhookReceiver, status: int) -> None:
    """A redirect ends the delivery; the target gets nothing, and its path is not reported."""
    with receiving() as elsewhere:
        receiver.fail(Fault(status, "", {"Location": f"{elsewhere.url}/{TOKEN}?a=b"}))
        outcome = send(f"{receiver.url}/{TOKEN}")
        assert elsewhere.requests == []

    assert isinstance(outcome, WrongDestination)
    assert outcome.reason == f"HTTP {status} to {elsewhere.url.removesuffix('/hook')}"


def test_nothing_secret_is_in_an_outcome(receiver: WebhookReceiver) -> None:
    """The path, the query, the secrets and the headers are removed, though the receiver repeats them."""
    said = f"/hook/{TOKEN} q={TOKEN}2 {SECRET} {NEXT} Bearer s3cret-of-the-header"
    said += f" no token s3cret-of-the-header for {TOKEN} or {TOKEN}2"
    receiver.fail(Fault(500, said))
    outcome = send(f"{receiver.url}/{TOKEN}/next?q={TOKEN}2")

    for secret in (TOKEN, SECRET, NEXT, "s3cret"):
        assert secret not in repr(outcome)


def test_a_host_that_is_down_is_named_without_the_path() -> None:
    """The reason says where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        outcome = send(f"http://127.0.0.1:{taken.getsockname()[1]}/{TOKEN}")

    assert isinstance(outcome, RetryLater)
    assert outcome.reason.startswith("no response from http://127.0.0.1:")
    assert TOKEN not in outcome.reason


def test_a_slow_receiver_is_given_up(receiver: WebhookReceiver) -> None:
    """The timeout is that of the hook."""
    receiver.fail(Fault(hangs=True))

    assert send(receiver.url, timeout="1s") == RetryLater(
        f"no response from {receiver.url.removesuffix('/hook')} within 1s", 0, None
    )


def test_gone_stops_a_delivery(receiver: WebhookReceiver) -> None:
    """A receiver that is gone for good is not asked to take the same messages one by one."""
    receiver.fail(Fault(410))

    assert isinstance(send(receiver.url), WrongDestination)


def test_a_name_with_a_refused_address_gets_no_connection(receiver: WebhookReceiver) -> None:
    """A name is resolved once, and its addresses are checked before the connection is opened."""
    url = receiver.url.replace("127.0.0.1", "localhost")
    refused = DeadlineConnection(
        url, headers={}, tls=httpx.create_ssl_context(), timeout=5, refuses=lambda address: address == "127.0.0.1"
    )
    with pytest.raises(AddressRefused) as caught:
        refused.post(b"{}", at_most=10)

    assert lasting_problem(caught.value) == "localhost has a link-local address, to which nothing is sent"
    assert receiver.requests == []
    assert send(url) == BatchAccepted(204)
