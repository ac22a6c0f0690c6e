"""Computed traits go the way of memberships: compared, guarded, planned, applied and sent by the same engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from audience_sync.core.keys import RowFault
from audience_sync.core.model import Computation, Counts, RunKind, RunState
from audience_sync.errors import ConfigError, SourceError
from audience_sync.store import (
    dead_letters,
    erasure,
    generations,
    history,
    memberships,
    outbox,
    profile_report,
    reports,
)
from audience_sync.store.database import Database, connect, migrations
from audience_sync.store.dead_letters import Which
from tests.factories import (
    AUDIENCE_KEY,
    VALUES_SQL,
    company_identifiers,
    make_change,
    make_event,
    make_run,
    open_changes,
)
from tests.sending import Sending, open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.syncing import Syncing, adds_up, people, replayed

pytestmark = pytest.mark.slow_on_postgres

TRAIT = {"entries": "traits", "sql": VALUES_SQL, "company_keys": {}}
LONG = "x" * 1025


@pytest.fixture
def trait(syncing: Syncing) -> Syncing:
    """The computed trait of what the shop holds in the place of companies, on a database of each kind."""
    syncing.configure(**TRAIT)
    return syncing


def values(syncing: Syncing) -> dict[str, str]:
    """Return who has which value, after checking that the count is right and that history leads there."""
    found = {row.profile_key: row.value for row in syncing.query("SELECT profile_key, value FROM memberships")}
    assert syncing.members().keys() == found.keys()
    assert replayed(syncing.database) == syncing.members()
    return found


def told(syncing: Syncing) -> dict[str, tuple[str, str]]:
    """Return what is to be sent of whom, and what happened."""
    return {key: (row.value, row.kind) for key, row in syncing.outbox().items()}


def test_a_first_sync_tells_everybodys_value(trait: Syncing) -> None:
    """Each profile has its value in the memberships, in the history and in the outbox, in one canonical form."""
    run = trait.sync([("u1", 5), ("u2", 2.50), ("u3", "silver"), ("u4", ""), ("u5", 0)]).run

    assert (run.kind, run.state, run.counts) == (RunKind.INITIAL, RunState.SUCCEEDED, Counts(read=5, entered=5))
    expected = {"u1": "5", "u2": "2.5", "u3": '"silver"', "u4": '""', "u5": "0"}
    assert values(trait) == expected
    assert told(trait) == {key: (value, "entered") for key, value in expected.items()}
    assert {row.computation for row in trait.outbox().values()} == {"trait"}
    assert dict(tuple(row) for row in trait.query("SELECT profile_key, value FROM membership_changes")) == expected


def test_only_what_is_another_value_is_sent(trait: Syncing) -> None:
    """A number that is written in another way, or added up in another order, is no change."""
    trait.sync([("u1", 1), ("u2", 0.3), ("u3", 10.0), ("u4", 7)])
    trait.clear_outbox()

    run = trait.sync([("u1", 1.0), ("u2", 0.1 + 0.2), ("u3", 10), ("u4", 8)]).run

    assert run.counts == Counts(read=4, updated=1, unchanged=3)
    assert told(trait) == {"u4": ("8", "updated")}
    assert trait.sync().run.counts == Counts(read=4, unchanged=4)


def test_who_has_no_value_any_more_is_told_null(trait: Syncing) -> None:
    """A value that is NULL or gone is an exit: null is sent, and history keeps the last value."""
    trait.sync([("u1", 1), ("u2", "two"), ("u3", 3)])
    trait.clear_outbox()

    report = trait.sync([("u1", None), ("u3", 3)])

    assert report.run.counts == Counts(read=2, exited=2, unchanged=1, rejected=1)
    assert report.rejections == {RowFault.NULL_VALUE: 1}
    assert adds_up(report.run.counts)
    assert values(trait) == {"u3": "3"}
    assert told(trait) == {"u1": ("null", "exited"), "u2": ("null", "exited")}
    left = trait.query("SELECT profile_key, value FROM membership_changes WHERE kind = 'exited' ORDER BY 1")
    assert [tuple(row) for row in left] == [("u1", "1"), ("u2", '"two"')]
    trait.sync([("u1", 1), ("u3", 3)])
    assert told(trait)["u1"] == ("1", "entered")


def test_an_entry_that_waits_is_told_as_one_with_its_newest_value(trait: Syncing) -> None:
    """Who has nothing from us yet gets a value, however often it changed until then."""
    trait.sync([("u1", 1)])
    trait.sync([("u1", 2)])

    assert told(trait) == {"u1": ("2", "entered")}


def test_what_is_missing_can_be_kept(trait: Syncing) -> None:
    """With `keep` nobody exits: the last value stays, nothing is sent, and the same value again is no news."""
    trait.configure(**TRAIT, audience={"on_missing": "keep"})
    trait.sync([("u1", 1), ("u2", 2), ("u3", 3)])
    trait.clear_outbox()

    gone = trait.sync([("u1", 1), ("u2", None)]).run
    again = trait.sync([("u1", 1)]).run

    assert gone.counts == Counts(read=2, unchanged=1, rejected=1)
    assert again.counts == Counts(read=1, unchanged=1)
    assert values(trait) == {"u1": "1", "u2": "2", "u3": "3"}
    assert trait.plan()[0].counts == Counts(read=1, unchanged=1)
    assert told(trait) == {}
    assert trait.sync([("u1", 1), ("u2", 2.0), ("u3", 4)]).run.counts == Counts(read=3, updated=1, unchanged=2)
    assert told(trait) == {"u3": ("4", "updated")}


def test_a_source_that_finds_nobody_takes_nothing_that_is_kept(trait: Syncing) -> None:
    """Where values are kept, exits are not counted by the guard: there are none."""
    trait.configure(**TRAIT, audience={"on_missing": "keep"})
    trait.sync([(key, 1) for key in people(range(200))])

    run = trait.sync([]).run

    assert (run.state, run.counts) == (RunState.SUCCEEDED, Counts())
    assert len(values(trait)) == 200


def test_null_after_keep(trait: Syncing) -> None:
    """When what is missing is kept no longer, everybody who was kept exits at the next sync."""
    trait.configure(**TRAIT, audience={"on_missing": "keep"})
    trait.sync([("u1", 1), ("u2", 2)])
    trait.sync([("u1", 1)])
    trait.configure(**TRAIT)

    assert trait.sync().run.counts == Counts(read=1, exited=1, unchanged=1)
    assert values(trait) == {"u1": "1"}


def test_a_value_that_cannot_be_sent_is_rejected_and_null(trait: Syncing) -> None:
    """Whose value is too long or not of the declared type has none: the last one is not true any more."""
    trait.configure(**TRAIT, audience={"type": "string"})
    trait.sync([("u1", "a"), ("u2", "b"), ("u3", "c")])
    trait.clear_outbox()

    report = trait.sync([("u1", LONG), ("u2", 2), ("u3", LONG[1:])])

    assert report.rejections == {RowFault.LONG_VALUE: 1, RowFault.UNFIT_VALUE: 1}
    assert report.run.counts == Counts(read=3, exited=2, updated=1, rejected=2)
    assert told(trait) == {"u1": ("null", "exited"), "u2": ("null", "exited"), "u3": (json.dumps(LONG[1:]), "updated")}
    samples = list(reports.rejections(trait.database, run_id=report.run.id))
    assert {(row["reason"], row["profile_key"], row["row"], row["detail"]) for row in samples} == {
        ("long_value", "u1", '["u1"]', "column value: longer than 1,024 characters, the maximum in Schematic"),
        ("unfit_value", "u2", '["u2"]', "column value: not a string, the declared type of the trait"),
    }


def test_of_two_values_the_smaller_text_counts(trait: Syncing) -> None:
    """Two rows of one profile are told, and which of them counts does not depend on their order."""
    for rows in ([("u1", 10), ("u1", 9)], [("u1", 9), ("u1", 10)]):
        report = trait.sync(rows)
        assert report.run.counts.duplicates == 1

    assert values(trait) == {"u1": "10"}
    assert report.run.counts == Counts(read=2, unchanged=1, duplicates=1)


def test_identifiers_stand_beside_values(syncing: Syncing) -> None:
    """A change of company is an update, which sends the value again with the company of now."""
    sql = "SELECT customer_id AS user_id, company_id, 7 AS value FROM orders WHERE ordered_at <= :now"
    syncing.configure(entries="traits", sql=sql)
    syncing.sync([("u1", "c1"), ("u2", None)])
    syncing.clear_outbox()

    run = syncing.sync([("u1", "c2"), ("u2", None)]).run

    assert run.counts == Counts(read=2, updated=1, unchanged=1)
    assert {(key, row.value, row.identifiers) for key, row in syncing.outbox().items()} == {
        ("u1", "7", company_identifiers("c2"))
    }
    assert values(syncing) == {"u1": "7", "u2": "7"}


def test_updates_may_be_left_unsent(trait: Syncing) -> None:
    """Without `send_updates` who has a value keeps the first at Schematic; entries and exits go."""
    trait.configure(**TRAIT, audience={"send_updates": False})
    trait.sync([("u1", 1), ("u2", 2)])
    trait.clear_outbox()

    run = trait.sync([("u1", 5), ("u3", 3)]).run

    assert run.counts == Counts(read=2, entered=1, exited=1, updated=1)
    assert told(trait) == {"u2": ("null", "exited"), "u3": ("3", "entered")}
    assert values(trait) == {"u1": "5", "u3": "3"}


def test_the_guard_counts_new_values(trait: Syncing) -> None:
    """A source that suddenly has other values for most is asked about, and a yes applies exactly that plan."""
    everybody = people(range(100))
    trait.sync([(key, 1) for key in everybody])
    trait.clear_outbox()
    trait.configure(**TRAIT, guard={"max_update_percent": 50})

    blocked = trait.sync([(key, 2 if n < 51 else 1) for n, key in enumerate(everybody)]).run
    assert blocked.state is RunState.BLOCKED
    assert "51 would be updated" in str(blocked.reason)
    assert set(values(trait).values()) == {"1"}
    trait.shop.set_orders([("u0", 99)])
    approved = trait.approve(blocked)

    assert (approved.state, approved.counts.updated) == (RunState.SUCCEEDED, 51)
    assert set(told(trait).values()) == {("2", "updated")}
    assert len(told(trait)) == 51


def test_a_resync_sends_values_and_nulls_again(trait: Syncing) -> None:
    """Every value and every remembered exit goes under a new generation."""
    trait.sync([("u1", 1), ("u2", "two"), ("gone", True)])
    trait.sync([("u1", 1), ("u2", "two")])
    trait.clear_outbox()

    run = trait.sync([("u1", 1), ("u2", "zwei")], resync=True).run

    assert (run.counts, run.resent) == (Counts(read=2, updated=1, unchanged=1), 3)
    assert told(trait) == {"u1": ("1", "resent"), "u2": ('"zwei"', "updated"), "gone": ("null", "resent")}
    assert {row.generation for row in trait.outbox().values()} == {run.generation}


def test_a_retraction_sends_null_to_all(trait: Syncing) -> None:
    """Whoever has a value is told null, those who are kept too, and the key is closed."""
    trait.configure(**TRAIT, audience={"on_missing": "keep"})
    trait.sync([("u1", 1), ("u2", "true"), ("u3", 0)])
    trait.sync([("u1", 1)])
    trait.clear_outbox()

    run = trait.retract()

    assert (run.state, run.counts) == (RunState.SUCCEEDED, Counts(exited=3))
    assert values(trait) == {}
    assert set(told(trait).values()) == {("null", "exited")}
    assert trait.audience().state == "retired"


def test_a_key_is_of_one_computation_for_ever(syncing: Syncing) -> None:
    """What was synced as an audience is never taken for a computed trait, nor the other way round."""
    syncing.sync(["u1"])
    syncing.configure(**TRAIT)
    with pytest.raises(ConfigError, match="was previously synced as an audience") as caught:
        syncing.sync([("u1", 5)])
    assert caught.value.hint == "use another name or key for the trait"
    with pytest.raises(ConfigError, match="was previously synced as an audience"):
        syncing.plan()

    syncing.configure(**TRAIT, audience={"key": "spend"})
    syncing.sync([("u1", 5)])
    syncing.configure(audience={"key": "spend"})
    with pytest.raises(ConfigError, match="was previously synced as a computed trait"):
        syncing.sync()
    found = syncing.query("SELECT profile_key, audience, value FROM current_members ORDER BY audience")
    assert [tuple(row) for row in found] == [("u1", AUDIENCE_KEY, None), ("u1", "spend", "5")]


def test_a_result_without_values_is_refused(trait: Syncing) -> None:
    """A computed trait whose SQL has no column `value` changes nothing, and says which columns there are."""
    trait.sync([("u1", 1)])
    trait.configure(**{**TRAIT, "sql": "SELECT customer_id AS user_id, company_id AS spend FROM orders"})

    with pytest.raises(SourceError, match="no column 'value', required for a computed trait") as caught:
        trait.sync()
    assert caught.value.hint == "it has the columns user_id, spend"
    assert values(trait) == {"u1": "1"}


def test_an_audience_may_have_a_column_of_that_name(syncing: Syncing) -> None:
    """An audience may have a column called `value`, as any other that nobody asks for."""
    syncing.configure(sql="SELECT customer_id AS user_id, company_id, 1 AS value FROM orders")
    syncing.sync([("u1", "c1")])

    assert [tuple(row) for row in syncing.query("SELECT value FROM memberships")] == [(None,)]


@pytest.mark.parametrize("lines", [3, 20_000])
def test_many_values_go_through_files(trait: Syncing, lines: int) -> None:
    """Values of any text come back as they were, however many there are in a piece."""
    trait.tune(diff_lines_per_load=lines)
    texts = {f"u{n}": f"line\n{n}\ttab \u2028\x00 é" for n in range(300)}

    trait.sync(texts.items())

    assert {key: json.loads(text) for key, text in values(trait).items()} == texts


KINDS = {
    "postgres": [
        ("12.30::numeric(10,2)", "12.3"),
        ("9007199254740993::bigint", "9007199254740993"),
        ("0.1::float8 + 0.2::float8", "0.3"),
        ("true", "true"),
        ("'text'::text", '"text"'),
        ("date '2026-03-31'", '"2026-03-31"'),
        ("timestamp '2026-03-31 10:00'", '"2026-03-31T10:00:00Z"'),
        ("timestamptz '2026-03-31 10:00+02'", '"2026-03-31T08:00:00Z"'),
        ("array['b','a','b']", r'"[\"a\",\"b\"]"'),
        ("""'{"b": 1.0, "a": [2, 1]}'::jsonb""", r'"{\"a\":[2,1],\"b\":1}"'),
        ("'00000000-0000-0000-0000-00000000000A'::uuid", '"00000000-0000-0000-0000-00000000000a"'),
        ("'NaN'::float8", None),
        ("'raw'::bytea", None),
    ],
    "duckdb": [
        ("12.30::DECIMAL(10,2)", "12.3"),
        ("18446744073709551615::HUGEINT", "18446744073709551615"),
        ("170141183460469231731687303715884105727::HUGEINT", None),
        ("0.1::DOUBLE + 0.2::DOUBLE", "0.3"),
        ("true", "true"),
        ("DATE '2026-03-31'", '"2026-03-31"'),
        ("TIMESTAMP '2026-03-31 10:00:00'", '"2026-03-31T10:00:00Z"'),
        ("TIMESTAMPTZ '2026-03-31 10:00:00+02'", '"2026-03-31T08:00:00Z"'),
        ("['b', 'a', 'b']", r'"[\"a\",\"b\"]"'),
        ("{'b': 1.0, 'a': 'x'}", r'"{\"a\":\"x\",\"b\":1}"'),
        ("INTERVAL 1 DAY", None),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where memberships are kept is no matter here
def test_what_databases_return_is_a_value(syncing: Syncing, request: pytest.FixtureRequest, kind: str) -> None:
    """The types of real databases have the values that a person expects, or are rejected."""
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else "duckdb:///:memory:"
    found: list[tuple[str, Any]] = []
    for expression, _ in KINDS[kind]:
        syncing.configure(**{**TRAIT, "sql": f"SELECT 'u1' AS user_id, {expression} AS value"}, source_url=url)
        plan, changes = syncing.plan()
        assert plan.counts.read == 1
        found.append((expression, changes[0].value if changes else None))

    assert found == KINDS[kind]


def test_the_past_of_a_computed_trait(trait: Syncing) -> None:
    """Who had which value at an earlier instant is told from history."""
    first = trait.sync([("u1", 1), ("u2", 2), ("u3", 3)]).run
    trait.sync([("u1", 5), ("u3", 3)])

    found = {
        row["profile_key"]: (row["value"], row["computation"])
        for row in history.members_as_of(trait.database, trait.audience(), first.as_of)
    }

    assert found == {"u1": ("1", "trait"), "u2": ("2", "trait"), "u3": ("3", "trait")}


def test_a_forgotten_person_has_no_value_anywhere(trait: Syncing) -> None:
    """`forget` erases values from every table, and the next sync does not take the person for an exit."""
    trait.sync([("u1", "secret"), ("u2", 2)])
    trait.sync([("u1", "secret too"), ("u2", 2)])
    with trait.database.write() as connection:
        erasure.forget(connection, "u1")

    assert trait.query("SELECT * FROM memberships WHERE value LIKE '%secret%'") == []
    assert trait.query("SELECT * FROM changes WHERE value LIKE '%secret%'") == []
    assert trait.query("SELECT * FROM outbox WHERE value LIKE '%secret%'") == []
    assert trait.sync([("u2", 2)]).run.counts == Counts(read=1, unchanged=1)
    assert values(trait) == {"u2": "2"}


def test_what_is_known_of_a_profile_names_the_computation(trait: Syncing) -> None:
    """One profile's page tells an audience from a computed trait, a null that waits from no news."""
    trait.sync([("u1", 1)])
    trait.sync([])
    with trait.database.read() as connection:
        (found,) = profile_report.audiences(connection, "u1")
        changes = profile_report.changes(connection, "u1", at_most=None)

    assert (found["computation"], found["member"], found["value"]) == ("trait", False, None)
    assert (found["open_value"], found["open_state"]) == ("null", "waiting")
    assert [(one["kind"], one["value"], one["computation"]) for one in changes] == [
        ("exited", "1", "trait"),
        ("entered", "1", "trait"),
    ]


def test_reopening_and_retrying_tell_the_present_value(trait: Syncing) -> None:
    """After a doubt, or a person's retry, the value of now goes: null where there is none, not false."""
    trait.sync([("in", True), ("out", True)])
    trait.sync([("in", False)])
    with trait.database.write() as connection:
        rows = {key: open_changes(connection, key) for key, _ in opened(trait)}
        connection.exec_driver_sql("DELETE FROM outbox")
        for key in ("in", "out"):
            outbox.reopen(connection, [make_event(*rows[key])], generation=generations.next_generation(connection, 0))
        reopened = {key: row.value for key, row in opened_within(connection)}
        connection.exec_driver_sql("UPDATE outbox SET dead_reason = 'refused', value = '99'")
        assert dead_letters.retry(connection, Which(), now_ms=0) == {"outbox": 2, "events": 0}
        retried = {key: row.value for key, row in opened_within(connection)}

    assert reopened == retried == {"in": "0", "out": "null"}


def opened(syncing: Syncing) -> list[tuple[str, Any]]:
    """Return the open rows with their profiles."""
    return list(syncing.outbox().items())


def opened_within(connection: Any) -> list[tuple[str, Any]]:
    """Return the same within a transaction."""
    rows, _ = outbox.page(connection, after="", limit=100)
    return [(row.profile_key, row) for row in rows]


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield the audience gold, and computed traits of what customers have ordered from companies that are numbers."""
    spend = {"sql": VALUE_OF.format("CAST(company_id AS INTEGER)"), "type": "currency"}
    named = {"sql": VALUE_OF.format("'n' || company_id"), "type": "string"}
    unknown = {"sql": VALUE_OF.format("company_id")}
    traits = {"spend": spend, "named": named, "unknown": unknown}
    with open_sending(tmp_path, database, sandbox, audiences=("gold",), traits=traits) as opened_sending:
        yield opened_sending


VALUE_OF = "SELECT customer_id AS user_id, {} AS value FROM orders WHERE company_id <> 'gold'"


def sync_all(sending: Sending, orders: list[tuple[str, object]]) -> None:
    """Put orders into the shop and sync everything."""
    sending.shop.set_orders(orders)
    for audience in sending.settings.audiences:
        sending.sync_again(audience.key)


def test_one_identify_says_everything_of_a_profile(sending: Sending) -> None:
    """Audiences and computed traits of one person travel together, with null for a value that is gone."""
    sync_all(sending, [("u1", "gold"), ("u1", "12"), ("u2", "gold")])
    sending.deliver()
    assert [event.body["traits"] for event in sending.events("u1")] == [
        {"gold": True, "spend": 12, "named": "n12", "unknown": "12"}
    ]
    sync_all(sending, [("u2", "gold"), ("u2", "7")])
    report = sending.deliver()

    assert report.open == report.dead == 0
    assert sending.events("u1")[-1].body["traits"] == {"gold": False, "spend": None, "named": None, "unknown": None}
    assert sending.traits() == {
        "u1": {"gold": False, "spend": None, "named": None, "unknown": None},
        "u2": {"gold": True, "spend": 7, "named": "n7", "unknown": "7"},
    }
    sent = sending.rows("SELECT traits FROM sent_deliveries WHERE profile_key = 'u1' ORDER BY accepted_at, traits")
    assert json.loads(sent[-1][0]) in (
        {"gold": True, "spend": 12, "named": "n12", "unknown": "12"},
        {"gold": False, "spend": None, "named": None, "unknown": None},
    )


def test_traits_are_declared_with_their_types(sending: Sending) -> None:
    """Schematic is told a trait's type before its first event; one whose type nobody knows is sent all the same."""
    warnings: list[str] = []
    sync_all(sending, [("u1", "gold"), ("u1", "12")])
    sending.deliver(warn=warnings.append)
    sync_all(sending, [("u1", "gold"), ("u1", "13")])
    sending.deliver(warn=warnings.append)

    asked = sending.sandbox.ledger.read(
        "SELECT count(*) FROM requests WHERE path = '/entity-trait-definitions' AND status = 200"
    )
    known: dict[str, str] = dict(sending.sandbox.ledger.read("SELECT hierarchy, trait_type FROM trait_definitions"))
    assert asked == [(3,)]
    assert known == {'["gold"]': "boolean", '["spend"]': "currency", '["named"]': "string", '["unknown"]': "string"}
    assert warnings == []
    assert sending.traits()["u1"]["unknown"] == "13"


def test_another_type_at_schematic_is_a_warning(sending: Sending) -> None:
    """A trait that Schematic knows as of another type is sent all the same, and somebody is told."""
    warnings: list[str] = []
    rule = FaultRule(path="/entity-trait-definitions", status=200, body={"data": {"trait_type": "boolean"}})
    sending.sandbox.faults.set([rule])
    sync_all(sending, [("u1", "gold"), ("u1", "12")])
    sending.deliver(warn=warnings.append)

    assert sorted(warnings) == [
        (
            f"could not declare the type of trait {key} as {kind}; the trait is sent anyway: its type in"
            f" Schematic is boolean, not {kind}"
        )
        for key, kind in (("named", "string"), ("spend", "currency"))
    ]
    assert sending.traits()["u1"]["spend"] == 12


def test_an_orphan_is_sent_without_a_declaration(sending: Sending) -> None:
    """A computed trait that is not in the file any more has no type there, and what waits of it is sent."""
    sync_all(sending, [("u1", "12")])
    settings = sending.settings.model_copy(update={"audiences": sending.settings.audiences[:1]})
    Sending(**{**vars(sending), "settings": settings}).deliver()

    assert sending.traits() == {"u1": {"spend": 12, "named": "n12", "unknown": "12"}}
    assert sending.sandbox.ledger.read("SELECT 1 FROM requests WHERE path = '/entity-trait-definitions'") == []


def test_mappings_can_tell_computed_traits_from_audiences(sending: Sending) -> None:
    """A trigger on the computation sends audiences as identifies, computed traits as another mapping says."""
    told_apart = sending.with_mappings(
        """
[[mappings]]
name = "Audiences"
trigger = 'type = "identify" and context.personas.computation_class = "audience"'
action = "identifyUser"
[mappings.fields]
user_traits = { "@path" = "$.traits" }
[[mappings]]
name = "Values"
trigger = 'type = "identify" and context.personas.computation_class = "trait"'
action = "trackEvent"
[mappings.fields]
event_name = "Trait Computed"
traits = { "@path" = "$.traits" }
user_keys = { "@path" = "$.context.user_keys" }
"""
    )
    sync_all(told_apart, [("u1", "gold"), ("u1", "12")])
    told_apart.deliver()

    sent = [(event.type, event.body["traits"]) for event in told_apart.sandbox.ledger.events()]
    assert ("identify", {"gold": True}) in sent
    assert sorted(
        name
        for kind, traits in sent
        if kind == "track" and isinstance(traits, dict)
        for name in traits
        if name != "raw_event_name"
    ) == ["named", "spend", "unknown"]
    assert len(sent) == 4


def test_dead_values_are_retried_as_they_are_now(sending: Sending) -> None:
    """A value that Schematic refused is dead, and a retry sends what is true by then."""
    sending.sandbox.faults.set([FaultRule(path="/batch", status=422, user_key="u1")])
    sync_all(sending, [("u1", "12"), ("u2", "7")])
    assert sending.deliver().dead == 3
    sending.sandbox.faults.clear()
    sync_all(sending, [("u2", "7")])
    sending.write("UPDATE outbox SET dead_reason = 'refused'")
    with sending.workspace.database.write() as connection:
        dead_letters.retry(connection, Which(), now_ms=0)

    assert sending.deliver().dead == 0
    assert sending.traits()["u1"] == {"spend": None, "named": None, "unknown": None}


def test_an_older_database_keeps_what_it_has(empty_url: str) -> None:
    """What was in the database before there were computed traits is an audience, and its views say so."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    database = connect(empty_url, create=True)
    try:
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0003")
            connection.exec_driver_sql(
                "INSERT INTO audiences (key, name, state, members, created_at) VALUES ('gold', 'Gold', 'active', 1, 0)"
            )
            connection.exec_driver_sql(
                "INSERT INTO runs (audience_id, kind, state, as_of, started_at, finished_at, generation,"
                " definition_hash, members_before) VALUES (1, 'initial', 'succeeded', 0, 0, 0, 1, '', 0)"
            )
            connection.exec_driver_sql(
                "INSERT INTO memberships (audience_id, shard, profile_key, entered_run_id, generation)"
                " VALUES (1, 0, 'u1', 1, 1)"
            )
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            run = make_run(connection, audience="gold")
            memberships.apply(connection, run, [make_change("u2")])
        with database.read() as connection:
            for view in ("current_members", "sync_runs", "open_deliveries"):
                rows = connection.exec_driver_sql(f"SELECT DISTINCT audience, computation FROM {view}").all()
                assert [tuple(row) for row in rows] == [("gold", "audience")], view
        with pytest.raises(ConfigError, match="was previously synced as an audience"), database.write() as connection:
            make_run(connection, audience="gold", computation=Computation.TRAIT)
    finally:
        database.close()
