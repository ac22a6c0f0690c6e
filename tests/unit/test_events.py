"""Events are kept word for word, under a key that names exactly what they say."""

from __future__ import annotations

import json
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import canonical
from audience_sync.destinations.rendered_events import BatchContents, traits
from audience_sync.destinations.schematic.wire_format import batch_body
from tests.factories import NOON, make_event, make_open

NAMES = ("name", "company_name")  # what the presets take as such, and not as the trait of an audience
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: not text.isspace() and text not in NAMES
)
ODD = st.sampled_from(['"', "\\", '\\"', "</script>", "é🙂", "\u2028.", "{}", "\x00"]) | TEXT
IDENTIFIERS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "company": st.dictionaries(ODD, ODD, min_size=1, max_size=2),
        "user": st.dictionaries(ODD, ODD, min_size=1, max_size=2),
    },
).filter(bool).map(canonical)


def test_the_same_set_has_the_same_key() -> None:
    """A repetition, after a crash and in another order too, is recognised by Schematic."""
    one, two = make_open(audience_id=1), make_open(audience_id=2, trait="b")

    again = make_event(two, one, sent_at=NOON + timedelta(days=1))

    assert make_event(one, two).idempotency_key == again.idempotency_key
    assert len(again.idempotency_key) == 32


def test_another_set_has_another_key() -> None:
    """A larger set, a newer generation, another value, profile or environment is never taken for a repetition."""
    one = make_open(audience_id=1)
    keys = [
        make_event(one).idempotency_key,
        make_event(one, make_open(audience_id=2, trait="b")).idempotency_key,
        make_event(one._replace(generation=1001)).idempotency_key,
        make_event(one._replace(value="false")).idempotency_key,
        make_event(one._replace(audience_id=2)).idempotency_key,
        make_event(make_open("u2")).idempotency_key,
        make_event(one, environment="env_2").idempotency_key,
    ]

    assert len(set(keys)) == len(keys)


def test_the_key_of_an_event_is_frozen() -> None:
    """A newer program that continues an interrupted delivery must not send it under another key."""
    event = make_event(make_open("u1", audience_id=7, generation=42))

    assert event.idempotency_key == "b6237c8a9a32b7c8cef10e08343b0f3b"


@given(st.lists(st.tuples(ODD, IDENTIFIERS), min_size=1, max_size=3, unique_by=lambda pair: pair[0]), ODD, ODD)
def test_odd_text_survives(people: list[tuple[str, str | None]], trait: str, api_key: str) -> None:
    """Quotes, backslashes and any script reach Schematic as they are, and the batch is one JSON document."""
    events = [
        make_event(make_open(key, trait=trait, value=canonical({trait: key}), identifiers=known))
        for key, known in people
    ]

    batch = json.loads(batch_body(BatchContents.of(events).bodies, api_key=api_key))

    assert list(batch) == ["events"]
    for (key, known), sent in zip(people, batch["events"], strict=True):
        identifiers = json.loads(known or "{}")
        assert sent.pop("api_key") == api_key
        assert set(sent) == {"type", "body", "idempotency_key", "sent_at"}
        assert sent["body"]["keys"] == {"userId": key, **identifiers.get("user", {})}
        assert sent["body"].get("company", {}).get("keys") == identifiers.get("company")
        assert sent["body"]["traits"] == {trait: {trait: key}}


@given(st.lists(st.tuples(ODD, IDENTIFIERS), max_size=3), ODD)
def test_an_attempt_keeps_events_word_for_word(people: list[tuple[str, str | None]], trait: str) -> None:
    """After a crash the same bytes go again."""
    events = [
        make_event(make_open(key, trait=trait, identifiers=known), make_open(key, audience_id=2, trait="b"))
        for key, known in people
    ]

    contents = BatchContents.of(events)
    kept = BatchContents.parse(contents.dump())

    assert list(kept.events) == list(contents.events) == events
    assert kept.dump() == contents.dump()
    assert kept.bodies == contents.bodies == [event.body for event in events]


def test_no_events_are_a_valid_batch() -> None:
    """The form of a batch does not depend on what is in it."""
    assert json.loads(batch_body([], api_key="k")) == {"events": []}


def test_what_was_said_is_canonical() -> None:
    """The history of deliveries has one text for one statement, whatever the order."""
    one, two = make_open(audience_id=1, trait="b", value="false"), make_open(audience_id=2, trait="a", value="3")
    event = make_event(one, two)

    assert traits(event.carried) == '{"a":3,"b":false}'
