"""Problems of a configuration file, as short plain sentences.

Each has its line, the name of its audience and its path: ``line 84, "Big Spenders": audiences[7].sql: missing``.

No sentence repeats a value: a value may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from audience_sync.core.text import counted, did_you_mean, printable
from audience_sync.errors import ConfigError

Location: TypeAlias = tuple[str | int, ...]

SENTENCES = {
    "missing": "missing",
    "string_type": "must be text in quotes",
    "string_too_long": "must be at most {max_length} characters long",
    "string_pattern_mismatch": "must contain only letters, digits and `_`, and must not be empty",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "list_type": "must be a list of tables: start each table with [[{name}]]",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
}
"""pydantic's name of an error, and ours."""


class FilePlace(NamedTuple):
    """The place of a problem; as text ``line 84, "Big Spenders": ``, in an included file ``FILE, line 84, …``."""

    file: Path | None  # that is included; None: the main file
    line: int  # from 1; 0: the file has no such place
    name: str | None  # of the audience, computed trait or mapping

    def __str__(self) -> str:
        parts = [str(self.file)] if self.file else []
        parts += [f"line {self.line}"] if self.line else []
        parts += [f'"{printable(self.name)}"'] if self.name else []
        return f"{', '.join(parts)}: " if parts else ""


class Problem(NamedTuple):
    """One thing that is wrong, and where."""

    location: Location
    sentence: str

    def __str__(self) -> str:
        return f"{spell(self.location)}: {self.sentence}"


class PlacedProblem(NamedTuple):
    """One line of the error about a configuration: where, and the path of the setting with the sentence."""

    place: FilePlace
    text: str


def spell(location: Location) -> str:
    """Return the path of a setting as TOML would name it, with the index of a table in a list: ``audiences[2].sql``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            path += f".{word}" if path else word
    return path


def near(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean `x`?)`` when something known looks like `word`, else nothing."""
    found = did_you_mean(word, known, most=3)
    return f" ({found})" if found else ""


def translate(errors: Iterable[ErrorDetails], model: type[BaseModel]) -> list[Problem]:
    """Return pydantic's errors about `model` as problems."""
    return [_problem(error, model) for error in errors]


def refuse(path: Path, problems: Iterable[PlacedProblem]) -> ConfigError:
    """Return the error that lists every problem of the configuration, file by file, from the top to the bottom."""
    found = sorted(dict.fromkeys(problems), key=lambda one: (str(one.place.file or ""), one.place.line))
    return ConfigError(
        "\n".join([f"{path} has {counted(len(found), 'problem')}:", *(f"  {one.place}{one.text}" for one in found)]),
        hint="for an example of every setting, run `audience-sync --config NEW.toml init`",
    )


def _problem(error: ErrorDetails, model: type[BaseModel]) -> Problem:
    location = tuple(part for part in error["loc"] if part != "[key]")  # pydantic's mark of a dictionary's key
    context: dict[str, Any] = error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        *above, word = location
        return Problem(location, "unknown setting" + near(str(word), _settings_at(model, above)))
    if error["type"] == "value_error":  # raised by our own checks
        return Problem(location, str(context["error"]))
    sentence = SENTENCES.get(error["type"], "is invalid: " + error["msg"])
    return Problem(location, sentence.format(name=location[-1], **context) if error["type"] in SENTENCES else sentence)


def _settings_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the names of the settings in the table at `location`."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:  # else an index or a name: the table of one entry, which is `model` already
            model = _table_in(field.annotation) or model
    return list(model.model_fields)


def _table_in(annotation: object) -> type[BaseModel] | None:
    """Return the table that an annotation such as `dict[str, Source]` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _table_in(one))), None)
