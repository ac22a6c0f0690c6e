"""The database URLs that people have at hand work, for the membership database and for sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from audience_sync.config import load
from audience_sync.errors import ConfigError
from audience_sync.store.database import display_url


def urls_of(tmp_path: Path, url: str) -> tuple[URL, URL]:
    """Return the URL of the membership database and that of a source, as the program opens them."""
    path = tmp_path / "config.toml"
    path.write_text('[database]\nurl = "${DATABASE_URL}"\n[sources.shop]\nurl = "${DATABASE_URL}"\n')
    settings = load(path, {"DATABASE_URL": url})
    shop = settings.sources["shop"].url
    assert shop is not None
    return settings.database.url.get_secret_value(), shop.get_secret_value()


@pytest.mark.parametrize(
    "scheme",
    [
        "postgres",
        "postgresql",
        "postgresql+psycopg",
        "postgresql+psycopg2",
        "postgresql+asyncpg",
        "postgres+psycopg",
    ],
)
def test_every_postgresql_url_is_opened_with_psycopg(tmp_path: Path, scheme: str) -> None:
    """`postgres://`, as hosting companies write it, and a URL without a driver mean the driver that we use."""
    for url in urls_of(tmp_path, f"{scheme}://me:p%40ss@db:5433/x?sslmode=require"):
        assert url.render_as_string(hide_password=False) == "postgresql+psycopg://me:p%40ss@db:5433/x?sslmode=require"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:shop.db", "FOLDER/shop.db"),
        ("sqlite:data/shop.db", "FOLDER/data/shop.db"),
        ("sqlite:/srv/shop.db", "/srv/shop.db"),
        ("sqlite:///shop.db", "FOLDER/shop.db"),
        ("sqlite:////srv/shop.db", "/srv/shop.db"),
        ("sqlite+pysqlite:shop.db", "FOLDER/shop.db"),
    ],
)
def test_a_sqlite_file_needs_no_slashes(tmp_path: Path, url: str, file: str) -> None:
    """`sqlite:shop.db` is the same file as `sqlite:///shop.db`."""
    for found in urls_of(tmp_path, url):
        assert found.database == file.replace("FOLDER", str(tmp_path))


@pytest.mark.parametrize("url", ["mysql://db/shop", "postgresqlx://db/shop", "redshift://db/shop", "trino://db/shop"])
def test_other_databases_keep_their_dialect(tmp_path: Path, url: str) -> None:
    """A source may be anything that SQLAlchemy opens; which driver serves it is decided when it is opened."""
    path = tmp_path / "config.toml"
    path.write_text(f'[sources.shop]\nurl = "{url}"\n')
    found = load(path, {}).sources["shop"].url

    assert found is not None
    assert found.get_secret_value().render_as_string() == url


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_two_slashes_before_a_file_are_refused(tmp_path: Path, dialect: str) -> None:
    """`sqlite://shop.db` would name a host: the sentence says what to write."""
    path = tmp_path / "config.toml"
    path.write_text(f'[sources.shop]\nurl = "{dialect}://shop.db"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert f"must have three slashes before the file name, as in `{dialect}:///shop.db`" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgres://me@db/x", "postgresql+psycopg://me@db/x"),
        ("postgres://me:@db/x", "postgresql+psycopg://me@db/x"),
        ("postgres://me:secret@db:5433/x?sslmode=require", "postgresql+psycopg://me:***@db:5433/x"),
        ("postgres:///x?host=/run/postgresql&password=secret", "postgresql+psycopg:///x?host=/run/postgresql"),
        ("postgres://me@/x?host=db&port=5433&passfile=secret", "postgresql+psycopg://me@/x?host=db&port=5433"),
    ],
)
def test_a_url_is_shown_with_its_host_and_without_secrets(tmp_path: Path, url: str, seen: str) -> None:
    """`***` stands for a password that is there; a host stays, in the query as well, and nothing else of the query."""
    path = tmp_path / "config.toml"
    path.write_text(f'[database]\nurl = "{url.replace("secret", "${SECRET}")}"\n')
    settings = load(path, {"SECRET": "s3cret"})

    opened = settings.database.url.get_secret_value()
    assert opened.render_as_string(hide_password=False).count("s3cret") == url.count("secret")
    assert str(settings.database.url) == display_url(opened) == seen
