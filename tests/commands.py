"""Commands as processes of their own, forked from one that has imported the program already.

To import it takes a second of processor time, and the tests start it hundreds of times. All else is as if it had been
started from a shell: arguments, environment, standard streams, signals and exit code. Tests of the start itself start
the interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from audience_sync.cli.commands import COMMANDS

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "audience_sync.cli.main",
        *sorted({f"audience_sync.cli.{listed.module}" for listed in COMMANDS.values()}),
        "audience_sync.checking.looking",
        "audience_sync.daemon",
        "tests.commands",
        "httpcore",
        "httpx",
        "psycopg",
    ]
)


class Command:
    """A command that runs, with what it says in two files."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], *, out: Path, err: Path) -> None:
        self._process = FORKS.Process(target=_run, args=(list(words), dict(environment), str(out), str(err)))
        self._process.start()

    def poll(self) -> int | None:
        """Return its exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Wait for its end and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process), seconds or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.send_signal(signal.SIGKILL)


def _run(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    from audience_sync.__main__ import main  # noqa: PLC0415 - the process that forks has imported it

    for number, path in enumerate((os.devnull, out, err)):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["audience-sync", *words]
    main()
