"""The summary of a plan equals what a sync and its delivery send, and is made without any body."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audience_sync.cli import plan_output
from audience_sync.cli.console import Format
from audience_sync.cli.plan_output import COLUMNS, PlanSheet
from audience_sync.config import load
from audience_sync.errors import SourceError
from audience_sync.store.database import Database
from audience_sync.sync import Job, plan
from tests.sending import Sending, open_sending
from tests.support.faulty_sandbox import FaultySandbox

pytestmark = pytest.mark.slow_on_postgres

PEOPLE = [f"u{n}" for n in range(230)]
CHANGES = ("enter", "exit", "update")


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Three audiences."""
    with open_sending(tmp_path, database, sandbox, audiences=("gold", "silver", "bronze")) as opened:
        yield opened.with_settings(delivery={"concurrency": 1})


def printed(
    sending: Sending, capsys: pytest.CaptureFixture[str], *, samples: int = 0, form: Format = Format.JSON
) -> tuple[str, str]:
    """Plan every audience, and return what that prints as data, and for people."""
    settings, workspace = sending.settings, sending.workspace
    sheet = PlanSheet(
        settings,
        workspace.database,
        planned=settings.audiences,
        format=form,
        samples=samples,
        now=workspace.clock.now(),
    )
    for audience in settings.audiences:
        job = Job(settings=settings, audience=audience)
        sheet.show(audience, plan(workspace, job, on_found=partial(sheet.see, audience)))
    sheet.close()
    said = capsys.readouterr()
    return said.out, said.err


def records(sending: Sending, capsys: pytest.CaptureFixture[str], *, samples: int = 0) -> list[dict[str, Any]]:
    """Return what a plan prints as json."""
    return [json.loads(line) for line in printed(sending, capsys, samples=samples)[0].splitlines()]


def test_the_total_is_what_is_delivered(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """Events and requests are those that follow: changes of a profile in several audiences are one event."""
    sending.sync(gold=PEOPLE[:10])
    sending.deliver()
    sending.orders.update(gold=PEOPLE[5:120], silver=PEOPLE[100:], bronze=[])
    sending.shop.set_orders([(user, key) for key, users in sending.orders.items() for user in users])
    *each, total = records(sending, capsys)
    before = (sending.posts(), len(sending.events()))
    for key in ("gold", "silver", "bronze"):
        sending.sync_again(key)
    sending.deliver()

    assert [
        (one["audience"], *(one[change] for change in CHANGES), one["profiles"], one["requests"]) for one in each
    ] == [
        ("gold", 110, 5, 0, 115, 2),
        ("silver", 130, 0, 0, 130, 2),
        ("bronze", 0, 0, 0, 0, 0),
    ]
    assert [total[change] for change in CHANGES] == [240, 5, 0]
    assert (total["record"], total["audience"], total["profiles"], total["new_users"]) == ("total", None, 225, 220)
    assert (total["requests"], total["events"]) == (sending.posts() - before[0], len(sending.events()) - before[1])
    assert total["events"] == 225


def test_the_time_follows_the_rate(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds are requests by the configured rate; a table shows them as a time."""
    slow = sending.with_settings(delivery={"batch_size": 10, "max_requests_per_second": 0.1})
    slow.shop.set_orders([(user, "gold") for user in PEOPLE])
    total = records(slow, capsys)[-1]
    table, said = printed(slow, capsys, form=Format.TABLE)

    assert (total["requests"], total["seconds"], total["time"]) == (23, 230, "3m50s")
    assert [line.split() for line in table.splitlines()] == [
        ["audience", "enter", "exit", "update", "requests", "time", "state"],
        ["gold", "230", "0", "0", "23", "3m50s", "ready"],
        ["silver", "0", "0", "0", "0", "0s", "ready"],
        ["bronze", "0", "0", "0", "0", "0s", "ready"],
        ["(total)", "230", "0", "0", "23", "3m50s"],
    ]
    assert "requests and time are minimums, assuming full batches of 10 events at 0.1 requests per second" in said
    assert "up to 230 users may be new to Schematic" in said


def test_no_body_is_made_without_samples(
    sending: Sending, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan without samples resolves no mapping for a real person."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made for a plan that shows none")

    monkeypatch.setattr(plan_output.PlanSamples, "_rendered", refuse)
    sending.shop.set_orders([(user, "gold") for user in PEOPLE])

    assert records(sending, capsys)[-1]["enter"] == 230


def test_samples_are_of_each_kind(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """The number applies to each kind of change; samples come before the summary of their audience."""
    sending.sync(gold=PEOPLE[:100])
    sending.shop.set_orders([(user, "gold") for user in PEOPLE[50:]])
    found = records(sending, capsys, samples=3)

    assert [one["record"] for one in found] == ["sample"] * 6 + ["audience"] * 3 + ["total"]
    assert sorted(one["change"] for one in found[:6]) == ["entered"] * 3 + ["exited"] * 3
    for one in found[:6]:
        (body,) = one["bodies"]
        assert body["body"]["keys"] == {"userId": one["profile_key"]}
        assert body["body"]["traits"] == {"gold": one["change"] == "entered"}
        assert body["api_key"] == "(the API key)"


def test_a_table_shows_samples_before_the_summary(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sample is a line that names it, and the exact body."""
    sending.shop.set_orders([("u1", "gold")])
    out, _ = printed(sending, capsys, samples=1, form=Format.TABLE)
    title, body, blank, *table = out.splitlines()

    assert (title, blank, len(table)) == ("gold entered u1", "", 5)
    assert json.loads(body)["body"]["traits"] == {"gold": True}


def test_csv_is_the_summary_or_the_samples(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """One file has one kind of rows."""
    sending.shop.set_orders([("u1", "gold"), ("u2", "gold")])
    summary = list(csv.DictReader(io.StringIO(printed(sending, capsys, form=Format.CSV)[0])))
    samples = list(csv.DictReader(io.StringIO(printed(sending, capsys, samples=9, form=Format.CSV)[0])))

    assert [(tuple(one), one["record"], one["enter"]) for one in summary] == [
        (COLUMNS, "audience", "2"),
        (COLUMNS, "audience", "0"),
        (COLUMNS, "audience", "0"),
        (COLUMNS, "total", "2"),
    ]
    assert sorted((one["record"], one["profile_key"]) for one in samples) == [("sample", "u1"), ("sample", "u2")]


def test_an_audience_that_cannot_be_planned(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """It is in the summary with its reason, and in no sum."""
    gold = sending.settings.audiences[0]
    sheet = PlanSheet(
        sending.settings,
        sending.workspace.database,
        planned=sending.settings.audiences,
        format=Format.JSON,
        samples=0,
        now=sending.workspace.clock.now(),
    )
    sheet.fail(gold, SourceError("source shop: no such table: orders"))
    sheet.close()
    failed, total = map(json.loads, capsys.readouterr().out.splitlines())

    assert (failed["state"], failed["reason"], failed["enter"]) == (
        "failed",
        "source shop: no such table: orders",
        None,
    )
    assert (total["enter"], total["requests"]) == (0, 0)


def test_updates_that_are_not_sent(sending: Sending, capsys: pytest.CaptureFixture[str]) -> None:
    """With `send_updates = false` an update is counted, and costs no event."""
    path = sending.settings.path
    keys = 'WHERE company_id = \'gold\'"\ncompany_keys.groupId = "company_id"\nsend_updates = false'
    path.write_text(path.read_text().replace("WHERE company_id = 'gold'\"", keys))
    settings = load(path, {}).model_copy(update={"delivery": sending.settings.delivery})
    silent = Sending(**{**vars(sending), "settings": settings})
    silent.sync(gold=PEOPLE[:10])
    silent.write('UPDATE memberships SET identifiers = \'{"company":{"groupId":"old"}}\'')
    silent.write("DELETE FROM digests")
    total = records(silent, capsys)[-1]

    assert (total["update"], total["profiles"], total["events"], total["requests"]) == (10, 0, 0, 0)
