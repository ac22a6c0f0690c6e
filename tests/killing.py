"""Commands that die at an instant drawn by lot, and the trail that an undisturbed one leaves to draw from.

An instant is a moment after the start, or the n-th time that a point is reached: a named one (`kill_points`), a
statement on any database, a commit that writes, or such a commit of one place in the program: what happens once in a
command is drawn as often as what happens a hundred times. A command is forked from a process that has imported the
program, and works in small commits, so that a small audience has many of them.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

import sqlalchemy as sa

from audience_sync import kill_points, runtime
from audience_sync.kill_points import KILL_VARIABLE
from audience_sync.store import database
from audience_sync.tuning import DEFAULT_TUNING
from tests import commands

DEADLINE = 120.0  # seconds; a command that takes longer on a busy machine hangs
TRAIL_VARIABLE = "TRAIL"  # where a command is to write which points it reaches
STATEMENT, COMMIT, PLACE = "sql.statement", "sql.commit", "commit@"  # reached before it; PLACE goes on with where

TUNING = replace(DEFAULT_TUNING, changes_per_commit=10)
SMALL: Mapping[str, Mapping[str, float]] = {
    "audience_sync.tracking_api.event_files": {"PIECE": 15, "LONGEST": 0.02, "PATIENCE": 0.05},
    "audience_sync.cli.sync_commands": {"LEASE_POLL_INTERVAL": 0.05},
}
"""What makes commits small, and waits short; a name that is not there any more ends the command."""


class Reached(NamedTuple):
    """A point that was reached, so many seconds after the start."""

    seconds: float
    point: str


class Kill(NamedTuple):
    """When a command dies: when it reaches a point for the n-th time, or some seconds after the start."""

    seconds: float = DEADLINE
    point: str | None = None
    turn: int = 0

    def __str__(self) -> str:
        """Say it in a word: `0.25`, or `sync.committed:3`."""
        return f"{self.seconds:.3f}" if self.point is None else f"{self.point}:{self.turn}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the kill that a word says."""
        point, _, turn = text.rpartition(":")
        return cls(point=point, turn=int(turn)) if point else cls(seconds=float(text))


class Ended(NamedTuple):
    """How a command ended and what it said."""

    code: int
    said: str


def draw(dice: random.Random, trail: Sequence[Reached]) -> Kill:
    """Return an instant in the life of a command that leaves such a trail: a moment, a named point, or a statement."""
    counts = Counter(step.point for step in trail)
    places = sorted(point for point in counts if point.startswith(PLACE))
    of_sql = [[point] for point in (STATEMENT, COMMIT) if point in counts]
    named = sorted(counts.keys() - {STATEMENT, COMMIT, *places})
    points = dice.choice([[], *filter(None, [named, places, *of_sql])])
    if not points:
        return Kill(seconds=dice.uniform(trail[0].seconds, trail[-1].seconds))
    point = dice.choice(points)
    return Kill(point=point, turn=dice.randint(1, counts[point]))


def perform(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    kill: Kill | None = None,
    trail: list[Reached] | None = None,
) -> Ended:
    """Run a command in `folder` to its end, killed at an instant if one is given; put what it reaches into `trail`."""
    out, err, reached = paths = [folder / f"{kind}-{uuid4().hex}.txt" for kind in ("out", "err", "reached")]
    for path in paths:
        path.touch()
    told = dict(environment)
    if trail is not None:
        told[TRAIL_VARIABLE] = str(reached)
    if kill is not None and kill.point is not None:
        told[KILL_VARIABLE] = str(kill)
    process = commands.FORKS.Process(
        target=_run, args=(["--config", str(folder / "config.toml"), *words], told, out, err)
    )
    began = time.monotonic()
    process.start()
    process.join(DEADLINE if kill is None else kill.seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        assert kill is not None, f"{words} did not end: {err.read_text()}"
        assert kill.point is None, f"{words} neither died at {kill} nor ended: {err.read_text()}"
    if trail is not None:
        lines = map(str.split, reached.read_text().splitlines())
        trail += [Reached(float(at) - began, point) for at, point in lines]
    code = process.exitcode
    process.close()
    assert code is not None
    return Ended(code, out.read_text() + err.read_text())


def _run(words: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """Be the command, with a witness at every point."""
    runtime.TUNING = TUNING
    for name, values in SMALL.items():
        module = importlib.import_module(name)
        for constant, value in values.items():
            assert hasattr(module, constant), f"{name}.{constant} is gone"
            setattr(module, constant, value)
    trail = environment.pop(TRAIL_VARIABLE, None)
    reach = kill_points.killer(environment) if trail is None else _recorder(trail)
    kill_points.killer = lambda environ: reach  # noqa: ARG005 - one count of every point, however many ask for it
    sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: reach(STATEMENT))
    sa.event.listen(sa.Engine, "commit", partial(_committing, reach))
    commands._run(words, environment, [os.devnull, str(out), str(err)], str(out.parent))


def _committing(reach: Callable[[str], None], connection: sa.Connection) -> None:
    """Reach the points of a commit, if it writes."""
    if connection.get_execution_options().get(database.WRITE_OPTION):
        reach(COMMIT)
        reach(PLACE + _place())


def _place() -> str:
    """Return the line of the program that the database was last called from."""
    frame = sys._getframe()
    while frame.f_back and not (
        (name := frame.f_globals["__name__"]).startswith("audience_sync.") and name != database.__name__
    ):
        frame = frame.f_back
    return f"{frame.f_globals['__name__']}.{frame.f_code.co_name}/{frame.f_lineno}"


def _recorder(path: str) -> Callable[[str], None]:
    """Return what writes down every point that is reached, and when."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def reach(point: str) -> None:
        os.write(file, f"{time.monotonic()} {point}\n".encode())

    return reach
