"""Run the console examples of a document, in order, in one shell on a terminal of 80 columns.

A block of the language `console` has commands behind `$ ` and their output. Other blocks take part through the
paragraph before them: "Save this as `NAME`" and "Add this to `NAME`" make files, and the command after "In a second
terminal" keeps running until the end of the document. `…` in the expected output stands for anything.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import SCRUBBED

COLUMNS = 80
MARK = "\x1e"  # ends the output of a step; its exit code follows
DEADLINE = 240  # seconds for a document, on a busy machine
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(Save this as|Add this to) `([^`]+)`[^`]*:\s*$")
_VARIES = {  # what is different in each run
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z": "TIME",
    r"\b\d+(?:\.\d+)? s\b": "SECONDS",
    r"\bschema \d{4}\b": "SCHEMA",
    r"\b[0-9a-f]{32}\b": "KEY",
}


class Step(NamedTuple):
    """Something that a reader of the document does."""

    line: int  # in the document
    script: str  # for bash
    expected: str | None  # its output; None if the document does not show it
    text: str = ""  # of a file that the script needs, as `step-LINE`


class Outcome(NamedTuple):
    """How a step ended."""

    code: int
    output: str


def steps_of(document: str, *, port: int) -> Iterator[Step]:
    """Yield the steps of a document; the sandbox listens on `port`, in place of 8480."""
    for block in _BLOCK.finditer(document):
        before = document[: block.start()].rstrip("\n").rpartition("\n\n")[2]
        line = document.count("\n", 0, block.start()) + 1
        if named := _FILE.search(before):
            append = ">>" if named[1] == "Add this to" else ">"
            target = shlex.quote(named[2])
            yield Step(line, f'cat "$STEPS"/step-{line} {append} {target}', "", block[2].replace("8480", str(port)))
        elif block[1] == "console":
            is_second = "second terminal" in before
            for command, expected in _commands(block[2].replace("8480", str(port))):
                script = _in_background(command, port) if is_second else command
                yield Step(line, script, expected)


def _commands(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            more, _, output = output.partition("\n")
            command = f"{command}\n{more}"
        yield command, output


def _in_background(command: str, port: int) -> str:
    opened = f"(: < /dev/tcp/127.0.0.1/{port}) 2> /dev/null"
    wait = f"until {opened} || ! kill -0 $!; do sleep 0.1; done; sleep 0.2"
    return f'{command} > "$STEPS"/second 2>&1 &\n{wait}; cat "$STEPS"/second'


def run(steps: list[Step], folder: Path) -> list[Outcome]:
    """Run steps in a new folder `home` of a folder, and return their outcomes."""
    home, notes = folder / "home", folder / "notes"
    for path in (home, notes):
        path.mkdir()
    parts = ["trap 'kill $(jobs -p) 2> /dev/null' EXIT"]
    for step in steps:
        (notes / f"step-{step.line}").write_text(step.text, encoding="utf-8")
        parts.append(f"{step.script}\ncode=$?; printf '{MARK}%d\\n' $code; (exit $code)")
    script = notes / "script"
    script.write_text("\n".join(parts), encoding="utf-8")
    printed = _on_terminal(["bash", str(script)], home, STEPS=str(notes), HOME=str(home))
    outcomes = re.findall(rf"(.*?){MARK}(\d+)\n", printed, re.DOTALL)
    return [Outcome(int(code), output) for output, code in outcomes]


def _on_terminal(words: list[str], folder: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
    environment |= {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb", "PAGER": "cat", **variables}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            ["timeout", str(DEADLINE), *words], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
    finally:
        os.close(theirs)
    parts = []
    with open(ours, "rb", closefd=True) as screen:  # noqa: PTH123 - a descriptor
        try:
            while part := os.read(screen.fileno(), 65536):
                parts.append(part)
        except OSError:  # on Linux, the end of a terminal without a process
            pass
    process.wait(DEADLINE)
    return b"".join(parts).decode().replace("\r\n", "\n")


def matches(expected: str, actual: str, folder: Path) -> bool:
    """Return whether an output is the expected one, apart from line breaks, times and the home folder."""
    wanted, found = (_normal(text.replace(str(folder / "home"), "/home/ada")) for text in (expected, actual))
    pattern = ".*".join(re.escape(part.strip()) for part in wanted.split("…"))
    return re.fullmatch(rf"\s*{pattern}\s*", found, re.DOTALL) is not None


def _normal(text: str) -> str:
    for pattern, word in _VARIES.items():
        text = re.sub(pattern, word, text)
    return " ".join(text.split())


def main(paths: list[str]) -> None:
    """Print the console examples of documents with the output that they have now."""
    import socket  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    for path in paths:
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            steps = list(steps_of(Path(path).read_text(encoding="utf-8"), port=port))
            for step, outcome in zip(steps, run(steps, Path(folder)), strict=False):
                agrees = step.expected is None or matches(step.expected, outcome.output, Path(folder))
                sys.stdout.write(f"{'' if agrees else '!!! '}{path}:{step.line} $ {step.script}   [{outcome.code}]\n")
                sys.stdout.write(outcome.output.replace(f"{folder}/home", "/home/ada").replace(str(port), "8480"))


if __name__ == "__main__":
    main(sys.argv[1:])
