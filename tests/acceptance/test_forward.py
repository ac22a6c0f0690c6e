"""`audience-sync forward` as people run it: what a dry run prints, and that what is sent arrives once and in order."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from audience_sync.errors import INTERRUPTED
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.tracking_api.event_files import PIECE
from tests.acceptance import running
from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import KILLED, ON_ONE_DATABASE, Ended, Place, open_place, until
from tests.commands import call
from tests.haste import HastyCommand
from tests.support.faulty_sandbox import FaultRule

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "destination.json").read_text())
GROUPS = {text: [one for one in VECTORS if json.dumps(one["mappings"]) == text] for text in
          dict.fromkeys(json.dumps(one["mappings"]) for one in VECTORS)}  # fmt: skip
REDACTED = "(the API key)"
SHOP = "[sources.shop]\nurl = 'sqlite:///shop.db'\n"
MUST = "it must be one of identify, track, page, screen, group, alias"

ADA = {
    "type": "identify",
    "messageId": "m1",
    "userId": "ada",
    "timestamp": "2026-01-02T03:04:05Z",
    "context": {"groupId": "g1"},
    "traits": {"plan": "pro"},
}
ADA_BODY = {
    "api_key": REDACTED,
    "type": "identify",
    "sent_at": "2026-01-02T03:04:05.000Z",
    "body": {"keys": {"userId": "ada"}, "traits": {"plan": "pro"}, "company": {"keys": {"groupId": "g1"}}},
}
EVENTS: list[dict[str, Any]] = [
    ADA,
    {"type": "track", "messageId": "=m2", "userId": "ada", "event": "Signed Up"},
    {"type": "page"},
    {**ADA, "messageId": "m4\x9b2J", "integrations": {"All": False}},
]
MISSING = "Track Event: missing_field: the field timestamp is missing, but trackEvent requires it"
RECORDS: list[dict[str, Any]] = [
    {"line": 1, "messageId": "m1", "matched": ["Identify User"], "bodies": [ADA_BODY], "reasons": []},
    {"line": 2, "messageId": "=m2", "matched": ["Track Event"], "bodies": [], "reasons": [MISSING]},
    {"line": 3, "messageId": None, "matched": [], "bodies": [], "reasons": ["no_matching_mapping"]},
    {
        "line": 4,
        "messageId": "m4\x9b2J",
        "matched": [],
        "bodies": [],
        "reasons": ["filtered_by_integrations_object"],
    },
]


class Folder(NamedTuple):
    """A folder with a configuration, in which the command runs."""

    path: Path

    def write(self, name: str, content: bytes) -> str:
        """Write a file and return its path."""
        (self.path / name).write_bytes(content)
        return str(self.path / name)

    def forward(self, file: str, *options: str, stdin: bytes = b"") -> Ended:
        """Run the command; it has no API key, which a dry run does not need."""
        environment = {name: value for name, value in os.environ.items() if name != "SCHEMATIC_API_KEY"}
        return Ended(*call(["forward", file, *options], environment, folder=self.path, stdin=stdin))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A configuration without mappings: the presets serve."""
    (tmp_path / "config.toml").write_text(SHOP)
    return Folder(tmp_path)


def lines(events: Sequence[object]) -> bytes:
    """Return events as NDJSON."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def said(err: str) -> str:
    """Return what is on stderr without the words of the JSON parser, which are its own."""
    return re.sub(r"(is not valid JSON: ).+, column \d+$", r"\1…", err, flags=re.MULTILINE)


def toml(value: Any) -> str:
    """Return a value as TOML has it on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(name)} = {toml(inner)}' for name, inner in value.items())} }}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


def mapping_text(name: str, mapping: dict[str, Any]) -> str:
    """Return a mapping of the vectors as the configuration has it."""
    settings = {"name": name, "trigger": mapping["subscribe"], "action": mapping["partnerAction"]}
    tables = [("[[mappings]]", settings), ("[mappings.fields]", mapping["mapping"])]
    return "\n".join(
        line
        for head, table in tables
        for line in (head, *(f"{json.dumps(key)} = {toml(value)}" for key, value in table.items()))
    )


@pytest.mark.parametrize("mappings", GROUPS, ids=[f"{len(group)} events" for group in GROUPS.values()])
def test_vectors(folder: Folder, mappings: str) -> None:
    """Bodies are those that Segment posts, whole and in their order; what matched and why there are none is told."""
    vectors = GROUPS[mappings]
    names = [f"mapping {n}" for n in range(len(json.loads(mappings)))]
    texts = [mapping_text(name, one) for name, one in zip(names, json.loads(mappings), strict=True)]
    (folder.path / "config.toml").write_text(SHOP + "\n".join(texts))

    ended = folder.forward("-", "--dry-run", "--format", "json", stdin=lines([one["event"] for one in vectors]))

    assert ended.code == 0
    assert len(ended.records) == len(vectors)
    for number, (vector, record) in enumerate(zip(vectors, ended.records, strict=True), 1):
        filtered = "filtered" in vector["outcomes"]
        matched = [
            name
            for name, outcome in zip(names, vector["outcomes"], strict=True)
            if outcome not in ("not subscribed", "filtered")
        ]

        assert list(record) == ["line", "messageId", "matched", "bodies", "reasons"]
        assert (record["line"], record["messageId"]) == (number, vector["event"]["messageId"])
        assert record["bodies"] == [{**body, "api_key": REDACTED} for body in vector["sent"]]
        assert [list(body) for body in record["bodies"]] == [["api_key", "type", "sent_at", "body"]] * len(
            vector["sent"]
        )
        assert record["matched"] == matched
        if filtered:
            assert record["reasons"] == ["filtered_by_integrations_object"]
        elif not matched:
            assert record["reasons"] == ["no_matching_mapping"]
        else:
            assert len(record["bodies"]) + len(record["reasons"]) == len(matched)


def test_the_vectors_are_all_there() -> None:
    """Every vector is in a group, and each group has a configuration of its own."""
    assert sum(map(len, GROUPS.values())) == len(VECTORS) == 60
    assert len(GROUPS) == 4


def test_json_is_one_object_per_event(folder: Folder) -> None:
    """Each event is one line with its number, its mappings, bodies and reasons; no terminal obeys what is in it."""
    ended = folder.forward(folder.write("events", lines(EVENTS)), "--dry-run", "--format", "json")

    assert ended.code == 0
    assert ended.records == RECORDS
    assert ended.err == "4 events would become 1 bodies, 3 events would send nothing; 0 bad lines; nothing was sent\n"
    assert "\x9b" not in ended.out


def test_csv_has_the_same_columns(folder: Folder) -> None:
    """As CSV an event has the same columns, lists as JSON, and nothing that a spreadsheet would calculate."""
    ended = folder.forward(folder.write("events", lines(EVENTS[:3])), "--dry-run", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    lists = ("matched", "bodies", "reasons")

    assert [{**row, **{name: json.loads(row[name]) for name in lists}} for row in rows] == [
        {**record, "line": str(record["line"]), "messageId": shown}
        for record, shown in zip(RECORDS, ("m1", "'=m2", ""), strict=False)
    ]


def test_a_table_is_a_summary(folder: Folder) -> None:
    """By default what is shown is how many events of which type become what, and why others become nothing."""
    content = lines(EVENTS) + b"nope\n\n" + lines([{"type": "Page"}, ADA])
    ended = folder.forward(folder.write("events.gz", gzip.compress(content)), "--dry-run")

    assert ended.code == 0
    assert ended.out.splitlines() == [
        "what            which                            count",
        "events          identify                             3",
        "events          track                                1",
        "events          page                                 1",
        "sent to nobody  Track Event: missing_field           1",
        "sent to nobody  filtered_by_integrations_object      1",
        "sent to nobody  no_matching_mapping                  1",
        "bodies          Identify User                        2",
        "bodies          Track Event                          0",
        "bad lines       not_json                             1",
        "bad lines       unknown_type                         1",
    ]
    assert said(ended.err).splitlines() == [
        "bad line 5 is not valid JSON: …",
        f"bad line 7 has the type 'Page': {MUST}",
        "5 events would become 2 bodies, 3 events would send nothing; 2 bad lines; nothing was sent",
    ]


def test_an_event_that_one_of_two_mappings_cannot_send(folder: Folder) -> None:
    """What one mapping sends and another cannot is told apart from what is sent to nobody."""
    keys = '{ id = { "@path" = "$.userId" } }'
    company = '{ groupId = { "@path" = "$.context.groupId" } }'
    (folder.path / "config.toml").write_text(
        f"{SHOP}[[mappings]]\nname = 'Whole'\naction = 'identifyUser'\n"
        f"[[mappings]]\nname = 'Named'\naction = 'identifyUser'\n"
        f"[mappings.fields]\nuser_keys = {keys}\ncompany_keys = {company}\nuser_name = '{{}}'\n"
        "user_traits = { '@path' = '$.traits.plan' }\n"
    )
    ended = folder.forward("-", "--dry-run", stdin=lines([ADA]))

    assert ended.out.splitlines()[1:] == [
        "events        identify               1",
        "sent in part  Named: wrong_type      1",
        "bodies        Whole                  1",
        "bodies        Named                  0",
    ]


def test_nothing_is_touched(folder: Folder) -> None:
    """A dry run opens no database, needs no key, and leaves no file."""
    folder.write("events", lines(EVENTS))
    ended = folder.forward("events", "--dry-run")

    assert ended.code == 0
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.toml", "events"]


def test_twenty_bad_lines_are_named_and_the_rest_counted(folder: Folder) -> None:
    """A file full of rubbish does not fill the screen, and what is good in it goes on."""
    ended = folder.forward(
        "-", "--dry-run", "--format", "json", stdin=b"[]\n" * 1024 + b"?\n" + lines([{"type": "page"}])
    )

    assert ended.code == 0
    assert [record["line"] for record in ended.records] == [1026]
    assert ended.err.splitlines() == [
        *(f"bad line {number} is valid JSON, but not an object" for number in range(1, 21)),
        "… 1,005 more bad lines; in total: 1,024 not_an_object, 1 not_json",
        "1 events would become 0 bodies, 1 events would send nothing; 1,025 bad lines; nothing was sent",
    ]


class Bad(NamedTuple):
    """A file that has no events to show, and what is said; FILE stands for its path."""

    content: bytes | None
    said: str
    code: int = 1


EMPTY = "FILE has no events: it is empty, or all its lines are blank\n"
FILES = {
    "missing": Bad(None, "error: file not found: FILE\n"),
    "empty": Bad(b"", EMPTY, 0),
    "blank": Bad(b"\n  \n\r\n", EMPTY, 0),
    "empty_gzip": Bad(gzip.compress(b""), EMPTY, 0),
    "damaged_gzip": Bad(
        gzip.compress(b'{"type":"page"}\n')[:-6],
        "1 events would become 0 bodies, 1 events would send nothing; 0 bad lines; nothing was sent\n"
        "error: FILE cannot be read beyond line 1: its gzip data is truncated\n",
    ),
    "no_event": Bad(
        b"id,name\n1,Ada\n",
        "bad line 1 is not valid JSON: …\n"
        "bad line 2 is not valid JSON: …\n"
        "0 events would become 0 bodies, 0 events would send nothing; 2 bad lines; nothing was sent\n"
        "error: no line of FILE is a Segment event\n"
        'hint: each line must be one JSON object, such as {"type": "identify", …}; `jq -c .[]` splits a JSON array\n',
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_events(folder: Folder, name: str) -> None:
    """A file that is missing, empty, damaged or something else is one sentence; only an empty one is no failure."""
    bad = FILES[name]
    path = str(folder.path / "events")
    if bad.content is not None:
        folder.write("events", bad.content)
    ended = folder.forward(path, "--dry-run", "--format", "json")

    assert ended.code == bad.code
    assert said(ended.err) == bad.said.replace("FILE", path)


def test_a_directory(folder: Folder) -> None:
    """A directory is no file of events."""
    assert folder.forward(".", "--dry-run") == Ended(1, "", "error: . is a directory, not a file of events\n")


def test_empty_standard_input(folder: Folder) -> None:
    """Standard input is called by its name."""
    assert folder.forward("-", "--dry-run") == Ended(0, "", EMPTY.replace("FILE", "standard input"))


MAPPING = """
[[mappings]]
name = "Identify"
trigger = 'type = "identify"'
action = "identifyUser"
[mappings.fields]
timestamp = "2026-11-23T12:00:00.000Z"
user_keys = { userId = { "@path" = "$.userId" } }
user_traits = { message_id = { "@path" = "$.messageId" } }

[[mappings]]
name = "Track"
trigger = 'type = "track"'
action = "trackEvent"
[mappings.fields]
event_name = "done"
timestamp = "2026-11-23T12:00:00.000Z"
user_keys = { userId = { "@path" = "$.userId" } }
traits = { message_id = { "@path" = "$.messageId" } }
"""
NOTHING_TWICE = "run the same command again to continue; nothing is sent twice"


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A database, a sandbox, and mappings that tell messageIds."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure(more=MAPPING)
        yield opened


def tracks(count: int, *, users: int = 9) -> list[dict[str, Any]]:
    """Return events of some users, tracks and identifies in turns."""
    return [
        {"type": ("track", "track", "identify")[n % 3], "messageId": f"m{n}", "userId": f"u{n % users}"}
        for n in range(count)
    ]


def write(place: Place, content: bytes) -> str:
    """Write a file of events and return its path."""
    (place.folder / "events").write_bytes(content)
    return str(place.folder / "events")


def send(place: Place, content: bytes, *options: str, kill: str | None = None) -> Ended:
    """Forward a file with this content."""
    return place.command("forward", write(place, content), "--format", "json", *options, kill=kill)


def told(place: Place) -> dict[str, list[str]]:
    """Return which messageIds Schematic took of each user, in its order."""
    found: dict[str, list[str]] = {}
    for event in place.sandbox.ledger.events():
        if event.status != "duplicate":
            body: Any = event.body
            keys, traits = (
                (body["keys"], body["traits"]) if event.type == "identify" else (body["user"], body["traits"])
            )
            found.setdefault(keys["userId"], []).append(traits["message_id"])
    return found


def expected(events: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what Schematic should be told."""
    found: dict[str, list[str]] = {}
    for event in events:
        found.setdefault(event["userId"], []).append(event["messageId"])
    return found


def record(**counts: int) -> list[dict[str, int]]:
    """Return what the command prints as JSON; what is not named is 0."""
    names = ("read", "taken", "known", "bad", "accepted", "unsent", "open", "dead")
    return [{name: counts.get(name, 0) for name in names}]


def test_a_file_is_sent_once_and_in_order(place: Place) -> None:
    """Every event of every user arrives, in order; the same file again sends nothing."""
    events = tracks(500)
    first = send(place, lines(events))
    again = send(place, gzip.compress(lines(events)))

    assert (first.code, first.records) == (0, record(read=500, taken=500, accepted=500))
    assert (again.code, again.records) == (0, record(read=500, known=500))
    assert told(place) == expected(events)
    assert place.received() == 500
    assert "500 events accepted by Schematic" in first.err


POINTS = ["forward.taken", "deliver.taken:2", "deliver.posted:3", "forward.taken", "deliver.settled"]


@pytest.mark.slow
def test_killed_and_gone_on_with(place: Place) -> None:
    """Killed anywhere, the same command again goes on: every event arrives exactly once, in the order of its user."""
    events = tracks(2000)
    pages = [{"type": "page", "messageId": f"p{n}"} for n in range(PIECE)]
    content = lines([*events[:1000], *pages, *events[1000:]])
    killed = [send(place, content, kill=point).code for point in POINTS]
    last = send(place, content)

    assert killed == [KILLED] * len(POINTS)
    assert last.code == 0, last.err
    assert told(place) == expected(events)
    assert place.rows("SELECT * FROM events") == place.rows("SELECT * FROM batches WHERE status = 'open'") == []
    assert place.rows("SELECT reason, count FROM unsent_events") == [("no_matching_mapping", PIECE)]


@ON_ONE_DATABASE
def test_bad_lines_and_what_nobody_wants(place: Place) -> None:
    """Bad lines are named and the rest goes on; what no mapping wants is counted with its reason, and is no failure."""
    nobody = [{"type": "page", "messageId": "p1"}, {"type": "track", "messageId": "o1", "integrations": {"All": False}}]
    ended = send(place, lines(tracks(3)) + b"nope\n[]\n" + lines(nobody) + lines(tracks(5)))

    assert (ended.code, ended.records) == (0, record(read=10, taken=7, known=3, bad=2, accepted=5, unsent=2))
    assert [line for line in said(ended.err).splitlines() if "bad line" in line] == [
        "bad line 4 is not valid JSON: …",
        "bad line 5 is valid JSON, but not an object",
    ]
    assert told(place) == expected(tracks(5))
    assert sorted(place.rows("SELECT reason, type, count FROM unsent_events")) == [
        ("filtered_by_integrations_object", "track", 1),
        ("no_matching_mapping", "page", 1),
    ]


@ON_ONE_DATABASE
def test_events_without_a_messageid(place: Place) -> None:
    """An event without a messageId is known by its text: it arrives once, and another one beside it."""
    events = [{"type": "track", "userId": "u1", "n": n} for n in (1, 2, 1)]
    first, again = send(place, lines(events)), send(place, lines(events))

    assert (first.code, first.records) == (0, record(read=3, taken=2, known=1, accepted=2))
    assert (again.code, again.records) == (0, record(read=3, known=3))
    assert place.received() == 2


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_file_that_breaks_off_is_sent_as_far_as_it_goes(place: Place) -> None:
    """What comes before the break arrives, the failure is told with its line, and the whole file then adds the rest."""
    events = tracks(3000)
    whole = gzip.compress(lines(events))
    broken = send(place, whole[: len(whole) // 2])
    some = broken.records[0]["accepted"]

    assert broken.code == 1
    assert broken.records == record(read=some, taken=some, accepted=some)
    assert 0 < some < 3000
    assert told(place) == expected(events[:some])
    assert (
        f"cannot be read beyond line {some}: its gzip data is truncated\nhint: earlier events are stored" in broken.err
    )
    assert NOTHING_TWICE in broken.err

    assert send(place, whole).records == record(read=3000, known=some, taken=3000 - some, accepted=3000 - some)
    assert told(place) == expected(events)


def test_while_schematic_is_away(place: Place) -> None:
    """An outage loses nothing: all is kept, the exit code says so, and a delivery finishes it."""
    events = tracks(200)
    place.sandbox.faults.set([FaultRule(status=503)])
    away = send(place, lines(events), "--wait", "1s")
    place.sandbox.faults.set([])
    delivered = place.command("deliver")

    assert (away.code, away.records) == (3, record(read=200, taken=200, open=200))
    assert "open deliveries: 200" in away.err
    assert delivered.code == 0
    assert told(place) == expected(events)


@ON_ONE_DATABASE
def test_a_refused_key(place: Place) -> None:
    """A key that Schematic does not know keeps everything, and leaves with its own exit code."""
    place.key = "sch_dev_rotated"
    refused = send(place, lines(tracks(20)))
    place.key = DEVELOPMENT_KEY
    again = send(place, lines(tracks(20)))

    assert (refused.code, refused.records) == (6, record(read=20, taken=20, open=20))
    assert (again.code, again.records) == (0, record(read=20, known=20, accepted=20))
    assert told(place) == expected(tracks(20))


@ON_ONE_DATABASE
def test_only_kept(place: Place) -> None:
    """With --no-deliver events wait in the database; nothing is asked of Schematic, and no key is needed."""
    place.environment["SCHEMATIC_API_KEY"] = ""
    ended = send(place, lines(tracks(20)), "--no-deliver")

    assert (ended.code, ended.records) == (0, record(read=20, taken=20, open=20))
    assert place.sandbox.ledger.read("SELECT * FROM requests") == []


@ON_ONE_DATABASE
def test_before_anything_is_read(place: Place) -> None:
    """Without a key or a database nothing is read, and the remedy is told."""
    place.environment["SCHEMATIC_API_KEY"] = ""
    keyless = place.command("forward", "-")
    place.environment.clear()
    place.configure(url=f"sqlite:///{place.folder / 'none.db'}")
    homeless = place.command("forward", write(place, lines(tracks(1))))

    assert (keyless.code, homeless.code) == (2, 2)
    assert "the Schematic API key is missing: " in keyless.err
    assert "create it with `audience-sync init`" in homeless.err


@ON_ONE_DATABASE
@pytest.mark.parametrize("name", FILES)
def test_a_file_without_events_to_send(place: Place, name: str) -> None:
    """What a dry run says of a bad file is said here, too, and the same exit code returned."""
    bad = FILES[name]
    path = str(place.folder / "events")
    if bad.content is not None:
        write(place, bad.content)
    ended = place.command("forward", path, "--format", "json")
    sentences = {line for line in bad.said.replace("FILE", path).splitlines() if "would become" not in line}

    assert ended.code == bad.code
    assert sentences <= set(said(ended.err).splitlines())
    assert len(ended.records) == (name != "missing")


@ON_ONE_DATABASE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_pipe_that_stays_open(place: Place, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes through a pipe is delivered while it is open and silent, and whoever stops the command has it all."""
    monkeypatch.setattr(running, "Command", HastyCommand)
    pipe = place.folder / "pipe"
    os.mkfifo(pipe)
    with place.running("forward", "-", stdin=pipe) as forwarding, pipe.open("wb", buffering=0) as sender:
        for count in (3, 6):
            sender.write(lines(tracks(count)))
            until(lambda count=count: place.received() == count)  # type: ignore[misc]
        code, _, err = forwarding.end(number)
    again = send(place, lines(tracks(6)))

    assert code == (KILLED if number is signal.SIGKILL else INTERRUPTED)
    assert ("stopped after line 9: run the same command again to continue" in err) == (number is signal.SIGINT)
    # Whoever is killed before an answer is settled has these events sent again, under the same keys.
    assert [{**one, "accepted": 0} for one in again.records] == record(read=6, known=6)
    assert told(place) == expected(tracks(6))


def test_beside_the_daemon(place: Place) -> None:
    """While a daemon delivers, too, each event arrives once and in order, and the command waits for the last."""
    events = tracks(1000)
    with local_daemon(place) as daemon:
        daemon.wait_for("daemon_started")
        ended = send(place, lines(events))

    assert ended.code == 0, ended.err
    assert told(place) == expected(events)
    assert place.rows("SELECT * FROM events") == []
