"""Common tasks: `python -m tests.tasks` lists them, `python -m tests.tasks NAME` runs one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK_COMMAND = (ROOT / ".ci" / "requirements.lock").read_text().splitlines()[1].lstrip("# ")
TASKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "test": ("Run the tests, without the slow ones.", ("pytest",)),
    "slow": ("Run the slow tests: random data, long histories, killed processes, restarts.", ("pytest -m slow",)),
    "lint": (
        "Check format, code, types, imports and wording.",
        ("ruff format --check .", "ruff check .", "mypy", "lint-imports", "python -m tests.wording"),
    ),
    "docs": (
        "Check what the documentation promises.",
        ("pytest -n 0 tests/test_house.py tests/test_manual.py tests/test_wording.py",),
    ),
    "commands": (
        "Generate what is made of the commands: their page in the manual, and the words that shells complete.",
        ("python -m tests.command_page --record", "python -m tests.completion_words --record"),
    ),
    "sentences": ("List anew what the program says to people.", ("python -m tests.sentences --record",)),
    "lock": ("Pin packages again, with the command in the head of .ci/requirements.lock.", (LOCK_COMMAND,)),
    "bench": ("Sync and deliver a million members.", ("python -m tests.benchmarks.sync_one_million",)),
}


def main(names: list[str]) -> int:
    """Run tasks, up to the first command that fails, and return its exit code; without names, list them."""
    if not names:
        print("\n".join(f"{name:9} {sentence}" for name, (sentence, _) in TASKS.items()))
        return 0
    if unknown := set(names) - TASKS.keys():
        print(f"not a task: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for command in (command for name in names for command in TASKS[name][1]):
        print(f"+ {command}", flush=True)
        if code := subprocess.run(shlex.split(command), cwd=ROOT, env=environment, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
