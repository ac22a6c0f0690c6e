"""The quick way to a body, by a template, ends where resolving ends; where it might not, it is not taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from audience_sync.core.keys import canonical
from audience_sync.core.model import Computation, Json
from audience_sync.destinations.mappings import Mapping, make_mapping
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.rendered_events import BatchContents, ProfileEvents
from audience_sync.destinations.schematic.schematic_actions import IDENTIFY_USER
from audience_sync.destinations.schematic.schematic_renderer import resolve_changes
from audience_sync.errors import MappingError
from tests.factories import make_open, make_renderer, rendered
from tests.profile import amount

AT = "2026-03-31T12:00:00.000Z"
NAMES = st.sampled_from(["email", "phone", "id", "groupId", "anonymousId", "x y", 'a"b', "\0odd"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda text: not text.isspace()
)
KNOWN = st.fixed_dictionaries(
    {},
    optional={
        "user": st.dictionaries(NAMES, TEXTS, min_size=1, max_size=3),
        "company": st.dictionaries(NAMES, TEXTS, min_size=1, max_size=2),
    },
)
PATHS = st.sampled_from(
    [
        "$.userId",
        "$.userId.length",
        "$.timestamp",
        "$.timestamp.0",
        "$.anonymousId",
        "$.context.groupId",
        "$.context.groupId.length",
        "$.context.user_keys",
        "$.context.user_keys.email",
        "$.context.user_keys.email.0",
        "$.context.company_keys",
        "$.context.company_keys.id",
        "$.context.personas.namespace",
        "$.context.personas.computation_key",
        "$.messageId",
        "$.traits",
        "$.traits.t1",
        "$.traits.other",
        "$.type",
        "$.integrations",
        "$.nowhere",
    ]
).map(lambda path: {"@path": path})
CONSTANTS = st.sampled_from(["plain", "", "\0" + "1" + "\0", "0001-01-01T00:00:00.001Z", 7, True, None])


def directives(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return directives around other values."""
    return st.one_of(
        st.fixed_dictionaries(
            {"@if": st.fixed_dictionaries({"exists": inner, "then": inner}, optional={"else": inner})}
        ),
        st.fixed_dictionaries({"@if": st.fixed_dictionaries({"blank": inner, "then": inner})}),
        st.fixed_dictionaries({"@case": st.fixed_dictionaries({"operator": st.just("upper"), "value": inner})}),
        st.fixed_dictionaries(
            {"@merge": st.fixed_dictionaries({"direction": st.just("right"), "objects": st.lists(inner, max_size=2)})}
        ),
        st.fixed_dictionaries({"@excludeWhenNull": inner}),
        st.fixed_dictionaries({"@json": st.fixed_dictionaries({"mode": st.just("encode"), "value": inner})}),
        st.sampled_from(["{{userId}}!", "{{context.user_keys.email}}", "none"]).map(lambda text: {"@template": text}),
    )


VALUES = st.recursive(PATHS | CONSTANTS, directives, max_leaves=3)
KEYS = VALUES | st.dictionaries(NAMES, VALUES, max_size=2)
FIELDS = st.fixed_dictionaries(
    {"user_traits": st.just({"@path": "$.traits"}) | KEYS},
    optional={
        "user_keys": KEYS,
        "company_keys": KEYS,
        "user_name": VALUES,
        "company_name": VALUES,
        "company_traits": KEYS,
        "timestamp": st.just({"@path": "$.timestamp"}) | VALUES,
    },
)
TRIGGERS = st.sampled_from(
    [
        'type = "identify"',
        'type = "track"',
        "userId != null",
        'context.personas.computation_class = "audience"',
        'context.personas.computation_key = "t1"',
        'context.personas.space_id = "env_1"',
        "traits.t1 = true",
        "exists(traits.t2)",
        'contains(messageId, "1")',
        'context.user_keys.email != "a"',
        "context.groupId = null",
        "groupId = null",
    ]
)


@st.composite
def mappings(draw: st.DrawFn) -> tuple[Mapping, ...]:
    """Draw one or two mappings that can be compiled."""
    made = []
    for number in range(draw(st.integers(1, 2))):
        drawn: dict[str, Json] = draw(FIELDS)  # type: ignore[arg-type]  # hypothesis does not see through the union
        fields = {**IDENTIFY_USER.preset_fields, **drawn}
        trigger = draw(TRIGGERS)
        try:
            made.append(make_mapping(str(number), trigger=trigger, action=IDENTIFY_USER, fields=fields))
        except MappingError:
            reject()  # it is refused when the file is loaded
    return tuple(made)


@st.composite
def changes(draw: st.DrawFn) -> list[OpenChange]:
    """Draw open changes of one profile."""
    known = draw(KNOWN)
    identifiers = canonical(known) if known else None
    key = draw(TEXTS)
    return [
        make_open(
            key, audience_id=n, trait=f"t{n}", value=draw(st.sampled_from(["true", "false"])), identifiers=identifiers
        )
        for n in range(1, draw(st.integers(1, 3)) + 1)
    ]


@settings(max_examples=amount(small=40, large=400))
@given(mappings(), changes(), st.sampled_from(["userId", "email", "id"]))
def test_the_quick_way_ends_where_resolving_ends(
    made: tuple[Mapping, ...], asked: list[OpenChange], identity: str
) -> None:
    """Whatever mappings, keys and changes: the same events, byte for byte, and the same refusals."""
    destination = make_renderer(*made, identity=identity)
    identifiers = asked[0].identifiers

    for _ in range(2):  # the second time the template is there
        assert rendered(asked, destination, at=AT) == resolve_changes(
            asked, destination.enabled, destination, identifiers=identifiers, at=AT
        )


@st.composite
def people(draw: st.DrawFn) -> list[OpenChange]:
    """Draw one open change of each of several profiles, whose names and values differ or not."""
    keys = draw(st.lists(TEXTS, min_size=1, max_size=7, unique=True))
    some = st.lists(KNOWN, min_size=1, max_size=2)
    known, values = draw(some), draw(st.lists(st.sampled_from(["true", "false"]), min_size=1, max_size=2))
    found = []
    for n, key in enumerate(keys):
        mine = known[n % len(known)]
        identifiers = canonical(mine) if mine else None
        found.append(make_open(key, trait="t1", value=values[n % len(values)], identifiers=identifiers))
    return found


@settings(max_examples=amount(small=40, large=400))
@given(mappings(), people(), st.sampled_from(["userId", "email", "id"]))
def test_many_people_are_as_each_alone(made: tuple[Mapping, ...], asked: list[OpenChange], identity: str) -> None:
    """Batches that are made of columns have, byte for byte, the events that are made one by one."""
    destination = make_renderer(*made, identity=identity)
    each = [
        resolve_changes([one], destination.enabled, destination, identifiers=one.identifiers, at=AT) for one in asked
    ]
    found = destination.compiled.contents(OpenChanges.of(asked), at=AT)

    if found is None:
        return  # somebody's mappings must be asked
    assert not any(parcel.rejected for parcel in each)
    events = [event for parcel in each for event in parcel.events]
    assert (found.dump(), found.summary()) == (BatchContents.of(events).dump(), BatchContents.of(events).summary())


@pytest.mark.parametrize("known", [((), ()), ((), ("groupId",)), (("email",), ("id",))])
def test_the_presets_have_templates(known: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """What serves when nothing is configured is quick."""
    assert make_renderer().compiled.template(known, Computation.AUDIENCE) is not None


@pytest.mark.parametrize(
    ("trigger", "fields"),
    [
        ("userId != null", {}),
        ('context.personas.computation_key = "t1"', {}),
        ('type = "identify"', {"user_name": {"@template": "{{userId}}"}}),
        ('type = "identify"', {"user_name": {"@path": "$.context.groupId.length"}}),
        ('type = "identify"', {"user_traits": {"last": {"@path": "$.context.personas.computation_key"}}}),
        ('type = "identify"', {"user_keys": {}}),
    ],
)
def test_what_differs_between_people_has_none(trigger: str, fields: dict[str, Json]) -> None:
    """A mapping that looks at somebody's values, or makes others of them, is resolved for each."""
    mapped = {**IDENTIFY_USER.preset_fields, **fields}
    one = make_mapping("One", trigger=trigger, action=IDENTIFY_USER, fields=mapped)

    assert make_renderer(one).compiled.template(((), ()), Computation.AUDIENCE) is None


def test_a_page_of_odd_keys_is_as_each_alone() -> None:
    """Keys that look like the seam between two texts of a list do not mix with their neighbours."""
    destination = make_renderer()
    page = [make_open(key) for key in ('a",', "b", 'c"', '","', "\\", 'd\\"', "é", "plain")]
    contents = destination.compiled.contents(OpenChanges.of(page), at=AT)

    assert contents is not None
    assert [rendered([one], destination, at=AT) for one in page] == [
        ProfileEvents([one], []) for one in contents.events
    ]
