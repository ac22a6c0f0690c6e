"""Every destination renders, sends and fails as `destinations.destination_protocol` says."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from audience_sync.clock import wall_clock
from audience_sync.core.keys import canonical
from audience_sync.core.model import MEMBER_VALUE, ChangeKind, Computation, Severity, TraitType
from audience_sync.destinations.destination_protocol import Destination, DestinationClient, Renderer
from audience_sync.destinations.destination_registry import DESTINATIONS
from audience_sync.destinations.mappings import presets
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.outcomes import (
    BatchAccepted,
    BatchApplied,
    BatchRejected,
    BatchTooLarge,
    Outcome,
    RefusedKey,
    RetryLater,
    WrongDestination,
)
from audience_sync.destinations.rendered_events import ForwardedEvent, RenderedEvent
from audience_sync.errors import AudienceSyncError, DestinationAway, DestinationError, KeyRefused
from tests.conformance.destination_servers import SERVERS, LocalServer
from tests.factories import make_open

AT = "2026-03-01T12:00:00.000Z"
HTML = "<!DOCTYPE html><title>Welcome</title>"
ERROR = '{"error":"no"}'
COMPUTATIONS = {Computation.AUDIENCE: MEMBER_VALUE, Computation.TRAIT: "12.5"}
KINDS = [*ChangeKind, "resent"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalServer]:
    """Yield the running server of each destination."""
    with SERVERS[request.param](tmp_path) as running:
        yield running


@contextmanager
def connected(
    server: LocalServer, *, url: str | None = None, key: SecretStr | None = None
) -> Iterator[DestinationClient]:
    """Connect to a server, or to another URL, with its key or with another one."""
    destination = server.destination if url is None else server.at(url)
    tls = httpx.create_ssl_context()
    with closing(destination.connect(key or server.key, tls=tls, clock=wall_clock)) as client:
        yield client


def renderer_of(server: LocalServer, environment: str = "env_1") -> Renderer:
    """Return the renderer that the presets make."""
    destination = server.destination
    mappings = presets(destination.actions.values())
    return destination.renderer(identity="userId", environment=environment, mappings=mappings)


def change(kind: str, computation: Computation, *, profile_key: str = "u1", **facts: object) -> OpenChange:
    """Return a change of a person with a company, whose value is that of its kind."""
    value = computation.exit_value if kind == ChangeKind.EXITED else COMPUTATIONS[computation]
    identifiers = canonical({"company": {"groupId": "c1"}})
    return make_open(profile_key, kind=kind, computation=computation, value=value, identifiers=identifiers, **facts)


def events_of(renderer: Renderer, changes: Iterable[OpenChange], *, at: str = AT) -> list[RenderedEvent]:
    """Return the events of some changes, and assert that no change is rejected."""
    found = renderer.profile_events(list(changes), at=at)

    assert [one.rejected for one in found] == [[] for _ in found]
    return [event for one in found for event in one.events]


def keys_of(events: Iterable[RenderedEvent]) -> list[str]:
    """Return the idempotency keys of events."""
    return [event.idempotency_key for event in events]


def entries(count: int) -> list[OpenChange]:
    """Return the entries of people into an audience, in the order of their keys."""
    return [change(ChangeKind.ENTERED, Computation.AUDIENCE, profile_key=f"u{number:05}") for number in range(count)]


@contextmanager
def silent() -> Iterator[str]:
    """Yield the URL of a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_every_destination_is_tested() -> None:
    """A new destination has an entry in `SERVERS`, and so passes the whole suite."""
    assert SERVERS.keys() == DESTINATIONS.keys()


def test_names(server: LocalServer) -> None:
    """The name fits into a configuration; the settings of addresses and actions are named below it."""
    destination: Destination = server.destination

    assert re.fullmatch("[a-z][a-z0-9_]*", destination.name)
    assert destination.display_name.strip()
    assert destination.address_setting in destination.addresses
    assert all(setting.startswith(f"{destination.name}.") for setting in destination.addresses)
    assert all(name == action.name for name, action in destination.actions.items())
    assert all(action.required <= action.preset_fields.keys() for action in destination.actions.values())


# --- rendering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("computation", COMPUTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_change_becomes_an_event(server: LocalServer, computation: Computation, kind: str) -> None:
    """Entries, exits, updates and repetitions of audiences and computed traits carry the change and name the person."""
    one = change(kind, computation, profile_key="ada", trait="gold")
    events = events_of(renderer_of(server), [one])

    assert events
    for event in events:
        assert [(c.trait, c.value, c.kind) for c in event.carried] == [("gold", one.value, kind)]
        assert (event.profile_key, event.identifiers) == ("ada", one.identifiers)
        assert "ada" in event.body
        assert isinstance(orjson.loads(event.body), dict)


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_an_exit_differs_from_an_entry(server: LocalServer, computation: Computation) -> None:
    """The destination can tell that somebody left."""
    renderer = renderer_of(server)
    entered, exited = (
        [event.body.replace(event.idempotency_key, "") for event in events_of(renderer, [change(kind, computation)])]
        for kind in (ChangeKind.ENTERED, ChangeKind.EXITED)
    )

    assert entered != exited


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_the_presets_cover_every_computation(server: LocalServer, computation: Computation) -> None:
    """Without mappings in the configuration, all changes reach the destination, and the trait of the user is set."""
    found = renderer_of(server).coverage(
        "gold", user_keys=["userId"], company_keys=["groupId"], computation=computation, trait_type=None
    )

    assert (found.errors, found.surprises, found.sets_trait) == ([], [], True)


def test_all_changes_of_a_profile_are_carried(server: LocalServer) -> None:
    """Whatever is joined, each open change of a profile is in an event of it."""
    changes = [
        change(kind, computation, audience_id=number, trait=f"t{number}", generation=1000 + number)
        for number, (kind, computation) in enumerate((kind, one) for kind in KINDS for one in COMPUTATIONS)
    ]
    events = events_of(renderer_of(server), changes)

    assert {c.audience_id for event in events for c in event.carried} == {one.audience_id for one in changes}


def test_the_quick_way_makes_the_same_events(server: LocalServer) -> None:
    """A page of changes rendered as one batch has the events that rendering them one by one has."""
    renderer = renderer_of(server)
    changes = entries(20)
    found = renderer.batch(OpenChanges.of(changes), at=AT)

    assert found is None or list(found.events) == events_of(renderer, changes)


def test_a_change_apart_has_its_own_events(server: LocalServer) -> None:
    """A merged event that was refused can be split into one for each change."""
    renderer = renderer_of(server)
    changes = [change(ChangeKind.ENTERED, Computation.AUDIENCE, audience_id=n, trait=f"t{n}") for n in (1, 2)]
    names = {name for event in events_of(renderer, changes) for name in event.mappings}

    for one in changes:
        apart = renderer.apart(one, mappings=names, at=AT).events
        assert [[c.audience_id for c in event.carried] for event in apart] == [[one.audience_id]] * len(apart)
        assert apart


# --- idempotency keys -------------------------------------------------------------------------------------------------


def test_a_repetition_has_the_same_keys(server: LocalServer) -> None:
    """After a crash, the same changes are made into events with the same keys, at any time and by any process."""
    again = [keys_of(events_of(renderer_of(server), entries(3), at=at)) for at in (AT, AT.replace("12:00", "13:30"))]

    assert again[0] == again[1]
    assert len(set(again[0])) == len(again[0])


@pytest.mark.parametrize("differs", [{"generation": 2000}, {"audience_id": 9}, {"profile_key": "eve"}])
def test_another_change_has_other_keys(server: LocalServer, differs: Mapping[str, Any]) -> None:
    """A value of a new generation is never taken for a repetition, nor is another person or audience."""
    renderer = renderer_of(server)
    one = change(ChangeKind.ENTERED, Computation.AUDIENCE)
    other = change(ChangeKind.ENTERED, Computation.AUDIENCE, **differs)

    assert not {*keys_of(events_of(renderer, [one]))} & {*keys_of(events_of(renderer, [other]))}


def test_another_environment_has_other_keys(server: LocalServer) -> None:
    """Two databases that send to two environments do not share keys."""
    one, other = (keys_of(events_of(renderer_of(server, name), entries(1))) for name in ("env_1", "env_2"))

    assert not {*one} & {*other}


# --- forwarded events -------------------------------------------------------------------------------------------------


def test_forwarded_events_keep_their_order(server: LocalServer) -> None:
    """Events of one profile are rendered in order, each whole, and no more than fit."""
    waiting = [server.waiting(n) for n in range(10)]
    found = renderer_of(server).forwarded(waiting, most=4)
    positions = [event.origin.row.position for event in found.events if event.origin is not None]

    assert len(positions) == len(found.events) <= 4
    assert positions[0] == 0
    assert all(after - before in {0, 1} for before, after in pairwise(positions))


def test_accepted_bodies_of_a_forwarded_event_are_not_rendered_again(server: LocalServer) -> None:
    """An event is over once all its bodies were accepted."""
    renderer = renderer_of(server)
    waiting = server.waiting(0)
    first = renderer.forwarded([waiting], most=10)
    done = waiting._replace(accepted=frozenset(keys_of(first.events)))

    assert first.events
    assert renderer.forwarded([done], most=10) == ([], [], [], [done])


def test_an_event_that_is_not_wanted_is_unsent(server: LocalServer) -> None:
    """An event for other destinations sends nothing, and has a reason."""
    if not server.destination.actions:
        pytest.skip("it has no mappings: nothing waits for it that it does not want")
    event = {"type": "identify", "userId": "u1", "timestamp": AT, "integrations": {"All": False}}
    waiting = ForwardedEvent("u1", 0, "m0", "identify", orjson.dumps(event).decode())
    found = renderer_of(server).forwarded([waiting], most=10)

    assert (found.events, found.dead, len(found.unsent)) == ([], [], 1)
    assert found.unsent[0].reason


# --- sending ----------------------------------------------------------------------------------------------------------


def send(server: LocalServer, events: Iterable[RenderedEvent], **where: Any) -> Outcome:
    """Send events over HTTP, on a connection of their own."""
    with connected(server, **where) as client:
        return client.send([event.body for event in events])


def test_events_are_accepted(server: LocalServer) -> None:
    """A batch of entries and exits is taken, and each of its events is processed once."""
    events = events_of(
        renderer_of(server), [*entries(3), change(ChangeKind.EXITED, Computation.AUDIENCE, profile_key="u9")]
    )
    outcome = send(server, events)

    assert isinstance(outcome, BatchAccepted | BatchApplied)
    assert 200 <= outcome.status < 300
    assert server.processed() == Counter(keys_of(events))


def test_a_repeated_batch_is_processed_once(server: LocalServer) -> None:
    """After a lost answer the same batch is sent again, and nothing happens twice."""
    events = events_of(renderer_of(server), entries(3))
    server.lose_answers()
    lost = send(server, events)
    server.recover()
    again = send(server, events)

    assert isinstance(lost, RetryLater)
    assert lost.status == 0
    assert isinstance(again, BatchAccepted | BatchApplied)
    assert server.processed() == Counter(keys_of(events))


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        *[(status, ERROR, {}, RetryLater) for status in (408, 423, 425, 429, 500, 502, 503, 504)],
        (429, ERROR, {"Retry-After": "7"}, RetryLater),
        *[(status, ERROR, {}, RefusedKey) for status in (401, 403)],
        *[(status, ERROR, {}, WrongDestination) for status in (404, 405, 501)],
        (302, "", {"Location": "https://example.com/"}, WrongDestination),
        (400, HTML, {"Content-Type": "text/html"}, WrongDestination),
        (413, ERROR, {}, BatchTooLarge),
        *[(status, ERROR, {}, BatchRejected) for status in (400, 409, 422)],
    ],
)
def test_outcomes(
    server: LocalServer, status: int, body: str, headers: Mapping[str, str], expected: type[Outcome]
) -> None:
    """Each answer has the outcome of the table."""
    server.answer(status, body, headers)
    outcome = send(server, events_of(renderer_of(server), entries(1)))

    assert isinstance(outcome, expected)
    if isinstance(outcome, RetryLater):
        asked = headers.get("Retry-After")
        assert outcome.status == status
        assert outcome.retry_after == (None if asked is None else timedelta(seconds=int(asked)))
    assert server.processed() == Counter()


def test_nobody_answers(server: LocalServer) -> None:
    """A host that is down keeps everything for later."""
    with silent() as url:
        outcome = send(server, events_of(renderer_of(server), entries(1)), url=url)

    assert isinstance(outcome, RetryLater)
    assert (outcome.status, outcome.retry_after) == (0, None)


def test_a_wrong_key_is_refused(server: LocalServer) -> None:
    """A key that the destination does not know stops the delivery, and loses nothing."""
    outcome = send(server, events_of(renderer_of(server), entries(1)), key=SecretStr("not_a_key"))

    assert isinstance(outcome, RefusedKey)
    assert server.processed() == Counter()


def test_the_limit_is_respected(server: LocalServer) -> None:
    """A batch of the most events is taken whole; one more is refused, with the size that is allowed if it is known."""
    most = server.destination.limits.events
    events = events_of(renderer_of(server), entries(most + 1))
    full, over = send(server, events[:most]), send(server, events)

    assert isinstance(full, BatchAccepted | BatchApplied)
    assert isinstance(over, BatchTooLarge)
    assert over.max_size in {None, most}
    assert server.processed() == Counter(keys_of(events[:most]))


@pytest.mark.parametrize("status", [200, 302, 400, 401, 404, 413, 429, 500])
def test_an_echoed_key_is_in_no_outcome(server: LocalServer, status: int) -> None:
    """Whatever a server echoes, no outcome and no error has the API key in it."""
    key = server.key.get_secret_value()
    server.answer(status, f'{{"error":"{key}"}}', {"Location": f"https://example.com/{key}"})
    with connected(server) as client:
        outcome = client.send([event.body for event in events_of(renderer_of(server), entries(1))])

        assert key not in repr((outcome, client))
    assert key not in repr(list(renderer_of(server).profile_events(entries(1), at=AT)))


def test_the_key_is_added_when_events_are_sent(server: LocalServer) -> None:
    """Events are stored without the key. A body that is shown has a word in its place."""
    (event,) = events_of(renderer_of(server), entries(1))

    assert server.key.get_secret_value() not in event.body
    assert server.key.get_secret_value() not in server.destination.posted(event.body, key="(the key)")


# --- environment, types, check ----------------------------------------------------------------------------------------


def test_the_environment_of_a_key(server: LocalServer) -> None:
    """The key tells the environment that the database is bound to."""
    with connected(server) as client:
        assert client.environment() == server.environment


def test_a_wrong_key_has_no_environment(server: LocalServer) -> None:
    """A refused key, a host that is down and a host of somebody else are three different errors, without the key."""
    if not server.has_environments:
        pytest.skip("keys have no environment")
    wrong = "not_a_key_at_all"
    with connected(server, key=SecretStr(wrong)) as client, pytest.raises(KeyRefused) as refused:
        client.environment()
    with silent() as url, connected(server, url=url) as client, pytest.raises(DestinationAway) as away:
        client.environment()
    with connected(server, url=f"{server.url}/elsewhere") as client, pytest.raises(DestinationError) as elsewhere:
        client.environment()

    assert type(elsewhere.value) is DestinationError
    for caught in (refused, away, elsewhere):
        error: AudienceSyncError = caught.value
        assert wrong not in f"{error} {error.hint}"
        assert server.key.get_secret_value() not in f"{error} {error.hint}"


def test_declaring_twice_changes_nothing(server: LocalServer) -> None:
    """The type of a trait may be declared again by every process."""
    with connected(server) as client:
        declared = [client.declare("gold", TraitType.BOOLEAN, display_name="Gold") for _ in range(2)]
        same, other = (list(client.compare_types({"gold": kind})) for kind in (TraitType.BOOLEAN, TraitType.NUMBER))

    assert declared == [None, None]
    assert same == []
    assert [(one.severity, one.subject, one.is_about_trait) for one in other] == (
        [(Severity.WARNING, "gold", True)] if server.has_types else []
    )


def test_a_probe_sends_nothing(server: LocalServer) -> None:
    """`check` finds out whether batches are taken without sending an event; without a key, too."""
    with connected(server) as client:
        found = [one for has_key in (True, False) for one in client.probe(has_key=has_key)]

    assert {one.severity for one in found} == {Severity.OK}
    assert server.processed() == Counter()


def test_a_probe_finds_a_wrong_host(server: LocalServer) -> None:
    """A host that is down, or not that of the destination, is an error with a remedy."""
    with silent() as url, connected(server, url=url) as client:
        down = next(iter(client.probe(has_key=True)))
    server.answer(404, HTML, {"Content-Type": "text/html"})
    with connected(server) as client:
        wrong = next(iter(client.probe(has_key=True)))

    assert (down.severity, wrong.severity) == (Severity.ERROR, Severity.ERROR)
    assert down.remedy
    assert wrong.remedy


def test_a_client_can_be_closed_twice(server: LocalServer) -> None:
    """Closing is safe wherever a delivery ends."""
    with connected(server) as client:
        client.close()
