"""A configuration that is read again: what is different, what holds from now on, and what needs a restart."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from audience_sync.config import Settings, load
from audience_sync.daemon.service import Reload, read_again
from audience_sync.errors import ConfigError
from tests.factories import config_text

KEY = SecretStr("sch_one")
ENVIRON = {"SCHEMATIC_API_KEY": "sch_one", "SEGMENT_WRITE_KEY": "w", "SHOP_PASSWORD": "secret-1"}
SECOND = '[[audiences]]\nname = "Second"\nsql = "SELECT 1 AS user_id"\n'
MAPPING = """
[[mappings]]
name = "Identify"
action = "identifyUser"
[mappings.fields]
user_keys = { userId = { "@path" = "$.userId" } }
"""


class File:
    """A configuration file that a daemon has read, and that changes under it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()
        self.old = load(path, ENVIRON)

    def write(self, more: str = "", **wanted: object) -> None:
        """Write the file anew; see `factories.config_text`."""
        self.path.write_text(config_text(more=more, **wanted))  # type: ignore[arg-type]  # its keywords

    def again(self, environ: dict[str, str] | None = None) -> Reload:
        """Read it again."""
        return read_again(self.old, KEY, environ or ENVIRON)


@pytest.fixture
def file(tmp_path: Path) -> File:
    """A file with one audience."""
    return File(tmp_path / "config.toml")


def test_nothing_changed(file: File) -> None:
    """A reload of the same file says that nothing is different."""
    found = file.again()

    assert found == Reload(settings=file.old, key=KEY, added=(), removed=(), changed=(), other=(), needs_restart=())


def test_a_file_that_lost_all_audiences_is_refused(file: File) -> None:
    """An editor that empties a file before it writes it does not take every audience out of the schedule."""
    file.path.write_text("")

    with pytest.raises(ConfigError, match="no longer has any audiences or computed traits"):
        file.again()


def test_a_pipe_is_not_waited_for(file: File) -> None:
    """`--config <(decrypt config.toml)` is a pipe, which a reload would wait for for ever."""
    file.path.unlink()
    os.mkfifo(file.path)

    with pytest.raises(ConfigError, match="is not a file") as refused:
        file.again()

    assert refused.value.hint == "restore the file; a pipe can only be read at startup"


def test_audiences_are_named_by_key(file: File) -> None:
    """Audiences and computed traits that came, went, or differ in anything: definition, schedule or guard."""
    file.write(SECOND)
    assert file.again().added == ("second",)

    file.old = file.again().settings
    file.write(SECOND.replace("Second", "Third"), audience={"send_updates": False})
    found = file.again()

    assert (found.added, found.removed, found.changed) == (
        ("third",),
        ("second",),
        ("order_completed_last_30days",),
    )
    assert found.other == found.needs_restart == ()


@pytest.mark.parametrize(
    ("more", "other"),
    [
        ('[delivery]\nmax_backoff = "1m"\nconcurrency = 2', ("delivery.concurrency", "delivery.max_backoff")),
        ('[retention]\nchanges = "10d"', ("retention.changes",)),
        ('[schematic]\ncapture_url = "http://localhost:1"', ("schematic.capture_url",)),
        ('[sources.other]\nurl = "sqlite:///other.db"', ("sources.other",)),
        (MAPPING, ("mappings",)),
    ],
)
def test_other_settings_hold_from_now_on(file: File, more: str, other: tuple[str, ...]) -> None:
    """Rates, retention, the destination, sources and mappings are in force at once."""
    file.write(more, audience={"source": "shop"})
    found = file.again()

    assert (tuple(sorted(found.other)), found.changed) == (other, ())
    assert found.needs_restart == ()
    assert found.settings == load(file.path, ENVIRON)


@pytest.mark.parametrize(
    ("more", "needs_restart", "in_force"),
    [
        ('[database]\nurl = "sqlite:///else.db"', ("database.url",), lambda settings: settings.database),
        ('[schematic]\nenvironment = "prod"', ("schematic.environment",), lambda settings: settings.schematic),
        (
            '[ingest]\nlisten = "127.0.0.1:9000"\nwrite_keys = ["${SEGMENT_WRITE_KEY}"]',
            ("ingest.listen", "ingest.write_keys"),
            lambda settings: settings.ingest,
        ),
    ],
)
def test_what_needs_a_restart_stays_as_it_was(
    file: File, more: str, needs_restart: tuple[str, ...], in_force: Callable[[Settings], object]
) -> None:
    """It is named at every reload, and everything else in the file holds."""
    file.write(more + '\n[retention]\nchanges = "10d"')
    for _ in range(2):
        found = file.again()
        assert found.needs_restart == needs_restart
        assert in_force(found.settings) == in_force(file.old)
        assert found.settings.retention.changes == timedelta(days=10)
        file.old = found.settings


def test_a_key_from_a_file_is_read_again(file: File, tmp_path: Path) -> None:
    """A rotated key takes effect; neither its name nor its value is among what changed but as `the API key`."""
    (tmp_path / "key").write_text("sch_two\n")
    file.write('[schematic]\napi_key_file = "key"')
    found = file.again()

    assert found.key.get_secret_value() == "sch_two"
    assert found.other == ("schematic.api_key_file", "the API key")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            '[delivery]\nmax_backoff = "soon"\n[schedule]\ncron = "0 0 * * 1"',
            [
                "config.toml has 2 problems:",
                '  delivery.max_backoff: must be a duration such as "30s", "15m", "2h" or "400d"',
                (
                    "  schedule.cron: must use weekday names, as in `mon-fri` or `sat,sun`, because"
                    " cron implementations number them differently"
                ),
            ],
        ),
        (
            '[schematic]\napi_key_file = "missing"',
            ["cannot read the Schematic API key from missing: No such file or directory"],
        ),
    ],
)
def test_a_file_that_is_not_valid_is_refused_whole(file: File, more: str, message: list[str]) -> None:
    """Every problem is named, as at a start."""
    file.write(more)
    with pytest.raises(ConfigError) as refused:
        file.again()

    said = str(refused.value).replace(f"{file.path.parent}/", "")
    assert [line for line in message if line not in re.sub(r"(?m)^  line \d+: ", "  ", said)] == []


def test_another_identity_is_refused(file: File) -> None:
    """Every audience's keys rest on it, and the database knows people by it."""
    file.write(identity="email")
    with pytest.raises(ConfigError) as refused:
        file.again()

    assert str(refused.value) == "identity: the membership database uses 'userId', but the configuration has 'email'"
    assert refused.value.hint == ('set identity = "userId"; for a new identity, set a new [database] url and restart')
