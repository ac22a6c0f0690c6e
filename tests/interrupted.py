"""A process that does one piece of work on an audience after another, each in a child of its own that may be killed.

Run as ``python -m tests.interrupted``. Each line of standard input is a piece of work in JSON: the database's url, the
configuration, what to do, and the point at which to die; each line of output is how the child ended, as
`os.waitstatus_to_exitcode` has it. Children are forked, because starting the interpreter takes longer than the work.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.errors import LeaseHeld
from audience_sync.kill_points import KILL_VARIABLE, killer
from audience_sync.store import holders
from audience_sync.store.database import connect
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, approve, retract, sync
from audience_sync.tuning import DEFAULT_TUNING

TUNING = replace(DEFAULT_TUNING, changes_per_commit=50)  # so that a small audience has many commits
PATIENCE = 15.0  # seconds until the database has noticed that a killed child is gone


def perform(work: dict[str, str]) -> None:
    """Do one piece of work, and die in the middle of it if it says so."""
    settings = load(Path(work["config"]), {})
    audience = settings.audiences[0]
    with closing(connect(work["url"], tuning=TUNING)) as database, closing(holders.enter(database)) as holder:
        reach = killer({KILL_VARIABLE: work.get("kill", "")})
        workspace = Workspace(database=database, holder=holder, clock=Clock(), reach=reach)
        match work["action"]:
            case "approve":
                approve(workspace, int(work["run"]))
            case "retract":
                retract(workspace, audience.key)
            case action:
                sync(workspace, Job(settings=settings, audience=audience, resync=action == "resync"))


def child(work: dict[str, str]) -> int:
    """Do one piece of work and return an exit code, waiting while the lease of a killed child is still in force."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            perform(work)
        except LeaseHeld:
            if time.monotonic() > deadline:
                return 5
            time.sleep(0.02)
        except BaseException:  # noqa: BLE001 - the parent is told by the exit code
            traceback.print_exc()
            return 1
        else:
            return 0


def hold_lease(url: str, answer: Connection) -> None:
    """Hold the lease of audience 1 for an hour, and say so; a process is killed while it does."""
    database = connect(url)
    held = Workspace(database=database, holder=holders.enter(database), clock=Clock()).hold([1], seconds=3600)
    answer.send("held" if held else "refused")
    time.sleep(3600)


def main() -> None:
    """Do what standard input says, line by line."""
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            code = child(json.loads(line))
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
