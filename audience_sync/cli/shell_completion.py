"""Complete commands, options and audience keys in bash, zsh and fish.

The shell runs the program for each completion, and importing the commands would take longer than a person waits. So
completion knows them from a table, `completion_words.json`, which `python -m tests.completion_words --record` makes of
the commands. Keys come from the configuration file. It is not checked: a file with mistakes completes what can be read.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from audience_sync.config_path import MOST_BYTES, find_config, fitting_files
from audience_sync.errors import AudienceSyncError
from audience_sync.text_files import read_text_file

COMPLETION_VARIABLE: Final = "_AUDIENCE_SYNC_COMPLETE"
"""The variable with which the shell asks for completions; the scripts of Typer set it."""

WORDS: Final = Path(__file__).with_name("completion_words.json")
AUDIENCE: Final = "audience"
FLAG: Final = "flag"
_KEY: Final = re.compile("[A-Za-z0-9_]+")  # what the shell gets needs no quotes

Words = Mapping[str, Any]
"""A command in the table: its `parameters` or its `commands`.

A parameter has `options` (none: an argument), `help`, `many` (it may be repeated) and `kind`: `flag`, `audience`, a
list of choices, or "" for other values.
"""


def is_completing() -> bool:
    """Return whether the shell asks for completions."""
    return COMPLETION_VARIABLE in os.environ


def prepare() -> None:
    """Let Typer complete in the shells that it knows; without its options that install completion."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415 - only this needs it

    completion_init()
    if "COMP_WORDS" in os.environ:
        _join_values(os.environ)


def script(shell: str, program: str) -> str:
    """Return the script that makes a shell complete the arguments of the program."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415 - as above

    return str(get_completion_script(prog_name=program, complete_var=COMPLETION_VARIABLE, shell=shell))


def outline(name: str, help: str) -> TyperCommand | TyperGroup:
    """Return a command that is complete enough to be completed."""
    words = _table()[name]
    app = typer.Typer(rich_markup_mode=None)
    inner = words.get("commands")
    if inner is None:
        app.command(name, help=help)(_function(words))
    else:
        group = typer.Typer(name=name, help=help)
        for one, its_words in inner.items():
            group.command(one, help=its_words["help"])(_function(its_words))
        app.add_typer(group)
    found: TyperCommand | TyperGroup = typer.main.get_group(app).commands[name]  # type: ignore[assignment]
    return found


def known_keys(config: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return the keys of the audiences and computed traits in the configuration.

    Files and entries that cannot be read are skipped.
    """
    try:
        path = find_config(config and config.expanduser(), environ)  # the shell passes ~ as it is
    except (AudienceSyncError, OSError, RuntimeError, ValueError):
        return []
    entries = [entry for raw in _documents(path) for entry in _entries(raw)]
    return list(dict.fromkeys(key for key in map(_key, entries) if _KEY.fullmatch(key)))


@cache
def _table() -> dict[str, Words]:
    return cast("dict[str, Words]", json.loads(WORDS.read_text(encoding="utf-8")))


def _function(words: Words) -> Callable[..., None]:
    """Return a function with the parameters of a command, from which Typer makes the command."""

    def nothing(**_: object) -> None:
        """Do nothing: a completed command does not run."""

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(f"parameter_{number}", keyword, default=None, annotation=_annotation(one))
        for number, one in enumerate(words["parameters"])
    ]
    nothing.__annotations__ = {one.name: one.annotation for one in parameters}
    cast("Any", nothing).__signature__ = inspect.Signature(parameters)
    return nothing


def _annotation(parameter: Words) -> Any:
    kind, options, about = parameter["kind"], parameter["options"], parameter["help"]
    if kind == FLAG:
        return Annotated[bool, typer.Option(*options, help=about)]
    complete = _complete_audience if kind == AUDIENCE else _choices(kind)
    made = typer.Option(*options, help=about, autocompletion=complete) if options else None
    value: Any = list[str] if parameter["many"] else str
    return Annotated[value, made or typer.Argument(help=about, autocompletion=complete)]


def _choices(kind: list[str] | str) -> Callable[[], list[str]]:
    return lambda: list(kind)


def _join_values(environ: MutableMapping[str, str]) -> None:
    """Leave out the `=` in `--format=json`, at which bash has split the word: an option is followed by its value."""
    words, current = environ["COMP_WORDS"].split("\n"), environ.get("COMP_CWORD", "")
    last = int(current) if current.isdecimal() else 0
    kept = [n for n, word in enumerate(words) if word != "=" or n == last or not words[n - 1].startswith("--")]
    environ["COMP_WORDS"] = "\n".join([words[n] for n in kept])
    environ["COMP_CWORD"] = str(sum(n < last for n in kept))


def _complete_audience(context: typer.Context) -> list[str]:
    named = context.find_root().params.get("config")
    return known_keys(named and Path(named), os.environ)


def _documents(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration file and the files that it includes, those that are TOML."""
    raw = _read(path)
    yield raw
    patterns = raw.get("include")
    for pattern in patterns if isinstance(patterns, list) else ():
        if isinstance(pattern, str) and "\0" not in pattern:
            with suppress(ValueError):
                yield from map(_read, fitting_files(path, pattern))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(read_text_file(path, most_bytes=MOST_BYTES))
    except (ValueError, RecursionError):
        return {}


def _entries(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = [raw.get(name) for name in ("audiences", "traits")]
    return [entry for table in tables if isinstance(table, list) for entry in table if isinstance(entry, dict)]


def _key(entry: Mapping[str, Any]) -> str:
    """Return the key of an audience; "" if it cannot have one."""
    key = entry.get("key")
    if key is None and isinstance(name := entry.get("name"), str):
        from audience_sync.core.keys import audience_key  # noqa: PLC0415 - only names need it

        key = audience_key(name)
    return key if isinstance(key, str) else ""
