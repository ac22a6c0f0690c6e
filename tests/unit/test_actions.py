"""The two actions: whole bodies of resolved fields, or one named rejection."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from audience_sync.core.model import Json
from audience_sync.destinations.actions import Action, BodyRejection, FieldKind, RejectionReason
from audience_sync.destinations.schematic.schematic_actions import ACTIONS, IDENTIFY_USER, TRACK_EVENT
from tests.profile import amount

CASES = amount("AUDIENCE_SYNC_FUZZ_CASES", small=300, large=3000)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "destination.json").read_text(encoding="utf-8"))
SENT = [(case["event"], one) for case in VECTORS for one in case["sent"]]
IDENTIFY, TRACK = IDENTIFY_USER, TRACK_EVENT
NOON = "2026-03-01T12:00:00.000Z"
EVERY_ACTION = pytest.mark.parametrize("action", ACTIONS.values(), ids=str)


def identify(**changed: Json) -> dict[str, Json]:
    """Return fields that identifyUser takes, with these instead."""
    return {"user_keys": {"userId": "u1"}, "company_keys": {"groupId": "g1"}, "timestamp": NOON, **changed}


def track(**changed: Json) -> dict[str, Json]:
    """Return fields that trackEvent takes, with these instead."""
    return {"event_name": "login", "user_keys": {"userId": "u1"}, "timestamp": NOON, **changed}


def valid(action: Action, **changed: Json) -> dict[str, Json]:
    """Return fields that an action takes, with these instead."""
    return identify(**changed) if action is IDENTIFY else track(**changed)


def body_of(action: Action, **changed: Json) -> dict[str, Any]:
    """Return what is said of the user or the event in the body of these fields."""
    made = action.make_body(valid(action, **changed))
    assert isinstance(made, dict), made
    body = made["body"]
    assert isinstance(body, dict)
    return body


def rejection_of(action: Action, **changed: Json) -> BodyRejection:
    """Return why these fields make no body."""
    made = action.make_body(valid(action, **changed))
    assert isinstance(made, BodyRejection), made
    return made


def test_fields_are_those_of_the_documentation() -> None:
    """Both actions have every field of Segment's documentation, in its order, with its type and its required mark."""
    table = {
        name: [(f.label, f.name, str(f.kind), f.required) for f in action.fields] for name, action in ACTIONS.items()
    }

    assert table == {
        "trackEvent": [
            ("Event name", "event_name", "string", True),
            ("Company keys", "company_keys", "object", False),
            ("Timestamp", "timestamp", "datetime", True),
            ("User keys", "user_keys", "object", False),
            ("Traits", "traits", "object", False),
        ],
        "identifyUser": [
            ("Company keys", "company_keys", "object", True),
            ("Company name", "company_name", "string", False),
            ("Company traits", "company_traits", "object", False),
            ("Timestamp", "timestamp", "datetime", True),
            ("User keys", "user_keys", "object", True),
            ("User name", "user_name", "string", False),
            ("User traits", "user_traits", "object", False),
        ],
    }
    assert all(field.description for action in ACTIONS.values() for field in action.fields)


@pytest.mark.parametrize(("event", "sent"), SENT, ids=[event["messageId"] for event, _ in SENT])
def test_bodies_that_segment_sends(event: dict[str, Any], sent: dict[str, Any]) -> None:
    """Fields that say what Segment sent become its bodies, byte for byte."""
    body = sent["body"]
    if sent["type"] == "identify":
        company = body.get("company", {"keys": {}})
        named = {
            "user_keys": body["keys"],
            "user_name": body.get("name"),
            "user_traits": body.get("traits"),
            "company_keys": company["keys"],
            "company_name": company.get("name"),
            "company_traits": company.get("traits"),
        }
    else:
        named = {
            "event_name": event["event"],
            "user_keys": body.get("user"),
            "company_keys": body.get("company"),
            "traits": body.get("traits"),
        }
    action = IDENTIFY if sent["type"] == "identify" else TRACK
    expected = {name: value for name, value in sent.items() if name != "api_key"}

    made = action.make_body({**named, "timestamp": event["timestamp"]})

    assert json.dumps(expected) == json.dumps(made)


def test_the_whole_identify() -> None:
    """An identify says who, what they are called and like, and the same of their company; unknown fields are left."""
    made = IDENTIFY.make_body(
        {
            "unknown": "x",
            "user_traits": {"vip": False, "plan": None, "tags": ["a"]},
            "user_name": "Ada L",
            "user_keys": {"userId": 42, "email": "ada@x.io"},
            "timestamp": "2026-03-01T14:00:00+02:00",
            "company_traits": {},
            "company_name": "Acme",
            "company_keys": {"groupId": "g1"},
        },
    )

    assert json.dumps(made) == json.dumps(
        {
            "type": "identify",
            "sent_at": NOON,
            "body": {
                "keys": {"userId": "42", "email": "ada@x.io"},
                "name": "Ada L",
                "traits": {"vip": False, "plan": None, "tags": ["a"]},
                "company": {"keys": {"groupId": "g1"}, "name": "Acme", "traits": {}},
            },
        }
    )


def test_the_whole_track() -> None:
    """A track says what happened, to whom and where they belong."""
    made = TRACK.make_body(
        {
            "event_name": "Order Completed",
            "user_keys": {"userId": "u1"},
            "timestamp": 1772366400,
            "traits": {"revenue": 2.5, "coupon": None},
            "company_keys": {"groupId": 7.0},
        },
    )

    assert json.dumps(made) == json.dumps(
        {
            "type": "track",
            "sent_at": NOON,
            "body": {
                "traits": {"revenue": 2.5, "coupon": None, "raw_event_name": "Order Completed"},
                "company": {"groupId": "7"},
                "user": {"userId": "u1"},
                "event": "order_completed",
            },
        }
    )


@EVERY_ACTION
@pytest.mark.parametrize("nothing", [None, "", "absent"])
def test_required_fields(action: Action, nothing: Json) -> None:
    """Exactly the fields marked as required are, and null and "" are as missing; the others are left out."""
    for field in action.fields:
        values = valid(action, **({} if nothing == "absent" else {field.name: nothing}))
        if nothing == "absent":
            values.pop(field.name, None)
        made = action.make_body(values)
        if field.required:
            sentence = f"the field {field.name} is missing, but {action} requires it"

            assert made == (RejectionReason.MISSING_FIELD, field.name, sentence)
        else:
            assert made == action.make_body({k: v for k, v in valid(action).items() if k != field.name})


@pytest.mark.parametrize("keys", [{}, {"userId": None}, {"userId": "", "email": None}])
def test_an_identify_needs_a_user_key(keys: Json) -> None:
    """An identify of nobody is not made: Schematic could only refuse it or take it for everybody."""
    assert rejection_of(IDENTIFY, user_keys=keys) == (
        RejectionReason.EMPTY_USER_KEYS,
        "user_keys",
        "identifyUser needs at least one key with a value in user_keys",
    )


@pytest.mark.parametrize("keys", [{}, {"groupId": None}, {"groupId": ""}])
def test_a_company_without_keys_is_left_out(keys: Json) -> None:
    """A company that nobody can find is not sent, whatever else is known of it."""
    identified = body_of(IDENTIFY, company_keys=keys, company_name="Acme", company_traits={"a": 1})
    tracked = body_of(TRACK, company_keys=keys, user_keys=keys)

    assert identified == {"keys": {"userId": "u1"}}
    assert tracked == {"event": "login"}


@EVERY_ACTION
def test_keys_are_text(action: Action) -> None:
    """Each value of a key has one text; null, "" and blanks are no values, false and 0 are."""
    given: Json = {
        "text": "ünï 7",
        "int": 42,
        "zero": 0,
        "big": 2**70,
        "whole": 42.0,
        "minus": -0.0,
        "part": 1.5,
        "small": 1e-7,
        "huge": 1e21,
        "yes": True,
        "no": False,
        "null": None,
        "empty": "",
        "blank": " \t",
    }
    body = body_of(action, user_keys=given, company_keys=given)
    expected = {
        "text": "ünï 7",
        "int": "42",
        "zero": "0",
        "big": str(2**70),
        "whole": "42",
        "minus": "0",
        "part": "1.5",
        "small": "1e-7",
        "huge": "1e+21",
        "yes": "true",
        "no": "false",
    }

    assert expected == (body["keys"] if action is IDENTIFY else body["user"])
    assert expected == (body["company"]["keys"] if action is IDENTIFY else body["company"])


@EVERY_ACTION
@pytest.mark.parametrize("field", ["user_keys", "company_keys"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [({"a": 1}, "an object"), ({}, "an object"), (["a"], "a list"), (float("nan"), "not a finite number")],
)
def test_a_key_that_has_no_text(action: Action, field: str, value: Json, kind: str) -> None:
    """An object or a list names nobody; the rejection says which key it is and not what is in it."""
    assert rejection_of(action, **{field: {"good": "g", "bad": value}}) == (
        RejectionReason.UNUSABLE_KEY,
        field,
        f"the key 'bad' of the field {field} is {kind}, but must be text or a number",
    )


@EVERY_ACTION
def test_text_fields(action: Action) -> None:
    """Numbers and booleans become text, and a list of one is what is in it, as in Segment."""
    texts: list[tuple[Json, str]] = [("a", "a"), (42, "42"), (1.5, "1.5"), (True, "true"), (False, "false")]
    texts += [(["a"], "a"), ([42], "42"), ([False], "false")]
    for field in action.fields:
        if field.kind is FieldKind.STRING:
            for value, text in texts:
                assert action.make_body(valid(action, **{field.name: value})) == action.make_body(
                    valid(action, **{field.name: text})
                )


def test_a_name_is_not_trimmed() -> None:
    """A name goes as it is, of blanks too."""
    assert body_of(IDENTIFY, user_name=" ")["name"] == " "


@pytest.mark.parametrize("value", [[None], [""]])
def test_a_list_of_nothing_is_missing(value: Json) -> None:
    """What a list of one comes to may be nothing."""
    assert rejection_of(TRACK, event_name=value).reason is RejectionReason.MISSING_FIELD
    assert rejection_of(TRACK, timestamp=value).reason is RejectionReason.MISSING_FIELD
    assert "name" not in body_of(IDENTIFY, user_name=value)


@EVERY_ACTION
def test_wrong_types(action: Action) -> None:
    """Text for an object, and an object or a list for text, are rejected by the name of the field."""
    no_object: list[tuple[Json, str]] = [("x", "text"), (1, "a number"), (False, "a boolean"), ([{"a": 1}], "a list")]
    no_text: list[tuple[Json, str]] = [({}, "an object"), ([], "a list"), (["a", "b"], "a list"), ([["a"]], "a list")]
    cases = {
        FieldKind.OBJECT: (no_object, "an object"),
        FieldKind.STRING: (no_text, "text"),
        FieldKind.DATETIME: ([], ""),
    }
    for field in action.fields:
        wrong, right = cases[field.kind]
        for value, kind in wrong:
            sentence = f"the field {field.name} is {kind}, but must be {right}"

            assert rejection_of(action, **{field.name: value}) == ("wrong_type", field.name, sentence)


def test_a_company_that_is_left_out_is_still_checked() -> None:
    """A mapping that is wrong says so for every event, not only for people with a company."""
    assert rejection_of(IDENTIFY, company_keys={}, company_name={}).field == "company_name"


@EVERY_ACTION
@pytest.mark.parametrize(
    ("value", "kind"),
    [("soon", "text"), (True, "a boolean"), ({}, "an object"), ([1, 2], "a list"), (1e300, "a number")],
)
def test_bad_timestamps(action: Action, value: Json, kind: str) -> None:
    """What is no time is rejected: an event never gets another time than its own."""
    sentence = f"the field timestamp is {kind}, but must be ISO 8601 or a Unix time"

    assert rejection_of(action, timestamp=value) == (RejectionReason.BAD_TIMESTAMP, "timestamp", sentence)


def test_a_list_of_one_time() -> None:
    """A list of one time is that time."""
    assert TRACK.make_body(track(timestamp=["2026-03-01"])) == TRACK.make_body(track(timestamp="2026-03-01"))


@pytest.mark.parametrize("name", ["!!!", " ", "🔥"])
def test_an_event_without_a_name(name: str) -> None:
    """A name that nothing is left of in Schematic's alphabet is rejected."""
    assert rejection_of(TRACK, event_name=name) == (
        RejectionReason.UNUSABLE_EVENT_NAME,
        "event_name",
        "the field event_name has no letters or digits",
    )


def test_the_raw_event_name() -> None:
    """A name that was changed travels raw in the traits, unless the mapping says otherwise; else nothing is added."""
    assert body_of(TRACK, event_name="Sign Up")["traits"] == {"raw_event_name": "Sign Up"}
    assert body_of(TRACK, event_name="SignUp", traits={"a": 1})["traits"] == {"a": 1, "raw_event_name": "SignUp"}
    assert body_of(TRACK, event_name="Sign Up", traits={"raw_event_name": "x"})["traits"] == {"raw_event_name": "x"}
    assert body_of(TRACK, event_name="sign-up", traits={})["traits"] == {}
    assert "traits" not in body_of(TRACK, event_name="sign-up")


JUNK: list[Json] = [None, "", " ", "a", "Ä b", 0, 42, 1.5, True, False, [], ["a"], [None], {}, {"a": None, "b": "x"}]
JUNK += [{"userId": "u"}, {"k": {"deep": 1}}, {"k": ["x"]}, {"k": False}, NOON, 1772366400, "nonsense"]


@pytest.mark.generated
@EVERY_ACTION
def test_any_values(action: Action) -> None:
    """Whatever the fields come to, a whole body or a named rejection comes out, and nothing that went in changes."""
    chance = random.Random(4)
    names = [field.name for field in action.fields]
    for _ in range(CASES):
        values = valid(action, **{name: chance.choice(JUNK) for name in chance.sample(names, chance.randint(0, 3))})
        before = copy.deepcopy(values)
        made = action.make_body(values)

        assert values == before
        if isinstance(made, BodyRejection):
            assert made.field in names
            assert made.field in made.sentence
        else:
            assert list(made) == ["type", "sent_at", "body"]
            assert orjson.loads(orjson.dumps(made)) == made
            assert _keys_are_text(made["body"])


def _keys_are_text(body: Any) -> bool:
    """Tell whether the keys in a body are there, and are text."""
    company = body.get("company", {"a": "a"})
    found = [body["keys"], company.get("keys", company)] if "keys" in body else [body.get("user", {"a": "a"}), company]
    return all(keys and all(isinstance(value, str) and value for value in keys.values()) for keys in found)
