"""Every secret that a configuration refers to is known by its name, without its value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from audience_sync.cli.systemd_units import Unit
from audience_sync.config import load, secret_names
from audience_sync.config.secrets import names_in
from audience_sync.config.tables import Document
from audience_sync.config.types import FileContext
from audience_sync.errors import ConfigError

WHOLE = """\
[database]
url = "postgresql://sync:${DB_PASSWORD}@db/members"
[ingest]
listen = "127.0.0.1:8080"
write_keys = ["${KEY_A}", "${KEY_B}"]
[keys]
placeholders = ["${userId}"]
[sources.shop]
url = "postgresql://${SHOP_USER}:${SHOP_PASSWORD}@db/shop"
[sources.shop.events]
sql = "SELECT '${not_one}'"
[sources.other]
url = "postgresql://${SHOP_USER}@db/other"
[[audiences]]
name = "A"
source = "shop"
sql = "SELECT '${not_one}' AS user_id"
"""
NAMES = ("DB_PASSWORD", "SCHEMATIC_API_KEY", "KEY_A", "KEY_B", "SHOP_USER", "SHOP_PASSWORD")


def written(folder: Path, text: str) -> Path:
    """Return the path of a configuration file."""
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_every_reference_is_found_where_references_are_looked_up(tmp_path: Path) -> None:
    """URLs, the API key and write keys; in SQL and in placeholders `${…}` is text. Nothing has to be set."""
    path = written(tmp_path, WHOLE)

    assert secret_names(path) == NAMES
    with pytest.raises(ConfigError, match="`DB_PASSWORD` is not set"):
        load(path, {})
    assert load(path, dict.fromkeys(NAMES, "x")).path == path


def settings_in(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the type of every setting of a table and of the tables in it."""
    for name, field in model.model_fields.items():
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        tables = [one for one in kinds_in(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
        for table in tables:
            yield from settings_in(table, f"{path}{name}.")
        if not tables:
            yield f"{path}{name}", kind


def kinds_in(kind: Any) -> Iterator[Any]:
    """Yield a type and those that it is made of."""
    yield kind
    for one in get_args(kind):
        yield from kinds_in(one)


def looks_up(kind: Any, value: object) -> bool:
    """Return whether a setting takes a reference for what it is: text is refused in its place, or its name is unset."""
    adapter = TypeAdapter(kind)

    def refusal(tried: object) -> str | None:
        try:
            adapter.validate_python(tried, context=FileContext(Path("/"), {}))
        except ValidationError as error:
            return str(error)
        return None

    plain = json.loads(json.dumps(value).replace("${NAME}", "name"))
    refused = refusal(value)
    return (refused is None and refusal(plain) is not None) or "`NAME` is not set" in (refused or "")


def test_every_setting_that_looks_up_a_reference_is_marked() -> None:
    """A new setting with a secret is in the unit of the service, too."""
    shapes: list[object] = ["${NAME}", ["${NAME}"], {"Name": "${NAME}"}, "https://${NAME}@example.com/x"]
    found = {
        path: [*names_in(shape, kind)]
        for path, kind in settings_in(Document)
        for shape in shapes
        if looks_up(kind, shape)
    }

    assert found.keys() >= {"database.url", "schematic.api_key", "ingest.write_keys", "sources.url"}
    assert {path for path, names in found.items() if names != ["NAME"]} == set()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ("SCHEMATIC_API_KEY",)),  # the default
        ('[schematic]\napi_key = "${OTHER}"', ("OTHER",)),
        ('[schematic]\napi_key_file = "key"', ()),
        ('[schematic]\napi_key = 7\n[sources]\nshop = "${X}"\n[ingest]\nwrite_keys = "${Y}"', ("Y",)),
        ('unknown = "${X}"\n[sources.shop]\nurl = "${URL}"\nwrong = 1', ("SCHEMATIC_API_KEY", "URL")),
    ],
)
def test_the_file_need_not_be_complete(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    """The names are needed before anything works; a key from a file needs no credential."""
    assert secret_names(written(tmp_path, text)) == names


def test_what_is_not_toml_has_no_names(tmp_path: Path) -> None:
    """A unit without the credentials that it needs would be worse than none."""
    with pytest.raises(ConfigError, match="line 1, column 4"):
        secret_names(written(tmp_path, "url"))


def test_names_that_differ_in_case_have_files_of_their_own() -> None:
    """Files have the names of secrets in lower case, where that is unambiguous."""
    unit = Unit(("x",), Path("/c.toml"), None, ("API", "Pass", "PASS"))

    assert unit.credentials == {
        "API": "/etc/audience-sync/api",
        "Pass": "/etc/audience-sync/Pass",
        "PASS": "/etc/audience-sync/PASS",
    }
