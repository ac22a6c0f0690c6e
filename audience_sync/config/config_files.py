"""The configuration as one document: the main file, and the lists of tables from the files that it includes.

An included file has only [[audiences]], [[traits]] and [[mappings]]. Its tables come behind those of the main file and
of the files before it, so a location such as `("audiences", 7)` counts the tables of all files. `place`, `spell` and
`folder` return where such a table was written.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from audience_sync.config.line_numbers import lines_of
from audience_sync.config.problems import SENTENCES, FilePlace, Location, PlacedProblem, Problem, near, spell
from audience_sync.config_path import MOST_BYTES, fitting_files
from audience_sync.core.text import printable
from audience_sync.errors import ConfigError
from audience_sync.text_files import decoded, read_text_file

LISTS: Final = ("audiences", "traits", "mappings")
"""The lists of tables that included files may have."""
_QUOTE = 'put text in straight quotes, as in name = "VIP", and write true and false in lowercase'
_MORE_WORDS = "Expected newline or end of document after a statement"  # in the parser's words
_BARE = re.compile(r"[^\"'=]+=\s*[^\s\"'\[{]")  # a setting with a value that is not in quotation marks


@dataclass(frozen=True)
class ConfigFile:
    """One file, as it was parsed."""

    path: Path  # absolute
    text: str
    raw: dict[str, Any]

    @cached_property
    def lines(self) -> dict[Location, int]:
        """Return the line of each of its settings."""
        return lines_of(self.text)

    def line(self, location: Location) -> int:
        """Return the line of a setting; if it is missing, that of the table it is missing in; 0: there is none."""
        prefixes = (location[:end] for end in range(len(location), 0, -1))
        return next((self.lines[prefix] for prefix in prefixes if prefix in self.lines), 0)


@dataclass(frozen=True)
class ConfigFiles:
    """The main file and the files that it includes, in their order."""

    main: ConfigFile
    included: tuple[ConfigFile, ...] = ()

    @cached_property
    def raw(self) -> dict[str, Any]:
        """Return the settings of the main file, with the tables of all files in the lists."""
        more = {name: self._tables(name, self.included) for name in LISTS}
        whole = dict(self.main.raw)
        for name, tables in more.items():
            own = whole.get(name, [])
            if tables and isinstance(own, list):  # anything else is a problem of its own
                whole[name] = [*own, *tables]
        return whole

    def folder(self, location: Location) -> Path:
        """Return the folder of the file in which a setting is written: relative paths start there."""
        return self._origin(location)[0].path.parent

    def place(self, location: Location) -> FilePlace:
        """Return where a setting is written."""
        file, local = self._origin(location)
        name = _name_at(location, self.raw)
        return FilePlace(None if file is self.main else file.path, file.line(local), name)

    def path(self, location: Location) -> str:
        """Return the path of a setting within its file, as in `audiences[2].sql`."""
        return spell(self._origin(location)[1])

    def spell(self, location: Location) -> str:
        """Return the path of a setting for sentences about another one; with included files, also its file and line."""
        if not self.included:
            return spell(location)
        file, local = self._origin(location)
        return f"{spell(local)} in {file.path}, line {file.line(local)}"

    @cached_property
    def _starts(self) -> dict[str, list[tuple[int, ConfigFile]]]:
        """Return, for each list, the index of the first table of each file, the last file first."""
        found: dict[str, list[tuple[int, ConfigFile]]] = {}
        for name in LISTS:
            first = 0
            for file in (self.main, *self.included):
                found.setdefault(name, []).insert(0, (first, file))
                first += len(self._tables(name, [file]))
        return found

    def _origin(self, location: Location) -> tuple[ConfigFile, Location]:
        """Return the file of a setting, and its location within that file."""
        if len(location) > 1 and location[0] in LISTS and isinstance(index := location[1], int):
            first, file = next(start for start in self._starts[str(location[0])] if start[0] <= index)
            return file, (location[0], index - first, *location[2:])
        return self.main, location

    @staticmethod
    def _tables(name: str, files: Iterable[ConfigFile]) -> list[Any]:
        return [table for file in files if isinstance(some := file.raw.get(name), list) for table in some]


def read_config_files(path: Path, *, known: Iterable[str]) -> tuple[ConfigFiles, list[PlacedProblem]]:
    """Return the main file at an absolute path with the files that it includes, and what is wrong with including them.

    `known` are the settings of the main file, which an included file must not have.

    Raises:
        ConfigError: the main file cannot be read, or one of the files is not valid TOML.
    """
    main = ConfigFile(path, text := _main_text(path), parsed(path, text))
    included: dict[Path, ConfigFile] = {}
    problems: list[PlacedProblem] = []
    patterns = main.raw.get("include")
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
        if not isinstance(pattern, str) or not pattern.strip() or "\0" in pattern:
            continue  # the type of the setting has a sentence for it
        location: Location = ("include", index)
        place = FilePlace(None, main.line(location), None)
        try:
            found = fitting_files(path, pattern)
        except ValueError as error:
            problems.append(PlacedProblem(place, str(Problem(location, str(error)))))
            continue
        for one in found:
            try:
                included[one] = included.get(one) or _included(one)
            except ValueError as error:
                problems.append(PlacedProblem(place, str(Problem(location, str(error)))))
    known = set(known)
    problems += [one for file in included.values() for one in _refused(file, main, known)]
    return ConfigFiles(main, tuple(included.values())), problems


def _included(path: Path) -> ConfigFile:
    try:
        path.name.encode()
    except UnicodeEncodeError:  # JSON and databases could not have its name
        raise ValueError(f"{printable(str(path))}: the file name is not valid UTF-8") from None
    text = read_text_file(path, most_bytes=MOST_BYTES)
    return ConfigFile(path, text, parsed(path, text))


def _refused(file: ConfigFile, main: ConfigFile, known: set[str]) -> Iterator[PlacedProblem]:
    """Yield the problems of settings that an included file must not have."""
    for name, value in file.raw.items():
        if name in LISTS and isinstance(value, list):
            continue
        if name in LISTS:
            sentence = SENTENCES["list_type"].format(name=name)
        elif name == "include":
            sentence = f"an included file cannot include others; add its files to `include` in {main.path}"
        elif name in known:
            sentence = (
                f"is only allowed in {main.path}: an included file has only [[audiences]], [[traits]] and [[mappings]]"
            )
        else:
            sentence = f"unknown setting{near(name, LISTS)}"
        yield PlacedProblem(FilePlace(file.path, file.line((name,)), None), str(Problem((name,), sentence)))


def _name_at(location: Location, raw: Mapping[str, Any]) -> str | None:
    """Return the `name` of the table in a list that a setting is in: an audience, a computed trait, a mapping."""
    if len(location) < 2 or not isinstance(index := location[1], int):
        return None
    rows = raw.get(str(location[0]))
    row = rows[index] if isinstance(rows, list) and index < len(rows) else None
    name = row.get("name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


# --- TOML -------------------------------------------------------------------------------------------------------------


def _main_text(path: Path) -> str:
    """Return the text of the main file, which may be a pipe."""
    try:
        return decoded(path, path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"configuration file not found; looked for {path}", hint="create one with `audience-sync init`"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def parsed(path: Path, text: str) -> dict[str, Any]:
    """Return what a text of TOML says.

    Raises:
        ConfigError: it is not valid TOML; names the line and column of the file at `path`.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, str(error), text) from None
    except RecursionError:
        raise ConfigError(f"{path}: the brackets in the file are nested too deeply", hint="simplify them") from None


def _syntax_error(path: Path, message: str, text: str) -> ConfigError:
    """Return ``FILE, line L, column C: sentence`` for what the parser says, with what to do about it."""
    sentence, _, place = message.rpartition(" (at ")
    lines = text.rstrip("\n").split("\n")
    numbers = [int(number) for number in re.findall(r"\d+", place)]
    line, column = numbers if len(numbers) == 2 else (len(lines), len(lines[-1]) + 1)  # "at end of document"
    is_bare = sentence == "Invalid value" or (sentence == _MORE_WORDS and _BARE.match(lines[line - 1]) is not None)
    hint = _QUOTE if is_bare else "correct the line: it is not valid TOML"
    return ConfigError(f"{path}, line {line}, column {column}: {sentence[:1].lower()}{sentence[1:]}", hint=hint)
