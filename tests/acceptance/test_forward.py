"""`audience-sync forward --dry-run` as people run it: Segment's vectors whole, what it prints, and bad files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.acceptance.running import DEADLINE, Ended

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
MISSING = "Track Event: missing_field: the field timestamp is missing, and trackEvent needs it"
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
        command = [sys.executable, "-m", "audience_sync", "forward", file, *options]
        environment = {name: value for name, value in os.environ.items() if name != "SCHEMATIC_API_KEY"}
        ended = subprocess.run(
            command, cwd=self.path, env=environment, input=stdin, capture_output=True, timeout=DEADLINE, check=False
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A configuration without mappings: the presets serve."""
    (tmp_path / "config.toml").write_text(SHOP)
    return Folder(tmp_path)


def lines(events: Sequence[object]) -> bytes:
    """Return events as NDJSON."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def told(err: str) -> str:
    """Return what is on stderr without the words of the JSON parser, which are its own."""
    return re.sub(r"(is no JSON: ).+, column \d+$", r"\1…", err, flags=re.MULTILINE)


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
    assert ended.err == "4 events would become 1 bodies, 3 of them none; 0 bad lines; nothing was sent\n"
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
        "events          identify                         3",
        "events          track                            1",
        "events          page                             1",
        "sent to nobody  Track Event: missing_field       1",
        "sent to nobody  filtered_by_integrations_object  1",
        "sent to nobody  no_matching_mapping              1",
        "bodies          Identify User                    2",
        "bodies          Track Event                      0",
        "bad lines       not_json                         1",
        "bad lines       unknown_type                     1",
    ]
    assert told(ended.err).splitlines() == [
        "bad line 5 is no JSON: …",
        f"bad line 7 has the type 'Page': {MUST}",
        "5 events would become 2 bodies, 3 of them none; 2 bad lines; nothing was sent",
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
        "events        identify           1",
        "sent in part  Named: wrong_type  1",
        "bodies        Whole              1",
        "bodies        Named              0",
    ]


def test_nothing_is_touched(folder: Folder) -> None:
    """A dry run opens no database, needs no key, and leaves no file."""
    folder.write("events", lines(EVENTS))
    ended = folder.forward("events", "--dry-run")

    assert ended.code == 0
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.toml", "events"]


def test_twenty_bad_lines_are_named_and_the_rest_counted(folder: Folder) -> None:
    """A file full of rubbish does not fill the screen, and what is good in it goes on."""
    ended = folder.forward("-", "--dry-run", "--format", "json", stdin=b"[]\n" * 1025 + lines([{"type": "page"}]))

    assert ended.code == 0
    assert [record["line"] for record in ended.records] == [1026]
    assert ended.err.splitlines() == [
        *(f"bad line {number} is JSON, but no object" for number in range(1, 21)),
        "… 1,005 more bad lines",
        "1 events would become 0 bodies, 1 of them none; 1,025 bad lines; nothing was sent",
    ]


def test_without_dry_run_nothing_is_done(folder: Folder) -> None:
    """Sending is said not to be built, in one sentence, before any file is looked at."""
    assert folder.forward("nowhere") == Ended(
        2,
        "",
        "error: sending forwarded events is not built yet: `--dry-run` shows what they would become\n",
    )


class Bad(NamedTuple):
    """A file that has no events to show, and what is said; FILE stands for its path."""

    content: bytes | None
    said: str
    code: int = 1


EMPTY = "FILE has no events: it is empty, or all its lines are blank\n"
FILES = {
    "missing": Bad(None, "error: there is no file FILE\n"),
    "empty": Bad(b"", EMPTY, 0),
    "blank": Bad(b"\n  \n\r\n", EMPTY, 0),
    "empty_gzip": Bad(gzip.compress(b""), EMPTY, 0),
    "damaged_gzip": Bad(
        gzip.compress(b'{"type":"page"}\n')[:-6],
        "1 events would become 0 bodies, 1 of them none; 0 bad lines; nothing was sent\n"
        "error: FILE cannot be read beyond line 1: its gzip data end too early\n",
    ),
    "no_event": Bad(
        b"id,name\n1,Ada\n",
        "bad line 1 is no JSON: …\n"
        "bad line 2 is no JSON: …\n"
        "0 events would become 0 bodies, 0 of them none; 2 bad lines; nothing was sent\n"
        "error: no line of FILE is a Segment event\n"
        'try: each line is one JSON object, such as {"type": "identify", …}\n',
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
    assert told(ended.err) == bad.said.replace("FILE", path)


def test_a_directory(folder: Folder) -> None:
    """A directory is no file of events."""
    assert folder.forward(".", "--dry-run") == Ended(1, "", "error: . is a directory, not a file of events\n")


def test_empty_standard_input(folder: Folder) -> None:
    """Standard input is called by its name."""
    assert folder.forward("-", "--dry-run") == Ended(0, "", EMPTY.replace("FILE", "standard input"))
