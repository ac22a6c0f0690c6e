"""Open changes of a profile are Segment events, and become as few events for Schematic as the mappings allow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from audience_sync.core.keys import canonical
from audience_sync.core.model import Computation, Json, TraitType
from audience_sync.destinations.change_events import newest
from audience_sync.destinations.mappings import Mapping, make_mapping
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.rendered_events import NOT_MAPPED, ProfileEvents
from audience_sync.destinations.schematic.schematic_actions import IDENTIFY_USER, TRACK_EVENT
from audience_sync.destinations.schematic.schematic_renderer import NOBODY, resolve_changes
from tests.factories import company_identifiers, make_event, make_open, make_renderer, rendered

AT = "2026-03-31T12:00:00.000Z"


def identify(name: str = "Identify", *, trigger: str = 'type = "identify"', **fields: Json) -> Mapping:
    """Return a mapping to identifyUser: the preset's fields, and these in their place."""
    mapped: dict[str, Json] = {**IDENTIFY_USER.preset_fields, **fields}
    return make_mapping(name, trigger=trigger, action=IDENTIFY_USER, fields=mapped)


def track(name: str = "Track", *, trigger: str = 'type = "identify"', **fields: Json) -> Mapping:
    """Return a mapping to trackEvent of a constant name, with the traits of the identify."""
    mapped: dict[str, Json] = {
        **TRACK_EVENT.preset_fields,
        "event_name": "moved",
        "traits": {"@path": "$.traits"},
        **fields,
    }
    return make_mapping(name, trigger=trigger, action=TRACK_EVENT, fields=mapped)


def profile_events(changes: list[OpenChange], *mappings: Mapping) -> ProfileEvents:
    """Return what some changes come to, which is the same with a template or without."""
    destination = make_renderer(*mappings)
    made = rendered(changes, destination, at=AT)
    known = newest(changes).identifiers

    assert made == resolve_changes(changes, destination.enabled, destination, identifiers=known, at=AT)
    return made


def bodies(made: ProfileEvents) -> list[dict[str, Any]]:
    """Return the bodies of the events of a profile."""
    return [json.loads(event.body)["body"] for event in made.events]


def test_the_segment_event() -> None:
    """A change is the identify that Segment Engage sends, with the query's keys beside it."""
    keys = canonical({"user": {"email": "a@b", "anonymousId": "x"}, "company": {"groupId": "c1", "crm": "7"}})
    change = make_open("u1", identifiers=keys, generation=42, audience_id=7)

    assert make_renderer().event([change], keys, at=AT) == {
        "type": "identify",
        "userId": "u1",
        "anonymousId": "x",
        "messageId": "personas_7.42.u1",
        "timestamp": AT,
        "traits": {"gold": True},
        "context": {
            "groupId": "c1",
            "change": "entered",
            "user_keys": {"userId": "u1", "email": "a@b", "anonymousId": "x"},
            "company_keys": {"groupId": "c1", "crm": "7"},
            "personas": {
                "computation_class": "audience",
                "computation_id": "aud_gold",
                "computation_key": "gold",
                "namespace": "env_1",
                "space_id": "env_1",
            },
        },
        "integrations": {"All": False, "Schematic": True},
    }


def test_another_identity_is_not_called_user_id() -> None:
    """Where people are named by email there is no userId, and the preset sends the email."""
    destination = make_renderer(identity="email")
    change = make_open("a@b")

    event = destination.event([change], None, at=AT)
    (sent,) = bodies(rendered([change], destination, at=AT))

    assert "userId" not in event
    assert sent == {"keys": {"email": "a@b"}, "traits": {"gold": True}}


def test_the_whole_event() -> None:
    """The preset says who, what, where they belong, when, and under which key; nothing else."""
    keys = canonical({"user": {"email": "a@b"}, "company": {"groupId": "c1"}})
    event = make_event(
        make_open("u1", audience_id=1, trait="gold", identifiers=keys, generation=1001),
        make_open("u1", audience_id=2, trait="spend", value="[1.5,null]", generation=1000),
        make_open("u1", audience_id=3, trait="silver", value="false", generation=999),
    )

    assert json.loads(event.body) == {
        "type": "identify",
        "body": {
            "keys": {"userId": "u1", "email": "a@b"},
            "traits": {"gold": True, "spend": [1.5, None], "silver": False},
            "company": {"keys": {"groupId": "c1"}},
        },
        "idempotency_key": event.idempotency_key,
        "sent_at": AT,
    }
    assert event.profile_key == "u1"
    assert (event.mappings, event.identifiers) == (("Identify User",), keys)
    assert [(c.audience_id, c.generation, c.trait, c.value, c.shared) for c in event.carried] == [
        (1, 1001, "gold", "true", False),
        (2, 1000, "spend", "[1.5,null]", False),
        (3, 999, "silver", "false", False),
    ]


def test_no_company_is_no_company() -> None:
    """Company keys that are not known are left out: an empty company would be refused, or be one for everybody."""
    event = make_event(make_open("u1", identifiers=canonical({"user": {"email": "a@b"}})))

    assert json.loads(event.body)["body"] == {"keys": {"userId": "u1", "email": "a@b"}, "traits": {"gold": True}}


def test_the_newest_identifiers_count() -> None:
    """A merged event takes all keys of its newest change; values of two changes are never joined."""
    older = make_open("u1", generation=5, identifiers=canonical({"user": {"email": "old", "phone": "1"}}))
    newer = make_open("u1", generation=6, audience_id=2, trait="b", identifiers=company_identifiers("c2"))

    for changes in ((older, newer), (newer, older)):
        body = json.loads(make_event(*changes).body)["body"]
        assert body["keys"] == {"userId": "u1"}
        assert body["company"] == {"keys": {"groupId": "c2"}}


def test_two_mappings_two_events() -> None:
    """Each mapping's event has a key of its own, and none alone settles the change."""
    change = make_open("u1")
    made = profile_events([change], identify(), track(user_keys={"email": {"@template": "{{userId}}@x.io"}}))

    first, last = made.events
    assert bodies(made) == [
        {"keys": {"userId": "u1"}, "traits": {"gold": True}},
        {"traits": {"gold": True}, "user": {"email": "u1@x.io"}, "event": "moved"},
    ]
    assert first.idempotency_key != last.idempotency_key
    assert [event.carried[0].shared for event in made.events] == [True, True]
    assert [event.mappings for event in made.events] == [("Identify",), ("Track",)]


def test_bodies_that_differ_in_traits_alone_are_one_event() -> None:
    """Two mappings that identify the same person say it in one event, under a key of both."""
    change = make_open("u1")
    also = identify("Also", user_traits={"member": {"@path": "$.traits.gold"}})
    made = profile_events([change], identify(), also)

    (event,) = made.events
    assert bodies(made) == [{"keys": {"userId": "u1"}, "traits": {"gold": True, "member": True}}]
    assert event.mappings == ("Identify", "Also")
    assert len(event.carried) == 1
    assert event.idempotency_key not in {
        profile_events([change], one).events[0].idempotency_key for one in (identify(), also)
    }


@pytest.mark.parametrize(
    "other",
    [
        identify("Other", user_keys={"email": "u1@x.io"}),
        identify("Other", company_name="Acme", company_keys={"groupId": "g1"}),
        identify("Other", user_traits={"gold": 1}),
    ],
    ids=["keys", "company", "the same trait with another value"],
)
def test_bodies_that_differ_otherwise_stay_apart(other: Mapping) -> None:
    """Nothing is said of somebody whom a mapping did not mean, and no value replaces another."""
    made = profile_events([make_open("u1")], identify(), other)

    assert len(made.events) == 2
    assert len({event.idempotency_key for event in made.events}) == 2


def test_a_mapping_that_tells_audiences_apart_gets_them_apart() -> None:
    """`context.personas` says one audience, so each change is an event of its own; they join where they can."""
    changes = [make_open("u1", audience_id=n, trait=f"t{n}") for n in (1, 2)]
    named = identify("Named", user_traits={"last": {"@path": "$.context.personas.computation_key"}})
    joined = identify("Only t1", trigger='context.personas.computation_key = "t1"')

    assert [body["traits"] for body in bodies(profile_events(changes, named))] == [{"last": "t1"}, {"last": "t2"}]
    assert [body["traits"] for body in bodies(profile_events(changes, identify()))] == [{"t1": True, "t2": True}]
    assert [body["traits"] for body in bodies(profile_events(changes, joined))] == [{"t1": True}]


def test_a_trigger_on_one_trait_takes_that_change_alone() -> None:
    """A trigger sees each change as Segment would send it, with one trait."""
    changes = [make_open("u1", audience_id=n, trait=f"t{n}") for n in (1, 2)]
    made = profile_events(changes, identify(trigger="traits.t1 = true"))

    assert [body["traits"] for body in bodies(made)] == [{"t1": True}]
    assert made.rejected == [(changes[1], NOT_MAPPED)]


def test_track_events_are_never_joined() -> None:
    """Two facts stay two, though they look alike."""
    changes = [make_open("u1", audience_id=n, trait=f"t{n}") for n in (1, 2)]
    made = profile_events(changes, track(traits={"source": "audiences"}))

    assert [body["traits"]["source"] for body in bodies(made)] == ["audiences", "audiences"]
    assert len({event.idempotency_key for event in made.events}) == 2


def test_the_order_of_audiences_makes_no_other_pairing() -> None:
    """Two bodies crosswise made by the same mappings of the same changes still have two keys."""
    changes = [make_open("u1", audience_id=n, trait=f"t{n}") for n in (1, 2)]
    key: Json = {"@path": "$.context.personas.computation_key"}
    one = track("One", event_name=key, traits={"n": 1})
    two = track("Two", event_name=key, traits={"n": 2})

    assert len({event.idempotency_key for event in profile_events(changes, one, two).events}) == 4


def test_a_mapping_can_ask_what_happened() -> None:
    """A track event of an entry is not sent when somebody's identifiers change, or all is sent again."""
    mappings = identify(), track(trigger='context.change = "entered"')
    names = {
        kind: [event.mappings[0] for event in profile_events([make_open("u1", kind=kind)], *mappings).events]
        for kind in ("entered", "updated", "resent")
    }

    assert names == {"entered": ["Identify", "Track"], "updated": ["Identify"], "resent": ["Identify"]}


def test_equal_mappings_make_two_events() -> None:
    """Mappings that are equal but for their triggers do not pass for a repetition of each other."""
    made = profile_events([make_open("u1")], track("One"), track("Two", trigger="exists(userId)"))

    assert len({event.idempotency_key for event in made.events}) == 2


def test_a_track_event_names_somebody() -> None:
    """What happened to nobody is no event: the person whose key a mapping asks for may have none."""
    by_email = track(user_keys={"email": {"@path": "$.context.user_keys.email"}})
    made = profile_events([make_open("u1")], identify(), by_email)

    assert [event.mappings for event in made.events] == [("Identify",)]
    assert [one.reason for one in made.rejected] == [f"mapping 'Track': {NOBODY}"]


def test_a_company_can_have_the_traits_too() -> None:
    """Traits that go to user and company as a whole do not keep changes apart."""
    changes = [make_open("u1", audience_id=n, trait=f"t{n}", identifiers=company_identifiers("c")) for n in (1, 2)]

    (sent,) = bodies(profile_events(changes, identify(company_traits={"@path": "$.traits"})))
    assert sent["traits"] == sent["company"]["traits"] == {"t1": True, "t2": True}


def test_a_refusal_is_named_and_holds_nothing_else() -> None:
    """What one mapping cannot make is dead with its reason, what another makes of it is still sent."""
    change = make_open("u1")
    keyless = identify("Keyless", user_keys={"email": {"@path": "$.traits.email"}})
    made = profile_events([change], identify(), keyless)

    assert bodies(made) == [{"keys": {"userId": "u1"}, "traits": {"gold": True}}]
    assert made.events[0].carried[0].shared
    assert [(one.change, one.reason.split(":")[0]) for one in made.rejected] == [(change, "mapping 'Keyless'")]


def test_a_disabled_mapping_makes_nothing() -> None:
    """A change that only a disabled mapping would carry is refused, not lost."""
    fields = IDENTIFY_USER.preset_fields
    off = make_mapping("Off", trigger='type = "identify"', action=IDENTIFY_USER, fields=fields, enabled=False)

    made = profile_events([make_open("u1")], off)

    assert (made.events, made.rejected) == ([], [(make_open("u1"), NOT_MAPPED)])


def test_parts_keep_the_identifiers_of_the_whole() -> None:
    """An event that is taken apart is sent under the keys it had, by the mappings that made it."""
    changes = [make_open("u1", audience_id=n, trait=f"t{n}") for n in (1, 2)]
    mappings = (identify(), identify("Other", user_keys={"email": "a@b"}))
    known = canonical({"user": {"phone": "7"}})

    made = resolve_changes(changes[:1], mappings[:1], make_renderer(*mappings), identifiers=known, at=AT)

    assert bodies(made) == [{"keys": {"userId": "u1", "phone": "7"}, "traits": {"t1": True}}]


def test_a_computed_trait_says_so() -> None:
    """Its Segment event is of the class of computed traits, with the value, and with null where there is none now."""
    value = make_open("u1", trait="spend", value="12.5", computation="trait")
    gone = value._replace(value="null", kind="exited")

    event = make_renderer().event([value], None, at=AT)
    context = event["context"]

    assert event["traits"] == {"spend": 12.5}
    assert isinstance(context, dict)
    assert context["personas"] == {
        "computation_class": "trait",
        "computation_id": "trait_spend",
        "computation_key": "spend",
        "namespace": "env_1",
        "space_id": "env_1",
    }
    assert [body["traits"] for body in bodies(profile_events([gone]))] == [{"spend": None}]


def test_audiences_and_computed_traits_share_an_identify() -> None:
    """One person's changes are one event, whatever they are of, where no mapping asks."""
    made = profile_events(
        [
            make_open("u1", trait="spend", value="null", computation="trait"),
            make_open("u1", audience_id=2, trait="gold"),
            make_open("u1", audience_id=3, trait="plan", value='"a\\"b"', computation="trait"),
        ]
    )

    assert [body["traits"] for body in bodies(made)] == [{"spend": None, "gold": True, "plan": 'a"b'}]
    assert made.rejected == []


@pytest.mark.parametrize("first", ["audience", "trait"])
def test_a_mapping_for_one_computation_gets_no_other(first: str) -> None:
    """A trigger on the class of the computation is asked of each change, also where a person has some of both."""
    only = identify("Only audiences", trigger='type = "identify" and context.personas.computation_class = "audience"')
    changes = [
        make_open("u1", trait="gold"),
        make_open("u1", audience_id=2, trait="spend", value="1", computation="trait"),
        make_open("u1", audience_id=3, trait="silver", value="false"),
    ]
    made = profile_events(changes if first == "audience" else [changes[1], changes[0], changes[2]], only)

    assert [body["traits"] for body in bodies(made)] == [{"gold": True, "silver": False}]
    assert [(change.trait, reason) for change, reason in made.rejected] == [("spend", NOT_MAPPED)]


def test_a_field_may_name_the_computation() -> None:
    """A body that says of which computation it is says it of each change."""
    named = identify(user_name={"@path": "$.context.personas.computation_class"})
    made = profile_events(
        [make_open("u1", trait="gold"), make_open("u1", audience_id=2, trait="spend", computation="trait")], named
    )

    assert [(body["name"], body["traits"]) for body in bodies(made)] == [
        ("audience", {"gold": True}),
        ("trait", {"spend": True}),
    ]


@pytest.mark.parametrize("trait_type", [None, *TraitType])
def test_a_computed_trait_of_any_type_is_carried_by_the_presets(trait_type: TraitType | None) -> None:
    """Samples of every type, and the null of an exit, reach Schematic without a mapping."""
    found = make_renderer().coverage(
        "spend",
        user_keys=["userId", "email"],
        company_keys=["groupId"],
        computation=Computation.TRAIT,
        trait_type=trait_type,
    )

    assert (found.errors, found.surprises, found.events, found.sets_trait) == ([], [], 1, True)


@pytest.mark.parametrize(
    ("trigger", "computation", "gap"),
    [
        ('context.personas.computation_class = "trait"', Computation.TRAIT, None),
        (
            'context.personas.computation_class = "trait"',
            Computation.AUDIENCE,
            "no enabled mapping has a trigger that matches it",
        ),
        (
            'context.personas.computation_class = "audience"',
            Computation.TRAIT,
            "no enabled mapping has a trigger that matches it",
        ),
        ("traits.spend > 10", Computation.TRAIT, "users who exit keep the trait"),
    ],
)
def test_what_a_computed_trait_would_not_be_told(trigger: str, computation: Computation, gap: str | None) -> None:
    """A mapping that leaves computed traits, or their nulls, away is found before anything is sent."""
    found = make_renderer(identify(trigger=trigger)).coverage(
        "spend",
        user_keys=["userId"],
        company_keys=[],
        computation=computation,
        trait_type=TraitType.NUMBER,
    )

    assert bool(found.errors) == (gap is not None)
    assert gap is None or gap in found.errors[0]


def test_a_name_may_be_a_computed_trait() -> None:
    """A user may be named by a computed trait, though not by whether they are in an audience."""
    named = identify(user_name={"@path": "$.traits.full_name"})
    found = [
        make_renderer(named).coverage(
            "full_name",
            user_keys=["userId"],
            company_keys=[],
            computation=computation,
            trait_type=None,
        )
        for computation in Computation
    ]

    assert 'users would be named "true" and "false"' in found[0].errors[0]
    assert found[1].errors == []
