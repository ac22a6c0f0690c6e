"""Files that others could open: none is made, whatever the umask, and commands say which there are."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.running import KILLED, ON_ONE_DATABASE, Place, customers, open_place, until
from tests.factories import AUDIENCE_KEY

pytestmark = ON_ONE_DATABASE

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of three customers whose commands leave temporary files beside it; nothing is private by the umask."""
    (tmp_path / "tmp").mkdir()
    before = os.umask(0)
    try:
        with open_place(tmp_path, database_url) as opened:
            opened.environment["TMPDIR"] = str(tmp_path / "tmp")
            opened.shop.set_orders(customers(range(3)).items())
            opened.configure()
            (tmp_path / "config.toml").chmod(0o640)
            yield opened
    finally:
        os.umask(before)


def files(folder: Path) -> dict[Path, int]:
    """Return what is in a folder and below, with its permissions."""
    return {path: path.stat().st_mode for path in folder.rglob("*")}


def test_nothing_that_is_made_can_be_opened_by_others(place: Place) -> None:
    """Configuration, database, what lies beside it, locks and temporary files are the owner's alone, killed or not."""
    new = place.folder / "new"
    (new / "deep").mkdir(parents=True)
    database = f"sqlite:///{new / 'deep' / 'own.db'}"
    before = files(place.folder)
    assert place.command("--config", str(new / "other.toml"), "init").code == 0
    place.configure(url=database)
    assert place.command("init").code == 0
    assert place.command("sync", kill="deliver.posted:1").code == KILLED
    with place.running("run") as daemon:
        until(lambda: (new / "deep" / "own.db-wal").exists() and "daemon_started" in daemon.said)
        made = {path: mode for path, mode in files(place.folder).items() if path not in before}
        daemon.end(signal.SIGTERM)
    made |= {path: mode for path, mode in files(place.folder).items() if path not in before}
    ours = {path: mode for path, mode in made.items() if path.suffix != ".txt"}  # what the tests listen to

    assert {path.name for path in ours} > {"other.toml", "own.db", "own.db-wal", "own.db-shm", "own.db-holders"}
    assert {str(path): oct(mode) for path, mode in ours.items() if mode & OTHERS} == {}


@pytest.mark.parametrize("command", ["check", "sync", "run"])
def test_files_that_others_can_open_are_named_with_the_remedy(place: Place, command: str) -> None:
    """A database, a key, and a configuration with a password in it are warned of, before anything is sent."""
    key = place.folder / "the key"
    key.write_text(place.key)
    key.chmod(0o644)
    place.configure(audience={"source": "shop"})
    path = place.folder / "config.toml"
    text = path.read_text().replace("[schematic]\n", f'[schematic]\napi_key_file = "{key}"\n')
    path.write_text(f"{text}\n[sources.other]\nurl = 'postgresql+psycopg://u:hunter2@127.0.0.1:9/d'\n")
    path.chmod(0o664)
    database = Path(place.database_url.removeprefix("sqlite:///"))
    beside = database.with_name(f"{database.name}-wal")
    for file in (database, beside):
        file.touch()
        file.chmod(0o640)
    if command == "run":
        with place.running("run") as daemon:
            daemon.wait_for("daemon_started")
            ended = daemon.end(signal.SIGTERM)
    else:
        place.sandbox.keys.revoke(place.key)
        ended = place.command(command)
    said = " ".join((ended.err if command != "check" else ended.out).split())

    for file, why, remedy in (
        (path, "is writable by other users (mode 664)", f"chmod go-w {path}"),
        (path, "is readable by every user (mode 664) and contains a password", f"chmod 640 {path}"),
        (key, "contains the API key and is accessible to other users (mode 644)", f"chmod 600 '{key}'"),
        (database, "contains memberships and is accessible to other users (mode 640)", f"chmod 600 {database}"),
        (beside, "contains memberships and is accessible to other users (mode 640)", f"chmod 600 {beside}"),
    ):
        about = said.partition(f"{file}: {why}" if command == "check" else f"{file} {why}")
        assert about[1], (file, said)
        assert remedy in about[2]
    assert "hunter2" not in ended.out + ended.err


@pytest.mark.parametrize("command", ["check", "sync"])
def test_a_private_place_is_not_warned_of(place: Place, command: str) -> None:
    """A configuration without secrets may be read by all, and a key by the group of the service."""
    key = place.folder / "key"
    key.write_text(place.key)
    key.chmod(0o640)
    path = place.folder / "config.toml"
    path.write_text(path.read_text().replace("[schematic]\n", f'[schematic]\napi_key_file = "{key}"\n'))
    path.chmod(0o644)
    ended = place.command(command)

    assert ended.code == 0
    assert "(mode " not in ended.out + ended.err
    assert place.members(AUDIENCE_KEY).keys() == ({"u0", "u1", "u2"} if command == "sync" else set())
