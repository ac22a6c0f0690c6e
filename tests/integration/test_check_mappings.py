"""`check` names every configuration that would silently send nothing, or something else than one may think."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audience_sync.checks import check_mappings
from audience_sync.checks.finding import Finding
from audience_sync.config import load
from audience_sync.core.model import Severity
from audience_sync.manual.manual_pages import manual_pages
from tests.factories import config_text

IDENTIFY = """
[[mappings]]
name = "Ours"
action = "identifyUser"
"""
TRAITS = """
[mappings.fields]
user_traits = { "@path" = "$.traits" }
"""
TRACK = """
[[mappings]]
name = "Ours"
action = "trackEvent"
trigger = 'type = "identify"'
[mappings.fields]
event_name = "Changed"
"""

BY_USER = """user_keys = { userId = { "@path" = "$.userId" } }
"""


def findings(folder: Path, text: str) -> list[Finding]:
    """Return what is found of a configuration with the audience `vip` and these mappings."""
    path = folder / "config.toml"
    path.write_text(config_text(name="VIP", more=text))
    return list(check_mappings.look(load(path, {}), None))


def trigger(text: str) -> str:
    """Return a mapping that carries the audience, if its trigger matches."""
    return f"{IDENTIFY}trigger = '''{text}'''\n{TRAITS}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (IDENTIFY, "no enabled mapping sends its value"),
        (IDENTIFY + "enabled = false\n" + TRAITS, "no enabled mapping has a trigger that matches it"),
        (trigger("traits.vip = true"), "users who exit keep the trait"),
        (trigger("traits.vip = false"), "the trait is never set"),
        (
            trigger('context.change in ["entered", "exited"]'),
            "a change with the value updated or resent makes no event",
        ),
        (trigger('type = "track" and event = "Audience Entered"'), "no enabled mapping has a trigger that matches it"),
        (trigger('context.personas.computation_key = "VIP"'), "no enabled mapping has a trigger that matches it"),
        (trigger('context.personas.computation_class = "trait"'), "no enabled mapping has a trigger that matches it"),
        (IDENTIFY + "[mappings.fields]\nuser_traits = { vip = true }\n", "Schematic cannot tell entries from exits"),
        (
            IDENTIFY + TRAITS + 'user_keys = { email = { "@path" = "$.traits.email" } }\n',
            "mapping 'Ours': identifyUser needs at least one key with a value in user_keys",
        ),
        (
            TRACK.replace('"Changed"', '{ "@path" = "$.event" }'),
            "mapping 'Ours': the field event_name is missing",
        ),
        (
            IDENTIFY + TRAITS + 'timestamp = "soon"\n',
            "mapping 'Ours': the field timestamp is text, but must be ISO 8601",
        ),
        (TRACK, "mapping 'Ours': the track event has no user and no company"),
        (IDENTIFY + TRAITS + 'user_keys = { userId = "everybody" }\n', "all members would be the same user"),
        (
            IDENTIFY + TRAITS + 'user_keys = { email = { "@path" = "$.traits.vip" } }\n',
            "all members would be the same user",
        ),
        (
            IDENTIFY + '[mappings.fields]\nuser_traits = { vip = true, last = { "@path" = "$.traits.vip" } }\n',
            "users who exit keep the trait",
        ),
        (
            trigger("traits.vip = true") + TRACK.replace("Ours", "Other") + BY_USER,
            "no enabled mapping sends its value",
        ),
    ],
)
def test_sends_nothing(tmp_path: Path, text: str, says: str) -> None:
    """An audience whose members would never be known to Schematic is an error, exits as much as entries."""
    errors = [found for found in findings(tmp_path, text) if found.state is Severity.ERROR]

    assert [(found.subject, found.exit_code) for found in errors] == [("vip", 2)], errors
    assert says in errors[0].message
    assert errors[0].remedy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            IDENTIFY
            + TRAITS
            + 'user_keys = { userId = { "@path" = "$.userId" }, email = { "@path" = "$.traits.email" } }\n',
            "user_keys reads $.traits.email, but audience changes do not have that field",
        ),
        (
            TRACK + 'traits = { "@path" = "$.traits" }\nuser_keys = { userId = { "@path" = "$.userId" } }\n',
            "is sent only as track events",
        ),
        (
            IDENTIFY
            + TRAITS
            + TRACK.replace("Ours", "Other").replace('type = "identify"', 'event = "Audience Entered"'),
            "does not match any audience change",
        ),
        (
            IDENTIFY + '[mappings.fields]\nuser_traits = { is_vip = { "@path" = "$.traits.vip" } }\n',
            "is not sent under its own name, but as the traits is_vip",
        ),
    ],
)
def test_sends_something_else(tmp_path: Path, text: str, says: str) -> None:
    """What works, but not as one may think, is a warning that says how."""
    found = findings(tmp_path, text)

    assert [one for one in found if one.state is Severity.ERROR] == []
    warnings = [one for one in found if one.state is Severity.WARNING]
    assert len(warnings) == 1, warnings
    assert says in warnings[0].message
    assert warnings[0].remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        trigger('context.personas.computation_class = "audience"'),
        trigger('context.personas.computation_class in ["audience", "trait"]'),
        trigger('type = "identify" and context.personas.computation_class in ["audience", "trait"]'),
        trigger('type in ["identify", "group"]'),
        trigger("exists(context.personas)"),
        trigger("type = 'identify'"),  # Segment's parser reads this otherwise, as the manual says
        trigger('not type = "track"'),
    ],
)
def test_nothing_to_say(tmp_path: Path, text: str) -> None:
    """The presets, and a mapping as it should be, are well."""
    assert {found.state for found in findings(tmp_path, text)} == {Severity.OK}


INGEST = '[ingest]\nlisten = "127.0.0.1:8080"\nwrite_keys = ["${SEGMENT_WRITE_KEY}"]\n'


@pytest.mark.parametrize(
    "text",
    [
        TRACK.replace("Ours", "Orders").replace('type = "identify"', 'type = "track" and event = "Order Completed"')
        + BY_USER,
        IDENTIFY.replace("Ours", "People")
        + "trigger = 'type = \"identify\" and context.personas = null'\n[mappings.fields]\n"
        + 'user_traits = { plan = { "@path" = "$.traits.plan" } }\n',
        IDENTIFY.replace("Ours", "All") + TRAITS + 'user_keys = { userId = { "@path" = "$.userId" },'
        ' email = { "@path" = "$.traits.email" } }\n',
    ],
    ids=["track", "people", "everybody"],
)
def test_a_mapping_that_ingest_uses_is_well(tmp_path: Path, text: str) -> None:
    """What an application sends may have any event and any key: a mapping for it is not called useless."""
    ours = trigger('context.personas.computation_class in ["audience", "trait"]')

    assert {one.state for one in findings(tmp_path, INGEST + ours + text)} == {Severity.OK}


@pytest.mark.parametrize("wanted", ['type = "track" and event = "Order Completed"', 'type in ["page", "screen"]'])
def test_a_mapping_for_forward_alone_is_well(tmp_path: Path, wanted: str) -> None:
    """A trigger that names a type which no audience change has is not called useless, and the finding says so."""
    text = TRACK.replace("Ours", "Orders").replace('type = "identify"', wanted) + BY_USER
    ours = trigger('context.personas.computation_class in ["audience", "trait"]')
    found = findings(tmp_path, ours + text)

    assert {one.state for one in found} == {Severity.OK}
    assert [one.message for one in found if one.subject == "Orders"] == [
        f"runs trackEvent only for forwarded events that match {wanted}"
    ]


def test_a_mapping_for_changes_alone_is_checked_with_ingest_too(tmp_path: Path) -> None:
    """A trigger that only changes can match is not for an application: a key that no change has is a mistake."""
    text = trigger('context.personas.computation_class = "audience"').replace(
        TRAITS, TRAITS + 'user_keys = { userId = { "@path" = "$.userId" }, email = { "@path" = "$.traits.email" } }\n'
    )
    (warned,) = [one for one in findings(tmp_path, INGEST + text) if one.state is Severity.WARNING]

    assert warned.message == "user_keys reads $.traits.email, but audience changes do not have that field"


def test_an_environment_that_is_not_known_yet_is_no_error(tmp_path: Path) -> None:
    """Before the first delivery nobody can say whether a trigger on the space matches."""
    assert {found.state for found in findings(tmp_path, trigger('context.personas.space_id = "env_1"'))} == {
        Severity.OK
    }


def test_the_example_of_the_manual_has_no_findings(tmp_path: Path) -> None:
    """The example in the manual works without changes, and `check` has no warning about it."""
    (example,) = re.findall(r"```toml\n(.*?)```", manual_pages()["mappings"].text(), re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(
        "[sources.shop]\nurl = 'sqlite:///shop.db'\n[[audiences]]\nname = 'VIP'\nsql = 'SELECT 1'\n"
        f"user_keys = {{ userId = 'user_id', email = 'email' }}\n{example}"
    )

    found = list(check_mappings.look(load(path, {}), None))

    assert [one for one in found if one.state is not Severity.OK] == []


def test_an_audience_called_name_is_refused(tmp_path: Path) -> None:
    """The presets take `$.traits.name` for the name of the user: an audience of that key would rename people."""
    path = tmp_path / "config.toml"
    path.write_text(config_text(name="Name"))

    errors = [one for one in check_mappings.look(load(path, {}), None) if one.state is Severity.ERROR]

    assert ['named "true" and "false"' in one.message for one in errors] == [True]
