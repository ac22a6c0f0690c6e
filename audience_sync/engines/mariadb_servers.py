"""MariaDB and MySQL: everything that differs between them, and the settings of a session on either.

Only MariaDB is tested. A session on both has the same SQL mode, time zone and character set, whatever the server's
own settings are, and a collation that compares the bytes of texts, blanks at the end included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

NET_MARGIN: Final = timedelta(minutes=10)
"""The server's own time limit is longer than that of a query by this and by the limit again: it counts the time in
which we do not read, too, and is only for when we have died."""

SETTINGS: Final[Mapping[str, str]] = {
    "time_zone": "'+00:00'",
    "sql_mode": "'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
    "group_concat_max_len": "16777216",  # bytes; a list that is cut off is not JSON
    "max_sort_length": "4096",  # bytes of a text that are sorted by
    "sort_buffer_size": "33554432",  # bytes, as the next two: a funnel takes three times as long with temporary files
    "tmp_table_size": "134217728",
    "max_heap_table_size": "134217728",
    "max_error_count": "64",
    "sql_notes": "0",  # what JSON_VALID says of a text that is not JSON is not worth a warning
    "net_write_timeout": "86400",  # seconds the server waits for us to read on
}
"""Settings of a session on any server, as SQL."""


@dataclass(frozen=True, kw_only=True)
class MariadbServer:
    """One of the two kinds of server: the settings and versions in which they differ."""

    name: str
    oldest: tuple[int, ...]  # version with everything that is used here
    collation: str  # compares bytes, and does not ignore blanks at the end
    limit: str  # the setting of the longest time of a statement
    limit_unit: timedelta
    settings: Mapping[str, str]  # others that only this server has
    json_columns: re.Pattern[str] | None  # a column of JSON in SHOW CREATE TABLE; None: JSON is a type of its own

    def statements(self, limit: timedelta) -> tuple[str, ...]:
        """Return what sets up a session and begins its transaction, for queries with a time limit."""
        longest = round((limit * 2 + NET_MARGIN) / self.limit_unit)
        settings = {**SETTINGS, **self.settings, self.limit: str(longest)}
        return (
            f"SET NAMES utf8mb4 COLLATE {self.collation}",
            "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in settings.items()),
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        )


MARIADB: Final = MariadbServer(
    name="MariaDB",
    oldest=(10, 6),
    collation="utf8mb4_nopad_bin",
    limit="max_statement_time",
    limit_unit=timedelta(seconds=1),
    settings={
        "default_regex_flags": "''",
        "join_cache_level": "8",  # hash joins, where no index serves a join
        "join_buffer_size": "16777216",  # bytes
    },
    json_columns=re.compile(r"CHECK \(json_valid\(`((?:[^`]|``)+)`\)\)"),
)
MYSQL: Final = MariadbServer(
    name="MySQL",
    oldest=(8, 0, 21),
    collation="utf8mb4_0900_bin",
    limit="max_execution_time",
    limit_unit=timedelta(milliseconds=1),
    settings={},
    json_columns=None,
)


def server_of(version: str) -> MariadbServer:
    """Return the kind of server that has a version, as `SELECT version()` has it.

    Raises:
        ValueError: it is too old.
    """
    server = MARIADB if "mariadb" in version.lower() else MYSQL
    known = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)(?:\.(\d+))?", version)  # replication once needed a 5 in front
    numbers = tuple(int(one) for one in known.groups() if one) if known else ()
    if numbers < server.oldest[: len(numbers)]:
        oldest = ".".join(map(str, server.oldest))
        raise ValueError(f"the server is {server.name} {version}, but {server.name} {oldest} or later is needed")
    return server
