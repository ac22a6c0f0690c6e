"""The kinds of value that settings have, each with the check that its sentence promises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from audience_sync.config.secrets import HOLDS_REFERENCES, REFERENCE, expand
from audience_sync.core.keys import MAX_KEY_LENGTH
from audience_sync.core.model import ColumnType, DateOrder, OnMissing, TraitType
from audience_sync.database_error import shown
from audience_sync.destinations.destination_registry import DESTINATIONS
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.destinations.webhook.webhook_url import read_webhook_url

# --- addresses --------------------------------------------------------------------------------------------------------
# The address on which the daemon listens: ``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080``.

_PARTS: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})", re.ASCII)
_SENTENCE: Final = "must be an address with a port, such as `127.0.0.1:8080` or `[::1]:8080`"


class Address(NamedTuple):
    """A host, by name or number, and a port; port 0 is any that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Return whether this machine alone reaches it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(value: object) -> Address:
    """Return the address that a text spells; raise ValueError if it spells none."""
    if isinstance(value, Address):
        return value
    found = _PARTS.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found["port"]) > 65_535:
        raise ValueError(_SENTENCE)
    if found["six"]:
        try:
            ip_address(found["six"])
        except ValueError:
            raise ValueError(_SENTENCE) from None
    return Address(found["six"] or found["host"], int(found["port"]))


# --- database URLs ----------------------------------------------------------------------------------------------------
# Database URLs: expanded, checked, made absolute, and never shown with what they keep secret.
#
# The membership database has two dialects; a source may be anything that SQLAlchemy can open. A relative file is
# resolved once, here, so that a command means the same database wherever it is started.

DATABASE_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
FILE_DIALECTS = ("sqlite", "duckdb")

_POSTGRES = re.compile(r"\Apostgres(?:ql)?(?:\+\w+)?(?=://)")  # whatever driver it names: psycopg is the one we use
_FILE_ONLY = re.compile(r"\A(sqlite|duckdb)(\+\w+)?:(?!//)")  # sqlite:shop.db
_NO_FILE = re.compile(r":|file:|md:|motherduck:")  # ":memory:", a URI, a database at MotherDuck
_USER_INFO = re.compile(r"[^:/?#]+://([^/?#]*)@")


@dataclass(frozen=True, repr=False)
class SecretUrl:
    """A database URL that shows neither its password nor, of its query, more than the host."""

    _url: URL

    def get_secret_value(self) -> URL:
        """Return the whole URL, for `create_engine` and for nothing that is printed."""
        return self._url

    def __str__(self) -> str:
        return shown(self._url)

    def __repr__(self) -> str:
        return f"SecretUrl('{self}')"


@dataclass(frozen=True)
class FileContext:
    """The folder of a configuration file, and the environment it is read in."""

    folder: Path
    environ: Mapping[str, str] = field(repr=False)

    @property
    def state_folder(self) -> Path:
        """Return where the membership database lies: systemd's first state directory, else next to the file."""
        first = self.environ.get("STATE_DIRECTORY", "").split(":")[0]
        return Path(first) if first else self.folder

    @classmethod
    def of(cls, info: ValidationInfo) -> FileContext:
        """Return the context that validation was given, or the working directory without any variables."""
        return info.context if isinstance(info.context, cls) else cls(Path.cwd(), {})


def database_url(value: object, info: ValidationInfo) -> SecretUrl:
    """Return the URL of the membership database, its file absolute; raise ValueError if it cannot be one."""
    return value if isinstance(value, SecretUrl) else parse_database_url(value, FileContext.of(info))


def parse_database_url(value: object, context: FileContext) -> SecretUrl:
    """Return the URL of a membership database, its file absolute; raise ValueError if it cannot be one."""
    url = _parse(value, context)
    if url.drivername not in DATABASE_DRIVERS:
        raise ValueError("must begin with `sqlite:///` or `postgresql://`")
    if url.get_backend_name() != "sqlite":
        return SecretUrl(url)
    if not url.database or ":memory:" in url.database or url.database.startswith("file:"):
        raise ValueError("must name a file, as in `sqlite:///audience_sync.db`, so that memberships are kept")
    return SecretUrl(_absolute(url, context.state_folder))


def source_url(value: object, info: ValidationInfo) -> SecretUrl:
    """Return the URL of a source, its file, if it has one, absolute; raise ValueError if it cannot be one."""
    if isinstance(value, SecretUrl):
        return value
    context = FileContext.of(info)
    return SecretUrl(_absolute(_parse(value, context), context.folder))


def _parse(value: object, context: FileContext) -> URL:
    """Expand the references in `value` and take it apart; no sentence raised here repeats any of it."""
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")  # noqa: TRY004 - pydantic collects ValueError, not TypeError
    user_info = _USER_INFO.match(value)

    def encode(match: re.Match[str], found: str) -> str:
        # A password comes as it is, not percent-encoded: "p@ss" must not become a host name.
        literal = user_info is not None and match.start() >= user_info.start(1) and match.end() <= user_info.end(1)
        return quote(found, safe="") if literal else found

    text = _in_full(expand(value, context.environ, encode=encode))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # a port that is not a number is a ValueError that repeats it
        raise ValueError("is not a database URL, as in `postgresql://user@host/database`") from None
    if "@" in (url.host or ""):
        raise ValueError("has an `@` in its password; write it as `%40`")
    if url.host and url.get_backend_name() in FILE_DIALECTS:
        raise ValueError(f"must have three slashes before the file name, as in `{url.get_backend_name()}:///shop.db`")
    return url


def _in_full(text: str) -> str:
    """Return a URL as SQLAlchemy reads it: `postgres://` gets its driver, `sqlite:shop.db` its slashes."""
    return _FILE_ONLY.sub(r"\1\2:///", _POSTGRES.sub("postgresql+psycopg", text, count=1), count=1)


def _absolute(url: URL, folder: Path) -> URL:
    """Return `url` with a relative file of SQLite or DuckDB put into `folder`; everything else is left alone."""
    name = url.database
    if url.get_backend_name() not in FILE_DIALECTS or not name or _NO_FILE.match(name):
        return url
    return url.set(database=str(folder.absolute() / name))


# --- values -----------------------------------------------------------------------------------------------------------

LONGEST = timedelta(days=36_500)
"""A century: what is longer leaves the calendar when it is subtracted from a timestamp."""

_ENDINGS = (".csv", ".tsv", ".ndjson", ".jsonl", ".json")
FILE_ENDINGS = (*_ENDINGS, *(f"{ending}.gz" for ending in _ENDINGS), ".parquet")
"""Formats of files by the endings of their names; `.json` is NDJSON too, or one list of objects."""

_DURATION = re.compile(r"(?=\d)(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)

_WEEKDAYS = re.compile(r"\*|[a-z]{3}(-[a-z]{3})?(,[a-z]{3}(-[a-z]{3})?)*", re.IGNORECASE)


def parse_duration(text: str) -> timedelta:
    """Return the duration that `text` spells: "30s", "15m", "1h30m", "400d", "1w"; units from large to small.

    Raises:
        ValueError: it is not a duration, or longer than a century.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('must be a duration such as "30s", "15m", "2h" or "400d"')
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    try:
        duration = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        duration = timedelta.max
    if duration > LONGEST:
        raise ValueError(f'must be at most "{LONGEST.days}d"')
    return duration


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    return parse_duration(value if isinstance(value, str) else "")


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be greater than zero")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if "\0" in value:  # PostgreSQL cannot store it
        raise ValueError("must not contain a NUL character")
    return value


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError('must be a time zone name such as "UTC" or "Europe/Berlin"') from None
    return value


def _cron(value: str) -> str:
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - few files have a cron

    fields = value.split()
    # APScheduler counts weekdays from Monday, cron from Sunday: a number would be a day off for somebody. It also
    # ignores what follows a name, as in "sun#1".
    if len(fields) == 5 and _WEEKDAYS.fullmatch(fields[4]) is None:
        raise ValueError(
            "must use weekday names, as in `mon-fri` or `sat,sun`, because cron implementations number them differently"
        )
    try:
        trigger = CronTrigger.from_crontab(value, timezone=UTC)
    except ValueError as error:
        raise ValueError(f"must be a cron expression with five fields, such as `0 */2 * * *`: {error}") from None
    if trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("must match at least one date, but matches none")
    return value


def _web_url(value: str) -> str:
    sentence = "must be a URL such as `https://example.com`, without a user, query or fragment"
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number
        raise ValueError(sentence) from None
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", value):
        raise ValueError(sentence)
    return value.rstrip("/")


def _reference(value: str) -> str:
    if REFERENCE.fullmatch(value) is None:
        raise ValueError(
            "must not contain the key itself: write `${SCHEMATIC_API_KEY}` and keep the key in the"
            " environment or a systemd credential, or set `api_key_file` instead"
        )
    return value


OWN_HEADERS: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)
"""Headers of a request that the program sets itself, in lower case."""


def _hook_reference(value: object) -> str:
    if not isinstance(value, str) or REFERENCE.fullmatch(value) is None:
        raise ValueError(
            "must not contain the secret itself: write `${NAME}` and keep the secret in the environment or a systemd"
            " credential"
        )
    return value


def _hook_secrets(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 2:
        raise ValueError("must be a reference such as `${HOOK_SECRET}`, or a list of two during a rotation")
    return tuple(map(_hook_reference, value))


def _header_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9-]+", value) is None:
        raise ValueError("is not a valid header name: use letters, digits and `-`")
    if value.lower() in OWN_HEADERS or value.lower().startswith("audience-sync-"):
        raise ValueError("cannot be set: the program sets it")
    return value


def _hook_name(value: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value) is None or value in DESTINATIONS:
        taken = ", ".join(f"`{name}`" for name in DESTINATIONS)
        raise ValueError(
            f"must be at most 40 lower-case letters, digits and `_`, starting with a letter, but not {taken}"
        )
    return value


def _hook_audiences(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError('must be a list of keys, as in `["big_spenders"]`')
    return tuple(value)


HOOK_STARTS: Final = ("now", "members")


def _hook_start(value: object) -> str:
    return _one_of(HOOK_STARTS, value)


def _write_keys(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError('must be a list, as in `["${SEGMENT_WRITE_KEY}"]`')  # noqa: TRY004 - pydantic wants a ValueError
    return value


def _write_key(value: str) -> str:
    if REFERENCE.fullmatch(value) is None:
        raise ValueError(
            "must not contain the key itself: write `${SEGMENT_WRITE_KEY}` and keep the key in the"
            " environment or a systemd credential"
        )
    return value


def _action(value: object) -> str:
    return _one_of(ACTIONS, value)


def _column_type(value: object) -> ColumnType:
    return ColumnType(_one_of(ColumnType, value))


def _date_order(value: object) -> DateOrder:
    return DateOrder(_one_of(DateOrder, value))


def _on_missing(value: object) -> OnMissing:
    return OnMissing(_one_of(OnMissing, value))


def _trait_type(value: object) -> TraitType:
    return TraitType(_one_of(TraitType, value))


def _one_of(words: Iterable[str], value: object) -> str:
    if not isinstance(value, str) or value not in set(words):
        raise ValueError(f"must be one of {', '.join(f'`{word}`' for word in words)}")
    return value


def _placeholders(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError('must be a list of strings, as in `["NULL", "undefined"]`')
    return tuple(value)


def _includes(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError('must be a list of file paths or globs, as in `["audiences.d/*.toml"]`')  # noqa: TRY004 - as above
    return value


def _separator(value: object) -> str:
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n' or ord(value) > 127:
        raise ValueError('must be one ASCII character such as ";", but not a quotation mark or line break')
    return value


def _size(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[1-9]\d{0,8} ?[KMGT]i?B", value) is None:
        raise ValueError('must be a size such as "512MB" or "2GB"')
    return value


def _files(value: object, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError('must be a file path or a glob such as "exports/members-*.csv"')
    if not value.lower().endswith(FILE_ENDINGS):
        raise ValueError(f"must end in one of {', '.join(FILE_ENDINGS)}")
    if "://" in value:
        raise ValueError("must be the path of a local file")
    return str(FileContext.of(info).folder.absolute() / value)


def _file(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a file path")
    return FileContext.of(info).folder.absolute() / value


def _spelled(pattern: str) -> WithJsonSchema:
    """Return the JSON schema of text that matches a pattern."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


def _word_of(words: Iterable[str]) -> WithJsonSchema:
    """Return the JSON schema of one of some words."""
    return WithJsonSchema({"type": "string", "enum": [str(word) for word in words]})


_TEXT: Final = WithJsonSchema({"type": "string"})
_DURATION_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "pattern": f"^{''.join(f'([0-9]{{1,9}}{unit})?' for unit in 'wdhms')}$", "minLength": 2}
)
_REFERENCE_SCHEMA: Final = _spelled(f"^{REFERENCE.pattern}$")

Duration: TypeAlias = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive), _DURATION_SCHEMA]
DurationOrZero: TypeAlias = Annotated[timedelta, BeforeValidator(_duration), _DURATION_SCHEMA]
Percent: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Text: TypeAlias = Annotated[str, AfterValidator(_not_blank), _spelled(r"\S")]
ActionName: TypeAlias = Annotated[str, PlainValidator(_action), _word_of(ACTIONS)]
Key: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=MAX_KEY_LENGTH)]
Timezone: TypeAlias = Annotated[str, AfterValidator(_timezone)]
Cron: TypeAlias = Annotated[str, AfterValidator(_cron), _spelled(r"^\s*(\S+\s+){4}\S+\s*$")]
WebUrl: TypeAlias = Annotated[str, AfterValidator(_web_url), _spelled(r"^https?://[^\s?#@]+$")]
Reference: TypeAlias = Annotated[str, AfterValidator(_reference), HOLDS_REFERENCES, _REFERENCE_SCHEMA]
HookUrl: TypeAlias = Annotated[str, PlainValidator(read_webhook_url), _spelled(r"^https?://[^\s?#@]+")]
HookName: TypeAlias = Annotated[str, AfterValidator(_hook_name), _spelled("^[a-z][a-z0-9_]{0,39}$")]
HookAudiences: TypeAlias = Annotated[
    tuple[str, ...], PlainValidator(_hook_audiences), WithJsonSchema({"type": "array", "items": {"type": "string"}})
]
HookStart: TypeAlias = Annotated[str, PlainValidator(_hook_start), _word_of(HOOK_STARTS)]
HookSecrets: TypeAlias = Annotated[
    tuple[str, ...],
    PlainValidator(_hook_secrets),
    HOLDS_REFERENCES,
    WithJsonSchema(  # one reference, or a list of them
        {
            "type": ["string", "array"],
            "pattern": f"^{REFERENCE.pattern}$",
            "items": {"type": "string", "pattern": f"^{REFERENCE.pattern}$"},
            "minItems": 1,
            "maxItems": 2,
        }
    ),
]
HeaderName: TypeAlias = Annotated[str, AfterValidator(_header_name), _spelled("^[A-Za-z0-9-]+$")]
HookReference: TypeAlias = Annotated[str, PlainValidator(_hook_reference), HOLDS_REFERENCES, _REFERENCE_SCHEMA]
WriteKeys: TypeAlias = Annotated[
    list[Annotated[str, AfterValidator(_write_key), HOLDS_REFERENCES, _REFERENCE_SCHEMA]], BeforeValidator(_write_keys)
]
Includes: TypeAlias = Annotated[list[Text], BeforeValidator(_includes)]
Listen: TypeAlias = Annotated[Address, PlainValidator(read_address), PlainSerializer(str), _spelled(":[0-9]{1,5}$")]
OnMissingName: TypeAlias = Annotated[OnMissing, PlainValidator(_on_missing), _word_of(OnMissing)]
TraitTypeName: TypeAlias = Annotated[TraitType, PlainValidator(_trait_type), _word_of(TraitType)]
Placeholders: TypeAlias = Annotated[
    tuple[str, ...],
    BeforeValidator(_placeholders),
    WithJsonSchema({"type": "array", "items": {"type": "string", "pattern": r"\S"}}),
]
Separator: TypeAlias = Annotated[str, PlainValidator(_separator), _spelled(r'^[^"\r\n]$')]
ColumnTypeName: TypeAlias = Annotated[
    ColumnType, PlainValidator(_column_type), PlainSerializer(str), _word_of(ColumnType)
]
DateOrderName: TypeAlias = Annotated[DateOrder, PlainValidator(_date_order), PlainSerializer(str), _word_of(DateOrder)]
Size: TypeAlias = Annotated[str, PlainValidator(_size), _spelled("^[1-9][0-9]{0,8} ?[KMGT]i?B$")]
Files: TypeAlias = Annotated[str, PlainValidator(_files), _TEXT]
File: TypeAlias = Annotated[Path, PlainValidator(_file), _TEXT]
DatabaseUrl: TypeAlias = Annotated[
    SecretUrl, PlainValidator(database_url), PlainSerializer(str), HOLDS_REFERENCES, _TEXT
]
SourceUrl: TypeAlias = Annotated[SecretUrl, PlainValidator(source_url), PlainSerializer(str), HOLDS_REFERENCES, _TEXT]


class Table(BaseModel):
    """A table of the file: frozen, strict (`"8"` is not a number), and without settings that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
