"""JSON output has the fields that the manual lists: every command runs on real data, and its lines are compared."""

from __future__ import annotations

import json
import re
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from audience_sync.cli.main import COMMANDS, load
from audience_sync.manual.manual_pages import FOLDER
from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place, until
from tests.commands import call
from tests.factories import AUDIENCE_KEY, AUDIENCE_NAME
from tests.support.faulty_sandbox import FaultRule

WITHOUT = {
    "run": "prints nothing but its log",
    "schema": "its output is JSON already",
    "completion": "its output is a script",
}
MORE = """
[guard]
max_exit_percent = 30
min_members = 1
[sources.shop.events]
table = "events"
properties = "properties"
[[audiences]]
name = "Big"
query = "event('Order Completed').sum(property('revenue')) >= 500"
[[audiences]]
name = "Bigger"
query = "trait('big') = true"
[[audiences]]
name = "Broken"
sql = "SELECT user_id FROM nowhere"
[[audiences]]
name = "Late"
sql = "SELECT 'u1' AS user_id"
freshness = "SELECT '2026-01-01T00:00:00Z'"
max_age = "1h"
[[hooks]]
name = "crm"
url = "http://127.0.0.1:9/hook"
secret = "${CRM_HOOK_SECRET}"
[[traits]]
name = "First Product"
query = "event('Order Completed').first(property('sku'))"
[[traits]]
name = "Spend"
query = "event('Order Completed').sum(property('revenue'))"
"""
EVENTS = [
    {"type": "identify", "userId": "u1", "traits": {"plan": "pro"}, "messageId": "m1"},
    {"type": "track", "userId": "u2", "event": "Signed Up", "messageId": "m2"},
    {"type": "page", "userId": "u2", "messageId": "m3"},
    {"type": "identify", "userId": "refused", "messageId": "m4"},
]
REFUSED = [FaultRule(user_key=user, status=422) for user in ("u3", "refused")]
OPAQUE = {
    "bodies", "erased", "identifiers", "open_value", "parameters", "payload", "properties", "reasons", "row", "traits",
    "value",
}  # fmt: skip
"""Fields with the JSON of users or sources, or with counts by name: their content has no fixed fields."""

Fields = dict[str, set[str]]


def paths(value: object, prefix: str = "") -> Iterator[str]:
    """Yield the path of every field of a JSON value: `audiences[].last_run.id`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            path = f"{prefix}.{name}" if prefix else name
            yield path
            if name not in OPAQUE:
                yield from paths(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{prefix}[]")


def documented() -> tuple[Fields, dict[str, str]]:
    """Return the fields of each command as the manual lists them, and what it says about each name."""
    text = (FOLDER / "commands.md").read_text(encoding="utf-8")
    lists, _, meanings = text.partition("### JSON fields\n")[2].partition("### Meaning of the fields\n")
    fields = {
        match[1]: set(re.findall(r"`([^`]+)`", match[2]))
        for match in re.finditer(r"^\| `([^`]+)` \| [^|]+ \| (.*) \|$", lists, re.MULTILINE)
    }
    meanings = meanings.partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \| (.*) \|$", meanings, re.MULTILINE)
    return fields, {name: meaning for names, meaning in rows for name in re.findall(r"`([^`]+)`", names)}


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """Yield a shop with orders and events, audiences, a computed trait, and a sandbox that refuses two users."""
    with open_place(tmp_path, database_url) as opened:
        opened.environment["CRM_HOOK_SECRET"] = "s" * 32
        opened.configure(name=AUDIENCE_NAME, more=MORE)
        opened.shop.set_orders([("u1", "acme"), ("u2", "acme"), ("u3", "acme"), None])
        opened.shop.execute("CREATE TABLE events (user_id TEXT, event TEXT, timestamp TEXT, properties TEXT)")
        opened.shop.execute(
            "INSERT INTO events VALUES ('u1', 'Order Completed', '2026-03-01 10:00:00',"
            ' \'{"revenue": 700, "sku": "A7"}\')'
        )
        opened.sandbox.faults.set(REFUSED)
        (tmp_path / "events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
        yield opened


class Shown:
    """Runs commands with `--format json`, and collects the fields that they print."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.fields: Fields = defaultdict(set)

    def __call__(self, *words: str, name: str | None = None, codes: Iterable[int] = (0,)) -> list[dict[str, Any]]:
        """Run a command, remember its fields, and return what it printed."""
        ended = self._place.command(*words, "--format", "json")
        assert ended.code in codes, (words, ended.err)
        assert ended.records, (words, ended.err)
        self.see(name or words[0], ended.records)
        return ended.records

    def see(self, name: str, records: Iterable[object]) -> None:
        """Remember the fields of some records."""
        for record in records:
            self.fields[name].update(paths(record))


def everything(place: Place) -> Fields:
    """Return the fields that every command prints, in a life of a small database."""
    shown = Shown(place)
    _first_half(place, shown)
    _second_half(place, shown)
    return shown.fields


def _first_half(place: Place, shown: Shown) -> None:
    """Set up, sync and forward, and look at everything."""
    file = str(place.folder / "events.ndjson")
    shown("init")
    shown("migrate")
    shown("check", codes=(0, 1))
    shown("service")
    shown("manual")
    shown("manual", "tutorial", name="manual TOPIC")
    shown("plan", "--samples", "1", codes=(1,))
    shown("sync", codes=(1,))
    shown("forward", file, "--dry-run", name="forward --dry-run")
    shown("forward", file, codes=(3,))
    shown("runs")
    shown("members", "spend")
    shown("changes", "--since", "100 years ago")
    shown("rejections")
    shown("audiences")
    shown("audiences", "spend", "--history", name="audiences --history")
    shown("explain", "u1", "big")
    shown("explain", "u1", "spend")
    shown("explain", "big", "--sql", name="explain --sql")
    shown("preview", "spend")
    shown("preview", "first_product")
    shown("events")
    shown("events", "--reasons", name="events --reasons")
    shown("dead", "list", name="dead list")
    shown("profile", "refused")


def _second_half(place: Place, shown: Shown) -> None:
    """Look at a blocked run, an outage and an end."""
    place.shop.set_orders(["u9"])
    place.shop.execute("DELETE FROM events")
    shown("sync", codes=(1,))
    place.sandbox.faults.set([FaultRule(status=503)])
    shown("dead", "retry", name="dead retry")
    shown("deliver", "--wait", "1s", codes=(3,))
    shown("profile", "u3")
    shown("profile", "u1")
    with place.workspace() as workspace, workspace.hold({1}, seconds=60) or pytest.fail("nobody else holds it"):
        shown("status")
        shown("status", "--holders", name="status --holders")
    place.sandbox.faults.set(REFUSED)
    shown("approve", AUDIENCE_KEY, "--yes", codes=(3,))
    shown("dead", "discard", "--yes", name="dead discard")
    shown("pause", AUDIENCE_KEY)
    shown("resume", AUDIENCE_KEY)
    shown("forget", "u2", "--yes")
    shown("retract", "spend", "--yes", codes=(0, 3))
    second = ("--port", "0", "--database", str(place.folder / "second.db"))
    with place.running("sandbox", *second, "--format", "json") as sandbox:
        until(lambda: "\n" in sandbox.printed)
        httpx.get(json.loads(sandbox.printed)["url"])
        ended = sandbox.end(signal.SIGINT)
    shown.see("sandbox", map(json.loads, ended.out.splitlines()))
    demo = call(["demo", "--folder", str(place.folder / "demo"), "--format", "json"], {}, folder=place.folder)
    shown.see("demo", [json.loads(demo.out)])
    shown("database", "copy", "--to", f"sqlite:///{place.folder / 'moved.db'}", name="database copy")


@ON_ONE_DATABASE
def test_json_has_the_fields_that_the_manual_lists(place: Place) -> None:
    """Every field that a command prints is in the manual, and the manual lists no other."""
    printed = everything(place)
    listed, _ = documented()

    assert {name: sorted(fields) for name, fields in printed.items()} == {
        name: sorted(fields) for name, fields in listed.items()
    }


def test_the_manual_explains_each_field_once() -> None:
    """A name means the same in every command, and the manual says what."""
    fields, meanings = documented()
    names = {path.rpartition(".")[2].removesuffix("[]") for paths in fields.values() for path in paths}

    assert names == meanings.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_formats(name: str) -> None:
    """`--format` is an option of every command, also of those in groups; the exceptions have reasons."""
    command = load(name)
    commands = getattr(command, "commands", {"": command})

    for inner in commands.values():
        options = {option for parameter in inner.params for option in parameter.opts}
        assert ("--format" in options) == (name not in WITHOUT), WITHOUT.get(name)
