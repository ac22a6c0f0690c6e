"""`check` says whether `run` will take events, and who could listen in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from audience_sync.checks import check_tracking_api
from audience_sync.checks.finding import Finding
from audience_sync.config import load
from audience_sync.core.model import Severity
from audience_sync.extras import EXTRAS, install_command
from tests.factories import config_text

KEYS = {"SEGMENT_WRITE_KEY": "wk_of_the_shop"}


NAMED = """
[[mappings]]
name = "Audiences"
trigger = 'context.personas.computation_class = "audience"'
action = "identifyUser"
[mappings.fields]
user_traits = { "@path" = "$.traits" }
[[mappings]]
name = "People"
trigger = 'type = "identify" and context.personas = null'
action = "identifyUser"
[mappings.fields]
user_traits = { plan = { "@path" = "$.traits.plan" } }
"""


def findings(folder: Path, text: str, environ: dict[str, str], *, mappings: str = NAMED) -> list[Finding]:
    """Return what is found of a configuration with this [ingest]."""
    path = folder / "config.toml"
    path.write_text(config_text(more=f'[ingest]\nwrite_keys = ["${{SEGMENT_WRITE_KEY}}"]\n{text}\n{mappings}'))
    return list(check_tracking_api.look(load(path, {}), environ))


def test_nothing_is_said_where_nothing_listens(tmp_path: Path) -> None:
    """Without `listen` neither key nor library is asked for."""
    assert findings(tmp_path, "", {}) == []


def test_api_that_is_well(tmp_path: Path) -> None:
    """With a key and on loopback all is well, and the address is told."""
    (found,) = findings(tmp_path, 'listen = "127.0.0.1:8080"', KEYS)

    assert (found.state, found.subject) == (Severity.OK, "127.0.0.1:8080")
    assert found.message == "`run` accepts events here, authenticated with 1 write key"


def test_key_that_is_missing(tmp_path: Path) -> None:
    """A write key that is nowhere is an error of the configuration, with both remedies."""
    (found,) = findings(tmp_path, 'listen = "127.0.0.1:8080"', {})

    assert (found.state, found.exit_code) == (Severity.ERROR, 2)
    assert "`SEGMENT_WRITE_KEY` is not set as an environment variable or a systemd credential" in found.message
    assert "LoadCredential=SEGMENT_WRITE_KEY:" in (found.remedy or "")


def test_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command that installs it is told."""

    def spec_of(name: str) -> object:
        return None if name == "uvicorn" else find_spec(name)

    monkeypatch.setattr("audience_sync.tracking_api.listener.find_spec", spec_of)
    (found,) = findings(tmp_path, 'listen = "127.0.0.1:8080"', KEYS)

    assert (found.state, found.exit_code) == (Severity.ERROR, 2)
    assert found.message == "ingest.listen needs uvicorn, which is not installed"
    assert found.remedy == install_command(EXTRAS["ingest"])


def test_address_that_others_reach(tmp_path: Path) -> None:
    """What is allowed to be remote is warned of: nothing on the way is encrypted."""
    fine, warned = findings(tmp_path, 'listen = "0.0.0.0:8080"\nallow_remote = true', KEYS)

    assert (fine.state, warned.state) == (Severity.OK, Severity.WARNING)
    assert "unencrypted" in warned.message
    assert "TLS" in (warned.remedy or "")


def test_a_sender_who_could_make_members(tmp_path: Path) -> None:
    """Where an application's identify carries the trait of an audience through, that is told: it may gate a plan."""
    _, found = findings(tmp_path, 'listen = "127.0.0.1:8080"', KEYS, mappings="")

    assert found.state is Severity.WARNING
    assert (
        "accepts identify calls from any sender with a write key, and these can overwrite the trait " in found.message
    )
    assert 'computation_class in ["audience", "trait"]' in (found.remedy or "")
