"""What the tests of the Tracking API share: a server on a database, and who sends to it."""

from __future__ import annotations

import gzip
import socket
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import httpx
import orjson
import sqlalchemy as sa
from pydantic import SecretStr
from segment.analytics import request

from audience_sync.config import Address
from audience_sync.store import schema
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.requests import DEFAULT_LIMITS, SenderLimits
from audience_sync.tracking_api.server import Server

KEY = "wk_of_the_shop"
OTHER_KEY = "wk_of_the_app"
SUCCESS = {"success": True}
TRACK = {"type": "track", "event": "Order Completed", "userId": "u1", "messageId": "m1"}


def basic(key: str = KEY) -> dict[str, str]:
    """Return the header that libraries send their write key in."""
    return {"Authorization": f"Basic {b64encode(f'{key}:'.encode()).decode()}"}


@contextmanager
def serving(workspace: Workspace, *, limits: SenderLimits = DEFAULT_LIMITS) -> Iterator[Server]:
    """Serve on any port, with two keys."""
    keys = [SecretStr(KEY), SecretStr(OTHER_KEY)]
    with closing_server(Server(workspace, Address("127.0.0.1", 0), keys, limits=limits)) as server:
        yield server


@contextmanager
def closing_server(server: Server) -> Iterator[Server]:
    """Close a server with the block."""
    try:
        yield server
    finally:
        server.close(10.0)


@contextmanager
def closed_segment_connections() -> Iterator[None]:
    """Close the connections that Segment's library keeps for the whole process, with the block."""
    try:
        yield
    finally:
        request._session.close()


class Sender:
    """Sends requests to a server, over one connection unless it is closed."""

    def __init__(self, server: Server) -> None:
        self.address = server.address
        self._client = httpx.Client(verify=False, base_url=f"http://{server.address}", trust_env=False, timeout=30.0)

    def post(
        self, path: str, body: object, *, headers: Mapping[str, str] | None = None, packed: bool = False
    ) -> httpx.Response:
        """Send a body, as JSON unless it is bytes, with the write key unless other headers are given."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = dict(basic() if headers is None else headers)
        if packed:
            content = gzip.compress(content)
            sent["Content-Encoding"] = "gzip"
        return self._client.post(path, content=content, headers=sent)

    def request(self, method: str, path: str, **headers: str) -> httpx.Response:
        """Send a request without a body."""
        return self._client.request(method, path, headers=headers)

    def connect(self) -> socket.socket:
        """Open a connection for bytes of one's own."""
        return socket.create_connection(self.address, timeout=30.0)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextmanager
def sending(workspace: Workspace, *, limits: SenderLimits = DEFAULT_LIMITS) -> Iterator[Sender]:
    """Serve, and yield who sends there."""
    with serving(workspace, limits=limits) as server, closing(Sender(server)) as sender:
        yield sender


def kept(database: Database) -> list[dict[str, Any]]:
    """Return the events that are kept, in the order in which they arrived."""
    query = sa.select(schema.events.c.payload).order_by(schema.events.c.position)
    with database.read() as connection:
        return [orjson.loads(payload) for payload in connection.execute(query).scalars()]


def head(path: str = "/v1/track", *, length: int, **headers: str) -> bytes:
    """Return the head of a request with a body of so many bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in {**basic(), **headers}.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received
