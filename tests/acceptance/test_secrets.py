"""The API key is on the wire and nowhere else: commands that log everything, servers that say it back, a search in all.

The key has characters that JSON, URLs and HTML spell in their own ways; `TOKEN` is a part of it that none of them
changes, at both of its ends, so that half a key is found, too.
"""

from __future__ import annotations

import html
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import httpx
import pytest
import structlog
from pydantic import SecretStr

from audience_sync import logs
from audience_sync.clock import wall_clock
from audience_sync.config import Settings, load
from audience_sync.core.model import TraitType
from audience_sync.core.text import redaction
from audience_sync.delivery import DeliveryOptions, deliver
from audience_sync.destinations.schematic.schematic_client import SchematicClient
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from tests.acceptance import running
from tests.acceptance.running import KILLED, ON_ONE_DATABASE, Place, customers, open_place, until
from tests.factories import AUDIENCE_KEY
from tests.ingesting import TRACK
from tests.loud import CRASH, LoudCommand

TOKEN = "Zq7Sec"
KEY = f"sch_{TOKEN}\"\\/<&%+'{TOKEN}"
WRITE_KEY = f"wk_{TOKEN}"
PEOPLE = customers(range(3))
EVENT = {"type": "track", "event": "Signed Up", "userId": "u1", "messageId": "m1", "timestamp": "2026-01-02T03:04:05Z"}
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    json.dumps,
    lambda text: "".join(letter if letter.isalnum() else f"\\u{ord(letter):04X}" for letter in text),
    lambda text: quote(text, safe=""),
    html.escape,
    lambda text: "".join(f"&#{ord(letter)};" if letter in "\"'<&" else letter for letter in text),
)


class Echo(BaseHTTPRequestHandler):
    """A server that says back whatever it is sent, in every spelling, as `status` or as no HTTP at all (0)."""

    status = 500
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell the environment."""
        self._answer(200, json.dumps({"data": {"environment_id": "env_sandbox", "key": KEY}}))

    def do_POST(self) -> None:
        """Say it back."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        said = "\n".join([*(spell(KEY) for spell in SPELLINGS), str(self.headers), body])
        if self.status == 0:
            self.wfile.write(f"HTTP/1.1 200 OK\r\n{KEY} is no header\r\n\r\n".encode())
            self.close_connection = True
            return
        self._answer(self.status, json.dumps({"error": said}) if self.status != 404 else f"<html>{said}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, said: str) -> None:
        self.send_response(status, f"Because {KEY}")
        for name, value in (
            ("Location", f"/elsewhere?key={quote(KEY)}&again={KEY}"),
            ("X-Echo", KEY),
            ("Content-Type", "text/html" if said.startswith("<") else "application/json"),
            ("Content-Length", str(len(said.encode()))),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said.encode())


@contextmanager
def echoing() -> Iterator[tuple[str, type[Echo]]]:
    """Serve what says everything back; yield its address and what decides about its status."""

    class Handler(Echo):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler
        server.shutdown()
        thread.join()


@pytest.fixture
def given() -> str:
    """How the key is given: in a variable, unless a test says otherwise."""
    return "variable"


def key_file(place: Place) -> Path:
    """Return where the key lies when it lies in a file: in a folder of its own."""
    return place.folder.with_name(f"{place.folder.name}-secrets") / "SCHEMATIC_API_KEY"


@pytest.fixture
def place(tmp_path: Path, database_url: str, given: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A shop and a sandbox that takes the key alone; commands log everything, and leave files where they are found."""
    monkeypatch.setattr(running, "Command", LoudCommand)
    (tmp_path / "tmp").mkdir()
    with open_place(tmp_path, database_url) as opened:
        opened.sandbox.keys.revoke(DEVELOPMENT_KEY)
        opened.sandbox.keys.restore(KEY)
        opened.key = KEY if given == "variable" else ""
        opened.always_forks = True
        key_file(opened).parent.mkdir()
        key_file(opened).write_text(f"{KEY}\n")
        key_file(opened).chmod(0o600)
        opened.environment.update(
            TMPDIR=str(tmp_path / "tmp"), AUDIENCE_SYNC_TRACEBACK="1", HTTPX_LOG_LEVEL="trace", PYTHONASYNCIODEBUG="1",
            SEGMENT_WRITE_KEY=WRITE_KEY,
            CREDENTIALS_DIRECTORY=str(key_file(opened).parent) if given == "credential" else "",
        )  # fmt: skip
        (tmp_path / "events.ndjson").write_text(json.dumps(EVENT) + "\n")
        opened.shop.set_orders(PEOPLE.items())
        yield opened


def configure(place: Place, given: str, *, destination: str | None = None, listen: bool = False) -> Settings:
    """Write the configuration, with the key as it is given, of the sandbox or of another destination."""
    more = '[ingest]\nlisten = "127.0.0.1:0"\nwrite_keys = ["${SEGMENT_WRITE_KEY}"]' if listen else ""
    place.configure(destination=destination, more=more)
    path = place.folder / "config.toml"
    if given == "file":
        setting = f"[schematic]\napi_key_file = {json.dumps(str(key_file(place)))}\n"
        path.write_text(path.read_text().replace("[schematic]\n", setting))
    return load(path, {})


def everything_kept(place: Place) -> dict[str, bytes]:
    """Return every byte that is left: files in the folder and below, and the text of every row of a Postgres."""
    kept = {str(path): path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    if not place.database.is_sqlite:
        tables = place.rows(
            "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables"
            " WHERE table_schema NOT IN ('information_schema', 'pg_catalog')"
        )
        kept |= {table: repr(place.rows(f"SELECT t::text FROM {table} t")).encode() for (table,) in tables}
        kept["activity"] = repr(place.rows("SELECT query, application_name FROM pg_stat_activity")).encode()
    return kept


def assert_kept_nowhere(place: Place) -> None:
    """Assert that no byte of the key is left anywhere, and that there was something to look through."""
    kept = everything_kept(place)

    assert {where for where, content in kept.items() if TOKEN.encode() in content} == set()
    assert any(b"DEBUG httpcore.connection" in content for content in kept.values())
    assert any(b"(the API key)" in content for content in kept.values())


ANSWERS = {401: 6, 302: 1, 404: 1, 500: 3, 0: 3, 400: 3}
"""The exit code that each answer of Schematic leads to; 0 is one that is no HTTP."""

LOOKING = (
    "check --format json", "migrate", f"preview {AUDIENCE_KEY}", "plan", "status", "profile u1", "dead list",
    "forward events.ndjson --dry-run --format json", f"explain u1 {AUDIENCE_KEY}",
)  # fmt: skip


@pytest.mark.timeout(300)  # some twenty commands
@pytest.mark.parametrize(
    ("database_url", "given", "answers", "looking"),
    [("sqlite", "variable", ANSWERS, LOOKING), ("postgres", "file", [401], ["status --format json"])],
    indirect=["database_url"],
    ids=["sqlite", "postgres"],
)
def test_the_key_is_nowhere_but_on_the_wire(
    place: Place, given: str, answers: Sequence[int], looking: Sequence[str]
) -> None:
    """Whatever answers, and however much is logged, no output, file or row has the key that Schematic gets."""
    configure(place, given)
    first = place.command("sync")
    forwarded = place.command("forward", str(place.folder / "events.ndjson"))
    traits = place.traits()
    killed = place.command("sync", "--resync", kill="deliver.posted:1")
    with echoing() as (url, server):
        configure(place, given, destination=url)
        codes = {}
        for server.status in answers:
            ends_by_itself = server.status not in (0, 500)
            codes[server.status] = place.command("deliver", "--wait", "60s" if ends_by_itself else "0s").code
        place.environment[CRASH] = "1"
        crashed = place.command("sync", "--resync")
        del place.environment[CRASH]
    configure(place, given, destination="http://127.0.0.1:9")
    unreachable = place.command("deliver", "--wait", "0s")
    configure(place, given)
    for words in looking:
        line = [str(place.folder / word) if word.endswith(".ndjson") else word for word in words.split()]
        assert place.command(*line).code == 0, words

    assert (first.code, forwarded.code, killed.code) == (0, 0, KILLED)
    assert dict.fromkeys(PEOPLE, True) == {user: has[AUDIENCE_KEY] for user, has in traits.items()}
    assert codes == {status: ANSWERS[status] for status in answers}
    assert (crashed.code, unreachable.code) == (1, 3)
    assert "a forced end of 3 things" in crashed.err
    assert "Traceback" in crashed.err
    assert_kept_nowhere(place)


@ON_ONE_DATABASE
@pytest.mark.parametrize("given", ["credential"])
def test_a_credential_is_as_secret(place: Place, given: str) -> None:
    """A key that systemd hands over is used as any other, and shown by nothing; `check` says who could listen in."""
    configure(place, given, destination=place.sandbox.url.replace("127.0.0.1", "0.0.0.0"))
    looked = place.command("check")
    with echoing() as (url, server):
        configure(place, given, destination=url)
        server.status = 403
        refused = place.command("sync")

    assert (looked.code, refused.code) == (0, 6)
    assert looked.out.count("is not encrypted: anyone on the network path can read the API key") == 2
    assert_kept_nowhere(place)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_the_daemon_shows_the_key_to_nobody(place: Place, given: str) -> None:
    """Its command line, its title, what it tells systemd and its log are without both keys, and so is how it ends."""
    folder = Path(tempfile.mkdtemp(prefix="notify-"))  # the path of a socket must be short
    with echoing() as (url, server), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(folder / "s"))
        systemd.settimeout(running.DEADLINE)
        configure(place, given, destination=url, listen=True)
        environment = {**os.environ, **place.environment, "SCHEMATIC_API_KEY": KEY, "NOTIFY_SOCKET": str(folder / "s")}
        words = [sys.executable, "-m", "audience_sync", "--config", str(place.folder / "config.toml"), "run"]
        with (place.folder / "run.txt").open("w") as said:
            daemon = subprocess.Popen(words, env=environment, stderr=said, stdout=said)
            try:
                heard = b""
                while b"STATUS=" not in heard:
                    heard += systemd.recv(4096) + b"\n"
                until(lambda: "ingest_started" in (place.folder / "run.txt").read_text())
                found = re.search(r'"address": "([^"]+)"', (place.folder / "run.txt").read_text())
                assert found is not None
                answers = [
                    httpx.post(
                        f"http://{found[1]}{path}", json={**TRACK, "writeKey": key}, trust_env=False, verify=False
                    ).status_code
                    for path, key in (("/v1/track", WRITE_KEY), (f"/v1/track?writeKey={WRITE_KEY}", f"{WRITE_KEY}x"))
                ]
                until(lambda: place.rows("SELECT 1 FROM batches WHERE error IS NOT NULL"))
                server.status = 401
                until(lambda: "key_refused" in (place.folder / "run.txt").read_text())
                process = Path(f"/proc/{daemon.pid}")
                shown = b"".join((process / name).read_bytes() for name in ("cmdline", "comm", "status", "maps"))
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(running.DEADLINE)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

    assert answers == [200, 401]
    assert b"audience_sync" in shown
    assert TOKEN.encode() not in shown + heard
    assert {where for where, content in everything_kept(place).items() if TOKEN.encode() in content} == set()
    assert "(the API key)" in (place.folder / "run.txt").read_text()


@ON_ONE_DATABASE
def test_a_crash_of_the_daemon_is_told_without_locals(place: Place, given: str) -> None:
    """What nobody foresaw is logged with its kind and place; neither its words nor any local variable is printed."""
    place.sync_here(configure(place, given), PEOPLE)
    place.environment[CRASH] = "1"

    ended = place.command("run")

    assert ended.code == 1
    lines = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    (crash,) = (line for line in lines if line["event"] == "thread_crashed")
    kind, *places = crash["exception"].splitlines()
    assert (crash["level"], crash["thread"], kind) == ("error", "dispatcher", "RuntimeError")
    assert "loud.py" in places[-1]
    assert "a forced end" not in ended.err
    assert "everything" not in ended.err
    assert TOKEN not in ended.out + ended.err


@pytest.mark.parametrize("person", [True, False], ids=["terminal", "journal"])
def test_an_exception_is_logged_by_its_kind_and_place(
    person: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's log has the frames of an exception and what it comes from, and neither locals nor words."""
    before = structlog.get_config()

    monkeypatch.setattr(sys.stderr, "isatty", lambda: person)
    logs.configure()
    try:
        _fail(KEY)
    except RuntimeError:
        structlog.get_logger().error("sync_failed", why="\x1b[2Jx\x9b", exc_info=True)
    finally:
        structlog.configure(**before)
    said = capsys.readouterr().err

    assert TOKEN not in said
    assert "RuntimeError" in said
    assert "from" in said
    assert re.search(r"test_secrets\.py:\d+ _fail", said)
    assert "\x1b[2J" not in said
    assert "\x9b" not in said


@ON_ONE_DATABASE
def test_nothing_that_holds_the_key_shows_it(place: Place, given: str) -> None:
    """Settings, client, delivery and failures are without the key as text; what has it cannot be pickled."""
    with echoing() as (url, server):
        server.status = 401
        settings = configure(place, given, destination=url)
        place.sync_here(settings, PEOPLE)
        delivery = DeliveryOptions(settings=settings, key=SecretStr(KEY), wait=timedelta(seconds=60))
        with closing(
            SchematicClient(settings.schematic, SecretStr(KEY), tls=httpx.create_ssl_context(), clock=wall_clock)
        ) as client:
            told = [client.post_batch(b'{"events":[]}'), client.declare("t", TraitType.BOOLEAN, display_name="T")]
            with place.workspace() as workspace:
                failure = deliver(workspace, delivery).failure
            assert failure is not None
            failure.add_note("while testing")
            shown: list[object] = [
                settings,
                client,
                vars(client),
                delivery,
                vars(delivery),
                failure,
                failure.hint,
                told,
            ]
            shown += [failure.args, failure.__notes__, failure.__cause__, failure.__context__]
            shown += traceback.TracebackException.from_exception(failure, capture_locals=True).format()
            for one in (client, delivery):
                with pytest.raises((AttributeError, TypeError)):
                    pickle.dumps(one)

    assert TOKEN not in "".join(f"{one!r}{one!s}" for one in shown)
    assert TOKEN.encode() not in pickle.dumps(load(settings.path, {"SCHEMATIC_API_KEY": KEY}))
    assert "(the API key)" in str(told)


@pytest.mark.parametrize("spell", SPELLINGS, ids=["plain", "json", "unicode", "url", "html", "numeric"])
def test_the_key_is_recognised_however_it_is_spelled(spell: Callable[[str], str]) -> None:
    """A server may say the key back as JSON, a URL or HTML write it, and JSON inside of JSON."""
    clean = redaction(KEY, word="(key)")

    assert TOKEN not in clean(f"no {spell(KEY)}, no")
    assert TOKEN not in clean(json.dumps(json.dumps({"error": spell(KEY)})))
    assert TOKEN.lower() not in clean(spell(KEY).lower())
    assert clean("sch_other, C:\\path") == "sch_other, C:\\path"


@ON_ONE_DATABASE
def test_half_a_key_at_the_end_of_a_long_answer_is_left_out(place: Place, given: str) -> None:
    """An answer is read up to a limit, which may lie within the key."""
    with echoing() as (url, server):
        settings = configure(place, given, destination=url).schematic
        with closing(
            SchematicClient(settings, SecretStr(KEY), tls=httpx.create_ssl_context(), clock=wall_clock)
        ) as client:
            server.status = 500
            answers = [client.post_batch(b"x" * (60_000 + step) + KEY.encode() * 400) for step in (0, 7, 19)]

    assert TOKEN not in repr(answers)


def _fail(local: str) -> None:
    """Fail with an exception that comes from another one, both with a secret as their words."""
    try:
        int(local)
    except ValueError as error:
        raise RuntimeError(local) from error
