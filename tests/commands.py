"""Run commands of the program: in this process, or in a process forked from one that has imported the program.

Both call the entry point of the installed script, with arguments, environment, standard streams and exit code as if a
shell had started it. A command that gets a signal or is killed needs a process. Tests of the start itself start the
interpreter.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import structlog

from audience_sync.cli.main import COMMANDS

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "audience_sync.cli.main",
        *sorted({f"audience_sync.cli.{listed.module}" for listed in COMMANDS.values()}),
        "audience_sync.checks.check_all",
        "audience_sync.daemon",
        "tests.commands",
        "tests.interrupted",
        "httpcore",
        "httpx",
        "psycopg",
    ]
)


THREAD_GRACE = 10.0  # seconds in which a thread of a server ends once its client is gone


class Command:
    """A command in a process of its own; its output goes to two files."""

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        out: Path,
        err: Path,
        stdin: Path = Path(os.devnull),
        folder: Path | None = None,
    ) -> None:
        streams = [str(path) for path in (stdin, out, err)]
        arguments = (list(words), dict(environment), streams, str(folder or Path.cwd()))
        self._process = FORKS.Process(target=self.target(), args=arguments)
        self._process.start()

    @staticmethod
    def target() -> Callable[[list[str], dict[str, str], Sequence[str], str], None]:
        """Return the function that the process runs."""
        return _run

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

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


def _threads() -> set[threading.Thread]:
    """Return the threads of this process, without those in which the sandbox of a test answers other processes."""
    return {thread for thread in threading.enumerate() if "(process_request_thread)" not in thread.name}


class Finished(NamedTuple):
    """The exit code of a command and its output."""

    code: int
    out: str
    err: str


def call(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    stdin: bytes = b"",
    is_alone: bool = True,
) -> Finished:
    """Run a command in this process, in a folder if one is given.

    Where it `is_alone`, every thread that begins meanwhile is its own. Next to a daemon nobody can tell.

    Raises:
        AssertionError: it left a thread behind, which the end of a process would have cut off.
    """
    from audience_sync.__main__ import main  # noqa: PLC0415 - the forked process imports this module first

    before = _threads()
    code: object = 0
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        with _as_a_process(words, environment, folder or Path.cwd()), _standard_streams(given, out, err):
            try:
                main()
            except SystemExit as done:
                code = done.code
            for thread in _threads() - before if is_alone else ():
                # The interpreter waits for threads that are not daemons. Those of a test's server end by themselves.
                thread.join(THREAD_GRACE if thread.daemon else None)
        left = {thread for thread in _threads() - before if thread.is_alive()}
        assert not left or not is_alone, f"{words} left threads: {left}"
        assert code is None or isinstance(code, int)
        return Finished(code or 0, *(_text_of(stream) for stream in (out, err)))


def _text_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


@contextmanager
def _as_a_process(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Have what a new process has for a block: folder, arguments, environment, umask, and nothing set up for logs."""
    with ExitStack() as stack:
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        stack.callback(os.umask, os.umask(0o022))
        stack.callback(_put_environment, dict(os.environ))
        _put_environment(environment)
        stack.callback(gc.set_threshold, *gc.get_threshold())
        stack.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
        tempfile.tempdir = None
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = ["audience-sync", *words]
        root = logging.getLogger()
        stack.callback(setattr, root, "handlers", root.handlers)
        root.handlers = []
        stack.callback(root.setLevel, root.level)
        root.setLevel(logging.WARNING)
        stack.callback(structlog.configure, **structlog.get_config())
        structlog.reset_defaults()
        yield


@contextmanager
def _standard_streams(*files: IO[bytes]) -> Iterator[None]:
    """Have three files as the standard streams, for Python and for what lies below it."""
    names = ("stdin", "stdout", "stderr")
    python = [getattr(sys, name) for name in names]
    for stream in python[1:]:
        stream.flush()
    kept = [os.dup(number) for number in range(3)]
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        for name, stream in zip(names, python, strict=True):
            setattr(sys, name, stream)
        for number, old in enumerate(kept):
            os.dup2(old, number)
            os.close(old)


def _put_environment(environment: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _run(words: list[str], environment: dict[str, str], streams: Sequence[str], folder: str) -> None:
    from audience_sync.__main__ import main  # noqa: PLC0415 - the process that forks has imported it

    for number, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing had put another one there
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["audience-sync", *words]
    # Processes that a shell starts in the background ignore the signal, and so do their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
