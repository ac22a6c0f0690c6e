"""Programs of older versions, as they were released: their files come out of the history of this repository."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from audience_sync.kill_points import KILL_VARIABLE

ROOT = Path(__file__).parents[1]


class OlderProgram:
    """The program of one version; a command is a process of its own."""

    def __init__(self, version: str, folder: Path) -> None:
        words = ["log", "-1", "--format=%H", "--extended-regexp", f"--grep=version {version.replace('.', '[.]')}$"]
        try:
            commit = _git(*words).decode().strip()
        except (OSError, subprocess.CalledProcessError):
            commit = ""
        if not commit:
            pytest.skip(f"the history of this repository, with version {version}, is not here")
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "audience_sync", "migrations"))) as files:
            files.extractall(folder, filter="data")
        self._folder = folder

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], *, folder: Path, kill: str = ""
    ) -> subprocess.Popen[str]:
        """Start a command in a folder that has its configuration, to be killed at a point if one is named."""
        told = {**os.environ, **environment, "PYTHONPATH": str(self._folder)}
        return subprocess.Popen(
            [sys.executable, "-m", "audience_sync", "--config", str(folder / "config.toml"), *words],
            env=told | ({KILL_VARIABLE: kill} if kill else {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        kill: str = "",
        seconds: float | None = None,
    ) -> tuple[int, str]:
        """Run a command to its end, killed at a point or after some seconds; return its exit code and what it said."""
        with self.start(words, environment, folder=folder, kill=kill) as process:
            try:
                said, _ = process.communicate(timeout=120 if seconds is None else seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                assert seconds is not None, f"{words} did not end"
                with suppress(ValueError):
                    process.communicate()
                said = ""
        return process.returncode, said


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True).stdout
