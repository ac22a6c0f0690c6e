"""Numbers of an application arrive at Schematic digit by digit: from a file and over HTTP, after a failure too."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store.database import Database
from audience_sync.tracking_api.event_files import BadLine, Forwarding, forward
from tests.ingesting import SUCCESS, sending
from tests.sending import open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

NUMBERS = '{"order":12345678901234567890123,"total":12345678901234567890.5,"exact":9007199254740993,"plain":1.5}'
EVENT = (
    '{"type":"identify","userId":92233720368547758079,"messageId":"%s","timestamp":"2026-03-01T10:00:00Z","traits":%s}'
)
TOO_LARGE = EVENT % ("bad", '{"big":1e400}')


def test_digits_arrive(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> None:
    """The bodies that are posted have the numbers of the events; one that no float can hold is named with its line."""
    bad: list[BadLine] = []
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join([EVENT % ("m1", NUMBERS), TOO_LARGE, EVENT % ("m2", '{"half":"\\ud83d"}')]))
    with open_sending(tmp_path, database, sandbox) as opened:
        told = Forwarding(file=str(file), deliver=lambda: True, on_bad=bad.append, on_progress=lambda _: None)
        tally = forward(opened.workspace, told)
        with sending(opened.workspace) as sender:
            batch = f'{{"batch":[{EVENT % ("m3", NUMBERS)},{TOO_LARGE},{EVENT % ("m4", "{}")}]}}'.encode()
            answer = sender.post("/v1/batch", batch)
        sandbox.faults.set([FaultRule(rate=1.0, drop=True, times=1)])
        opened.deliver()
    with httpx.Client(base_url=sandbox.url, headers={"X-Schematic-Api-Key": DEVELOPMENT_KEY}) as http:
        posted = json.loads(http.get("/events").text, parse_float=Decimal)["data"]

    assert (tally.read, tally.taken, tally.bad) == (2, 2, 1)
    assert bad == [BadLine(2, bad[0].fault, "has a number beyond the range of a float at traits.big; send it as text")]
    assert answer.json() == SUCCESS
    expected: Any = json.loads(NUMBERS, parse_float=Decimal)
    assert [event["body"]["keys"] for event in posted] == [{"userId": "92233720368547758079"}] * 4
    assert [event["body"].get("traits") for event in reversed(posted)] == [expected, {"half": "\ufffd"}, expected, {}]
