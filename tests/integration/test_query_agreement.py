"""All four databases say of made-up queries over made-up worlds what a plain reading of the language says.

Hypothesis draws the cases, of eight queries each. `AUDIENCE_SYNC_QUERY_CASES` sets their number, by default 8, or 48
in slow runs; those are the same in every run. Disagreements that were found are kept in
`tests/reference/regressions.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy.engine import make_url

from audience_sync.audiences.definition import open_definition
from audience_sync.config import Settings, load
from audience_sync.errors import AudienceSyncError
from tests import mariadb_servers, server_selection
from tests.profile import amount
from tests.reference.databases import fill_duckdb, fill_mariadb, fill_postgres, fill_sqlite
from tests.reference.drawing import cases
from tests.reference.evaluating import Evaluator
from tests.reference.language import Condition
from tests.reference.regressions import REGRESSIONS
from tests.reference.shrinking import smallest
from tests.reference.spelling import write
from tests.reference.worlds import Case, Definition

ASKED = os.environ.get("AUDIENCE_SYNC_QUERY_CASES")
CASES = amount("AUDIENCE_SYNC_QUERY_CASES", small=4, large=48)
SECONDS = 300 + CASES * 3  # a case takes one or two; finding the smallest form of a failure takes hundreds

EXPLORING = settings(
    max_examples=CASES // 4,
    deadline=None,
    derandomize=ASKED is None,
    database=None,
    phases=(Phase.generate,),  # a seed has no simpler form; `smallest` finds that of its case
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Databases:
    """Where the cases are put: the folder of the files, and the databases of the servers; None: no such server."""

    folder: Path
    postgres: psycopg.Connection[Any]
    mariadb: Any
    urls: dict[str, str]

    def fill(self, case: Case, only: str | None = None) -> None:
        """Write a case into one or all of them."""
        if only in {None, "SQLite"}:
            fill_sqlite(str(self.folder / "world.db"), case)
        if only in {None, "PostgreSQL"}:
            fill_postgres(self.postgres, case)
        if only in {None, "DuckDB"}:
            fill_duckdb(str(self.folder / "world.duckdb"), case)
        if only in {None, "MariaDB"} and self.mariadb is not None:
            fill_mariadb(self.mariadb, case)


@pytest.fixture(scope="module")
def mariadb_database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """URL of an empty MariaDB database; None where there is no server."""
    if not server_selection.MARIADB.is_available():
        yield None
        return
    with mariadb_servers.new_database(request.getfixturevalue("mariadb_server")) as url:
        yield url


@pytest.fixture(scope="module")
def databases(
    postgres_server: str, mariadb_database: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Databases]:
    """A database of each kind, for all cases of this module one after the other."""
    folder, name = tmp_path_factory.mktemp("agreement"), f"agreement_{uuid4().hex}"
    url = make_url(postgres_server).set(database=name)
    plain = make_url(postgres_server).set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg.connect(plain, autocommit=True)) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            with ExitStack() as stack:
                connection = stack.enter_context(closing(psycopg.connect(plain, dbname=name)))
                mariadb = None
                if mariadb_database is not None:
                    mariadb = stack.enter_context(closing(mariadb_servers.connected(mariadb_database)))
                urls = {
                    "SQLite": f"sqlite:///{folder / 'world.db'}",
                    "PostgreSQL": url.render_as_string(hide_password=False),
                    "DuckDB": f"duckdb:///{folder / 'world.duckdb'}",
                    **({"MariaDB": mariadb_database} if mariadb_database is not None else {}),
                }
                yield Databases(folder, connection, mariadb, urls)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@EXPLORING
@given(case=cases(plain=False, profiles=True))
def test_json_and_profiles(databases: Databases, case: Case) -> None:
    """Properties and traits of JSON columns mean the same everywhere."""
    agree(databases, case)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@EXPLORING
@given(case=cases(plain=False, profiles=False))
def test_json_without_profiles(databases: Databases, case: Case) -> None:
    """Where nobody has a profile, everybody with an event is there."""
    agree(databases, case)


@pytest.mark.timeout(SECONDS)
@EXPLORING
@given(case=cases(plain=True, profiles=True))
def test_columns_and_profiles(databases: Databases, case: Case) -> None:
    """Properties and traits that are columns have the values of their types."""
    agree(databases, case)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@EXPLORING
@given(case=cases(plain=True, profiles=False))
def test_columns_without_profiles(databases: Databases, case: Case) -> None:
    """Columns, and no table of users."""
    agree(databases, case)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGRESSIONS))
def test_what_once_disagreed(databases: Databases, name: str) -> None:
    """A disagreement that was found once does not come back."""
    agree(databases, REGRESSIONS[name])


def agree(databases: Databases, case: Case) -> None:
    """Assert that every database gives the answer of the evaluator to every query of a case."""
    wrong = disagreement(databases, case)
    if wrong is None:
        return

    def as_wrong(smaller: Case) -> bool:
        found = disagreement(databases, smaller, wrong.database)
        return found is not None and found.kind == wrong.kind

    small = smallest(case, as_wrong)
    found = disagreement(databases, small, wrong.database)
    assert found is not None
    pytest.fail(f"{found}\n{config(small, databases.urls[found.database])}\n{small}", pytrace=False)


@dataclass(frozen=True)
class Disagreement:
    """What a database says of a definition, and what it should say; `kind` is the same for the same mistake."""

    database: str
    query: str
    expected: object
    found: object
    kind: str

    def __str__(self) -> str:
        """Say it over a few lines."""
        return f"{self.database} disagrees: {self.query}\nexpected {self.expected}\nfound    {self.found}"


def disagreement(databases: Databases, case: Case, only: str | None = None) -> Disagreement | None:
    """Return the first disagreement there is about a case, on one or on all databases."""
    databases.fill(case, only)
    evaluator = Evaluator(case.world, case.definitions, case.as_of)
    for database, url in databases.urls.items():
        if only not in {None, database}:
            continue
        path = databases.folder / "config.toml"
        path.write_text(config(case, url), encoding="utf-8")
        try:
            loaded = load(path, {})
        except AudienceSyncError as error:
            return Disagreement(
                database, "the configuration", "it loads", f"{error} {error.hint}", type(error).__name__
            )
        for definition in case.definitions:
            query, expected = write(definition.query), expectation(evaluator, definition)
            try:
                found: object = answers(loaded, definition, case)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                return Disagreement(database, query, expected, f"{type(error).__name__}: {error}", type(error).__name__)
            if found != expected:
                return Disagreement(database, query, expected, found, "answer")
    return None


def expectation(evaluator: Evaluator, definition: Definition) -> dict[str, Any]:
    """Return the answer of the evaluator for each user: True for members, else the value; nobody without one."""
    if isinstance(definition.query, Condition):
        return dict.fromkeys(evaluator.members(definition.name), True)
    values = evaluator.values(definition.name)
    return {user: comparable(value) for user, value in values.items() if value is not None}


def answers(loaded: Settings, definition: Definition, case: Case) -> dict[str, Any]:
    """Return the answer of a database for each user, in the same form."""
    found: dict[str, Any] = {}
    with open_definition(loaded, loaded.audience(definition.name), as_of=case.as_of) as rows:
        column = None if isinstance(definition.query, Condition) else rows.columns.index("value")
        for row in (row for page in rows.pages() for row in page):
            user = str(row[0])
            assert user not in found, f"{user} is there twice"
            value = True if column is None else json.loads(row[column] or "null")
            if value is not None:
                found[user] = comparable(value)
    return found


def comparable(value: Any) -> Any:
    """Return a value so that what is the same is equal: numbers as doubles, JSON in a text without its spaces."""
    match value:
        case int() | float() if not isinstance(value, bool):
            return float(value)
        case list():
            return [comparable(one) for one in value]
        case dict():
            return {name: comparable(one) for name, one in value.items()}
        case str() if value.startswith(("[", "{")):
            with suppress(ValueError):
                return "JSON " + json.dumps(json.loads(value), sort_keys=True)
    return value


def config(case: Case, url: str) -> str:
    """Return the configuration for the definitions of a case on one database."""
    members = [] if case.shape.plain else ['properties = "properties"']
    profiles = ["[sources.s.profiles]", 'table = "users"', 'user = "user_id"', 'company = "company_id"']
    lines = [
        "[sources.s]",
        f"url = {quoted(url)}",
        "[sources.s.events]",
        *('table = "events"', 'user = "user_id"', 'name = "event"', 'timestamp = "occurred_at"'),
        *('context = "context"', 'source = "source_id"', *members),
        *(profiles if case.world.profiles is not None else []),
        *([] if case.shape.plain or case.world.profiles is None else ['traits = "traits"']),
    ]
    for one in sorted(case.definitions, key=lambda one: not isinstance(one.query, Condition)):
        lines += ["[[audiences]]" if isinstance(one.query, Condition) else "[[traits]]", f"name = {quoted(one.name)}"]
        lines += [f"query = {quoted(write(one.query, one.spelling))}", f"timezone = {quoted(one.timezone)}"]
    return "\n".join(lines) + "\n"


def quoted(value: str) -> str:
    """Write a text as TOML has it: as JSON."""
    return json.dumps(value, ensure_ascii=False)
