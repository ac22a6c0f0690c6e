"""Print the output of `plan`: a summary of each audience and a total.

The numbers come from the comparison alone. Only samples need request bodies, so a plan takes no longer than the sync
that it previews.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import typer
from rich.markup import escape
from rich.text import Text

from audience_sync.cli.console import Format, Sheet, harmless
from audience_sync.cli.context import console, out
from audience_sync.cli.text_table import Record, TableView, wrap
from audience_sync.config import Audience, Settings
from audience_sync.core.forecast import ProfileCounter, forecast
from audience_sync.core.keys import MAX_KEY_LENGTH, RowFault, shard_of
from audience_sync.core.model import Change, ChangeKind, Counts, delivered_value
from audience_sync.core.text import counted, instant_text, printable, short_duration
from audience_sync.destinations.destination_protocol import Renderer
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.rendered_events import ForwardedEvent, ProfileEvents, RenderedEvent
from audience_sync.destinations.sample_changes import PEOPLE, joined, sample, sample_values, volume
from audience_sync.errors import AudienceSyncError
from audience_sync.segment.timestamps import iso
from audience_sync.store import audiences, binding, memberships, outbox, subscriptions
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.database import Database
from audience_sync.sync import Plan

# --- new users --------------------------------------------------------------------------------------------------------
# Estimate how many users a plan would create in the destination.

LOOKED_UP: Final = 10_000  # users per audience; beyond that, only a sample is looked up
SAMPLE_ONE_IN: Final = 16


class NewUsers:
    """Count the users who enter and have no membership that the destination has accepted.

    A user who enters several audiences counts once in the total. Large numbers are estimates.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as connection:
            self._audience_ids = [audience.id for audience in audiences.every(connection) if audience.members]
        self._found: set[str] = set()  # valid only while every user was looked up
        self._sampled = ProfileCounter()
        self._is_complete = True
        self._counts: list[int] = []  # of the audiences so far
        self._entered = self._new = self._new_in_sample = 0  # of the current audience

    def add(self, changes: Sequence[Change]) -> None:
        """Count the users who enter the current audience with these changes."""
        entered = [change.profile_key for change in changes if change.kind is ChangeKind.ENTERED]
        is_whole = self._entered < LOOKED_UP
        self._entered += len(entered)
        if not is_whole:  # changes are sorted by profile key, so the first ones are not representative
            self._is_complete = self._is_complete and not entered
            entered = list(filter(_is_sampled, entered))
        if not entered:
            return
        with self._database.read() as connection:
            new = set(entered) - memberships.delivered_profiles(connection, self._audience_ids, entered)
        if is_whole:
            self._new += len(new)
        else:
            self._new_in_sample += len(new)
        if self._is_complete:
            self._found |= new
        self._sampled.add(filter(_is_sampled, new))

    def close_audience(self) -> int:
        """Return the number for the current audience, and start with the next one."""
        count = min(self._entered, self._new + SAMPLE_ONE_IN * self._new_in_sample)
        self._counts.append(count)
        self._entered = self._new = self._new_in_sample = 0
        return count

    def total(self) -> int:
        """Return the number for all audiences so far."""
        found = len(self._found) if self._is_complete else SAMPLE_ONE_IN * self._sampled.count()
        return min(max([found, *self._counts]), sum(self._counts))


def _is_sampled(profile_key: str) -> bool:
    return shard_of(profile_key) % SAMPLE_ONE_IN == 0


# --- samples ----------------------------------------------------------------------------------------------------------
# Samples of a plan: changes with the bodies that would be posted for them.

SAMPLE_COLUMNS: Final = (
    "record", "audience", "computation", "change", "profile_key", "value", "identifiers", "bodies", "rejected",
    "hooks",
)  # fmt: skip
REDACTED: Final = "(the API key)"
MADE_WHEN_SENT: Final = "(generated when sent)"


def sample_count(text: str | int) -> int:
    """Return the number of samples from an option; `all` means every change.

    Raises:
        typer.BadParameter: neither a number nor `all`.
    """
    if isinstance(text, str) and not text.isdecimal() and text != "all":
        raise typer.BadParameter(f"{text!r} is neither a number nor `all`")
    return sys.maxsize if text == "all" else min(int(text), sys.maxsize)


class PlanSamples:
    """Print the first changes of each kind per audience, each as if its profile had no other pending change."""

    def __init__(
        self,
        settings: Settings,
        renderer: Renderer,
        known: Sequence[AudienceRow],
        *,
        most: int,
        format: Format,
        now: datetime,
    ) -> None:
        self._destination = settings.destination
        self._renderer = renderer
        self._hooks = {hook.name: settings.hook_route(hook).renderer("") for hook in settings.hooks}
        self._subscribers = {audience.key: settings.subscribers(audience) for audience in settings.audiences}
        self._ids = {row.key: row.id for row in known}
        self._completed = {row.key for row in known if row.completed}
        self._most = most
        self._at = iso(now)
        self._shown: Counter[tuple[str, ChangeKind]] = Counter()
        self._sheet = Sheet(SAMPLE_COLUMNS, format=format) if most and format is not Format.TABLE else None
        self.rejected: Counter[tuple[str, str]] = Counter()  # by audience and reason

    def take(self, audience: Audience, changes: Sequence[Change], *, make_space: Callable[[], None]) -> None:
        """Print changes until there are enough samples of their kind; `make_space` is called before each."""
        if self._most:
            for change in changes:
                if self._shown[audience.key, change.kind] < self._most:
                    self._shown[audience.key, change.kind] += 1
                    make_space()
                    self._show(audience, change)

    def _show(self, audience: Audience, change: Change) -> None:
        rendered = self._rendered(audience, change)
        bodies = [self._shown_body(audience.key, event) for event in rendered.events]
        hooks = self._messages(audience, change)
        reasons = [reason for _, reason in rendered.rejected]
        self.rejected.update((audience.key, reason) for reason in reasons)
        if self._sheet is None:
            value = "" if change.value is None else f" {change.value}"
            out.print(Text(printable(f"{audience.key} {change.kind.value} {change.profile_key}{value}")))
            for body in bodies:
                out.print_lines(wrap(Text(body), out.line_width, hang=2, is_json=True))
            for name, body in hooks.items():
                out.print_lines(wrap(Text(f"hook {name}: {body}"), out.line_width, hang=2, is_json=True))
            for reason in reasons:
                out.print(Text(f"would become a dead letter: {printable(reason)}"))
            out.print()
            return
        self._sheet.add(
            {
                "record": "sample",
                "audience": audience.key,
                "computation": audience.computation.value,
                "change": change.kind.value,
                "profile_key": change.profile_key,
                "value": change.value,
                "identifiers": change.identifiers,
                "bodies": f"[{','.join(bodies)}]",
                "hooks": "{" + ",".join(f'"{name}":{body}' for name, body in hooks.items()) + "}",
                "rejected": "; ".join(reasons) or None,
            }
        )

    def _rendered(self, audience: Audience, change: Change) -> ProfileEvents:
        (rendered,) = self._renderer.profile_events([self._row(audience, change)], at=self._at)
        return rendered

    def _messages(self, audience: Audience, change: Change) -> dict[str, str]:
        """Return the message that each hook gets for a change, by the name of the hook."""
        is_initial = audience.key not in self._completed
        if change.kind is ChangeKind.UPDATED and not audience.send_updates:
            return {}
        payload = subscriptions.payload(
            change,
            key=audience.key,
            name=audience.name,
            computation=audience.computation,
            at=self._at,
            is_initial=is_initial,
        )
        row = ForwardedEvent(change.profile_key, 0, "", change.kind, payload)
        found = {}
        for subscriber in self._subscribers.get(audience.key, ()):
            if subscriber.with_members or not is_initial:
                (event,) = self._hooks[subscriber.destination].forwarded([row], most=1).events
                found[subscriber.destination] = harmless(event.body.replace(event.idempotency_key, MADE_WHEN_SENT))
        return found

    def _row(self, audience: Audience, change: Change) -> OpenChange:
        return OpenChange(
            profile_key=change.profile_key,
            audience_id=self._ids.get(audience.key, 0),
            trait=audience.key,
            value=delivered_value(change),
            identifiers=change.identifiers,
            generation=0,
            run_id=0,
            kind=change.kind,
            computation=audience.computation,
        )

    def _shown_body(self, key: str, event: RenderedEvent) -> str:
        """Return an event as it would be posted, except for the keys that are generated at delivery."""
        body = self._destination.posted(event.body, key=REDACTED).replace(event.idempotency_key, MADE_WHEN_SENT)
        number = self._ids.get(key, 0)
        body = body.replace(f"personas_{number}.0.", f"personas_{number or MADE_WHEN_SENT}.{MADE_WHEN_SENT}.")
        return harmless(body)


# --- plans ------------------------------------------------------------------------------------------------------------

COLUMNS: Final = (
    "record", "audience", "computation", "kind", "state", "as_of", "members", "read", "enter", "exit", "update",
    "unchanged", "rejected", "duplicates", "profiles", "events", "requests", "seconds", "time", "new_users",
    "definition_changed", "reason",
)  # fmt: skip
SHOWN: Final = TableView(
    ("audience", "enter", "exit", "update", "requests", "time", "state"), optional=("state", "requests")
)
TOTAL: Final = "(total)"  # no key of an audience has parentheses
READY, BLOCKED, HELD, STALE, FAILED = "ready", "blocked", "held", "stale", "failed"


def _ignore() -> None:
    """Do nothing: no other line is in the way."""


class _Planned(NamedTuple):
    """A plan with the number of profiles that something is sent about, and of events."""

    plan: Plan
    profiles: int
    events: int


class PlanSheet:
    """Print plans: samples as they are found, and the summary at the end.

    `samples` is the number per audience and kind of change. In json, every record is a line; csv has the samples if
    there are any, else the summary.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        planned: Sequence[Audience],
        format: Format,
        samples: int,
        now: datetime,
    ) -> None:
        self._settings = settings
        self._format = format
        with database.read() as connection:
            environment = binding.environment(connection) or settings.destination.environment_label
            known = audiences.every(connection)
            self._waiting = outbox.count(connection)[0]
        self._renderer = settings.renderer(environment)
        self._profiles = ProfileCounter() if len(planned) > 1 else None
        self._new_users = NewUsers(database)
        self._samples = PlanSamples(settings, self._renderer, known, most=samples, format=format, now=now)
        self._sheet = None if samples and format is Format.CSV else Sheet(COLUMNS, format=format, shown=SHOWN)
        self._planned: list[_Planned] = []
        self._records: list[Record] = []  # of a table, which is printed at the end

    def see(self, audience: Audience, changes: Sequence[Change], *, make_space: Callable[[], None] = _ignore) -> None:
        """Add changes of an audience; `make_space` is called before a sample is printed."""
        if self._profiles is not None:
            self._profiles.add(_profiles_sent(audience, changes))
        self._new_users.add(changes)
        self._samples.take(audience, changes, make_space=make_space)

    def show(self, audience: Audience, plan: Plan) -> None:
        """Add the plan of an audience and explain it on stderr."""
        self._explain(audience, plan)
        known = {
            "record": "audience",
            "audience": plan.audience_key,
            "computation": plan.computation.value,
            "kind": plan.kind.value,
            "as_of": iso(plan.as_of),
            "members": plan.members_before,
            "definition_changed": plan.definition_changed,
        }
        if plan.held is not None:  # nothing was read, so nothing is counted
            self._add({**known, "state": HELD, "reason": plan.held})
            return
        if plan.stale is not None:
            self._add({**known, "state": STALE, "reason": plan.stale})
            return
        found = _Planned(plan, _changes_sent(audience, plan.counts), self._events(audience, plan.counts))
        self._planned.append(found)
        self._add(
            {
                **known,
                "state": BLOCKED if plan.refusals else READY,
                **_changes(plan.counts),
                "profiles": found.profiles,
                **self._forecast(found.events),
                "new_users": self._new_users.close_audience(),
                "reason": "; ".join(plan.refusals) or None,
            }
        )

    def fail(self, audience: Audience, error: AudienceSyncError) -> None:
        """Add an audience that cannot be planned."""
        self._new_users.close_audience()  # of what was compared before it failed
        known = {"record": "audience", "audience": audience.key, "computation": audience.computation.value}
        self._add({**known, "state": FAILED, "reason": str(error)})

    def close(self) -> None:
        """Print the total, and for a table the whole summary."""
        profiles, events = self._profiles_and_events()
        new_users = self._new_users.total()
        counts = sum((one.plan.counts for one in self._planned), Counts())
        total = {"record": "total", "profiles": profiles, **self._forecast(events), "new_users": new_users}
        self._add({**total, **_changes(counts)})
        if self._sheet is not None:
            for record in self._records:
                self._sheet.add({**record, "audience": record["audience"] or TOTAL, "state": record["state"] or ""})
            self._sheet.close()
        self._conclude(events, new_users)

    def _add(self, facts: Record) -> None:
        record = {**dict.fromkeys(COLUMNS), **facts}
        if self._format is Format.TABLE:
            self._records.append(record)
        elif self._sheet is not None:
            self._sheet.add(record)

    def _events(self, audience: Audience, counts: Counts) -> int:
        each = volume(_entry(audience, self._settings, number=0), self._renderer)
        updated = counts.updated if audience.send_updates else 0
        return counts.entered * each.entered + counts.exited * each.exited + updated * each.updated

    def _profiles_and_events(self) -> tuple[int, int]:
        """Return the number of profiles and events of all plans; changes to one profile can share an event."""
        changed = [one for one in self._planned if one.profiles]
        profiles, events = sum(one.profiles for one in changed), sum(one.events for one in changed)
        if self._profiles is None or len(changed) < 2:
            return profiles, events
        distinct = min(profiles, self._profiles.count())
        keys = [one.plan.audience_key for one in changed]
        entries = [_entry(self._settings.audience(key), self._settings, number=n) for n, key in enumerate(keys)]
        return distinct, events - round(joined(entries, self._renderer) * (profiles - distinct))

    def _forecast(self, events: int) -> Record:
        delivery = self._settings.delivery
        found = forecast(events, batch_size=delivery.batch_size, per_second=delivery.max_requests_per_second)
        return {**found._asdict(), "time": short_duration(timedelta(seconds=found.seconds))}

    def _explain(self, audience: Audience, plan: Plan) -> None:
        """Print on stderr how a plan was made and what needs attention."""
        if plan.held is not None:
            console.print(f"[bold]{plan.audience_key}[/]: [yellow]a sync would be held:[/] {escape(plan.held)}")
            return
        if plan.stale is not None:
            console.print(
                f"[bold]{plan.audience_key}[/]: [yellow]a sync would not evaluate stale data:[/] {escape(plan.stale)};"
                " --allow-stale plans it anyway"
            )
            return
        c = plan.counts
        if not plan.computation.has_values:
            before = counted(plan.members_before, "member")
            would = f"{c.entered:,} would enter, {c.exited:,} would exit, {c.updated:,} would be updated"
        else:
            before = f"{plan.members_before:,} have a value"
            would = f"{c.entered:,} would get a value, {c.exited:,} would lose theirs, {c.updated:,} would be updated"
        console.print(
            f"[bold]{plan.audience_key}[/] ({plan.kind}, as of {instant_text(iso(plan.as_of))}, {before}):"
            f" {c.read:,} read, {would}; {c.unchanged:,} unchanged, {c.rejected:,} rejected,"
            f" {counted(c.duplicates, 'duplicate')}",
        )
        if audience.query is not None:
            console.print(f"  {escape(audience.definition)}", highlight=False)
        if plan.definition_changed:
            console.print("  its definition or something it uses has been edited since its last sync")
        for reason, count in sorted(plan.rejections.counts.items()):
            console.print(f"  {counted(count, 'row')}: {_explained(reason, self._settings.destination.display_name)}")
        for (key, sentence), count in self._samples.rejected.items():
            if key == plan.audience_key:
                console.print(f"  [yellow]{count:,} of the samples would become dead letters:[/] {escape(sentence)}")
        for refusal in plan.refusals:
            console.print(f"  [yellow]a guard would block the sync:[/] {escape(refusal)}")
        if plan.refusals and plan.blocked_run is None:
            console.print("  a sync would store this plan as a blocked run; `audience-sync approve RUN` applies it")
        if plan.blocked_run is not None:
            console.print(
                f"  run {plan.blocked_run} is blocked;"
                f" `audience-sync approve {plan.blocked_run}` applies its stored plan"
            )

    def _conclude(self, events: int, new_users: int) -> None:
        """Print on stderr what the total means and what the destination does with the events."""
        delivery = self._settings.delivery
        if events:
            console.print(
                f"requests and time are minimums, assuming full batches of {delivery.batch_size:,} events at"
                f" {delivery.max_requests_per_second:,g} requests per second; in the total, changes to one"
                " profile share an event where the mappings allow it"
            )
            name = self._settings.destination.display_name
            created = f"; up to {new_users:,} users may be new to {name}, which creates them" if new_users else ""
            console.print(f"each event updates the user's last_seen_at and may trigger a webhook{created}")
        if self._waiting:
            console.print(f"{counted(self._waiting, 'change')} from earlier runs will be sent with the next delivery")


def _entry(audience: Audience, settings: Settings, *, number: int) -> OpenChange:
    """Return the change for a sample person who enters an audience or gets a value."""
    value, _ = sample_values(audience.computation, audience.declared_type)
    keys = audience.user_keys, audience.company_keys
    entry = sample(audience.key, value, PEOPLE[0], *keys, audience.computation, identity=settings.identity)
    return entry._replace(audience_id=number)


def _changes_sent(audience: Audience, counts: Counts) -> int:
    """Return the number of changes that are sent."""
    return counts.entered + counts.exited + (counts.updated if audience.send_updates else 0)


def _profiles_sent(audience: Audience, changes: Sequence[Change]) -> Iterator[str]:
    """Yield the keys of the profiles with changes that are sent."""
    for change in changes:
        if audience.send_updates or change.kind is not ChangeKind.UPDATED:
            yield change.profile_key


def _changes(counts: Counts) -> Record:
    return {
        "read": counts.read,
        "enter": counts.entered,
        "exit": counts.exited,
        "update": counts.updated,
        "unchanged": counts.unchanged,
        "rejected": counts.rejected,
        "duplicates": counts.duplicates,
    }


def _explained(reason: RowFault, destination: str) -> str:
    return {
        RowFault.NULL_KEY: "the identity is NULL",
        RowFault.EMPTY_KEY: "the identity is empty",
        RowFault.LONG_KEY: f"the identity is longer than {MAX_KEY_LENGTH} characters",
        RowFault.UNUSABLE_TEXT: "the identity has control characters or is not valid text",
        RowFault.UNSUPPORTED_TYPE: "the identity is not text, a whole number or a UUID",
        RowFault.PLACEHOLDER_KEY: "the identity is a placeholder for a missing value, such as NULL",
        RowFault.DECIMAL_KEY: "the identity is a number in decimal or scientific notation, such as 1.14739E+18",
        RowFault.DUPLICATE: (
            "another row with the same identity is used: it has more identifiers or sorts first as JSON"
        ),
        RowFault.OMITTED_IDENTIFIER: "another identifier is unusable, or a placeholder such as NULL, and is left out",
        RowFault.NULL_VALUE: "the value is missing",
        RowFault.LONG_VALUE: f"the value is longer than the 1,024 characters that {destination} accepts,"
        " so no value is sent",
        RowFault.UNFIT_VALUE: "the value does not fit the declared type or is not exact as JSON, so no value is sent",
        RowFault.UNREADABLE_VALUE: "the database driver cannot represent a value that the definition uses",
    }[reason]
