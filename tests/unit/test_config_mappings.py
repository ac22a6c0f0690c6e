"""`[[mappings]]` of the file: what is wrong is named with its path, and what is left out is the preset's."""

from __future__ import annotations

from pathlib import Path

import pytest

from audience_sync.config import Settings, load
from audience_sync.destinations.mappings import MOST_MAPPINGS
from audience_sync.destinations.schematic.schematic_actions import IDENTIFY_USER
from audience_sync.errors import ConfigError
from tests.places import without_place

ONE = """[[mappings]]
name = "One"
action = "identifyUser"
"""


def settings(folder: Path, text: str) -> Settings:
    """Return the settings of a file."""
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, {})


def problems(folder: Path, text: str) -> list[str]:
    """Return the lines of the refusal, without the first."""
    with pytest.raises(ConfigError) as caught:
        settings(folder, text)
    return [without_place(line.strip()) for line in str(caught.value).splitlines()[1:]]


def test_without_any_the_presets_serve(tmp_path: Path) -> None:
    """Identify User carries the traits, or no audience would ever reach Schematic."""
    identify, track = settings(tmp_path, "").mappings

    assert (identify.name, identify.action.name, identify.trigger) == (
        "Identify User",
        "identifyUser",
        'type = "identify"',
    )
    assert (track.name, track.action.name, track.trigger) == ("Track Event", "trackEvent", 'type = "track"')
    assert identify.fields["user_traits"] == {"@path": "$.traits"}


def test_what_is_left_out(tmp_path: Path) -> None:
    """A required field that a mapping leaves out is the preset's; what else it leaves out is not sent."""
    (one,) = settings(tmp_path, ONE + "[mappings.fields]\nuser_name = 'Ada'\n").mappings
    preset = IDENTIFY_USER.preset_fields

    assert one.fields == {
        "user_name": "Ada",
        **{name: preset[name] for name in ("company_keys", "timestamp", "user_keys")},
    }
    assert (one.trigger, one.enabled) == ('type = "identify"', True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE.replace("identifyUser", "identify"), "mappings[0].action: must be one of `identifyUser`, `trackEvent`"),
        (ONE.replace('name = "One"\n', ""), "mappings[0].name: missing"),
        (ONE + "[mappings.fields]\nuser_trait = 1\n", "mappings[0].fields.user_trait: unknown field of identifyUser"),
        (
            ONE + "[mappings.fields]\nuser_traits = 'x'\n",
            'mappings[0].fields.user_traits: must be a table, or a directive such as { "@path" = "$.traits" }',
        ),
        (
            ONE + "[mappings.fields]\nuser_name = { first = 'x' }\n",
            'mappings[0].fields.user_name: must be text, or a directive such as { "@path" = "$.traits.name" }',
        ),
        (
            ONE + "[mappings.fields]\nuser_keys = { userId = { '@pth' = '$.userId' } }\n",
            "mappings[0].fields.user_keys.userId",
        ),
        (
            ONE + "[mappings.fields]\ncompany_traits = { since = 2026-01-01 }\n",
            "mappings[0].fields.company_traits.since",
        ),
        (ONE + "trigger = 'type = '\n", "mappings[0].trigger: "),
        (ONE + "trigger = ''\n", "mappings[0].trigger: "),
        (ONE + "trigger = 5\n", "mappings[0].trigger: must be text in quotes"),
        (ONE + "triggers = 'x'\n", "mappings[0].triggers: unknown setting (did you mean `trigger`?)"),
        (ONE + ONE, "mappings[1].name: is also the name of mappings[0]"),
        (
            "".join(ONE.replace("One", str(n)) for n in range(MOST_MAPPINGS + 1)),
            "mappings: must have at most 50 entries, as in Segment, but has 51",
        ),
        (
            "[mappings]\nname = 'x'\n",
            "mappings: must be a list of tables: start each table with [[mappings]]",
        ),
    ],
)
def test_problem_has_its_path(tmp_path: Path, text: str, expected: str) -> None:
    """Each fault is one line that begins with its place."""
    found = problems(tmp_path, text)

    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Faults of triggers, fields and of the rest of the file stand together."""
    text = "[delivery]\nbatch_size = 0\n" + ONE + "trigger = 'typ = 1'\n[mappings.fields]\nuser_keys = 'x'\n"

    assert [line.partition(":")[0] for line in problems(tmp_path, text)] == [
        "delivery.batch_size",
        "mappings[0].trigger",
        "mappings[0].fields.user_keys",
    ]


def test_fifty_are_allowed(tmp_path: Path) -> None:
    """The limit is Segment's, not one less."""
    text = "".join(ONE.replace("One", str(n)) for n in range(MOST_MAPPINGS))

    assert len(settings(tmp_path, text).mappings) == MOST_MAPPINGS
