"""The JSON schema of the configuration: it accepts what the program accepts, and explains every setting."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from audience_sync import demo_shop
from audience_sync.config import load
from audience_sync.config.example_file import comments, example
from audience_sync.config.json_schema import configuration_schema
from audience_sync.errors import ConfigError
from tests.commands import call

TEXT = example().read_text(encoding="utf-8")
SOURCE = '[sources.s]\nurl = "sqlite:///s.db"\n'
AUDIENCE = SOURCE + '[[audiences]]\nname = "A"\nsql = "SELECT 1 AS user_id"\n'
HOOK = '[[hooks]]\nname = "crm"\nurl = "https://example.com/h"\nsecret = "${CRM}"\n'
MAPPING = '[[mappings]]\nname = "M"\naction = "identifyUser"\n'


@cache
def validator() -> Draft7Validator:
    """Return a validator of configurations; the schema itself is valid."""
    schema = json.loads(json.dumps(configuration_schema()))
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def problems(text: str) -> list[str]:
    """Return what a validator says about a file, each with the path of the setting."""
    found = validator().iter_errors(tomllib.loads(text))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def settings(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every setting and table of a schema with its path."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}{name}", inner
        for part in (inner, inner.get("items"), inner.get("additionalProperties")):
            if isinstance(part, dict):
                yield from settings(part, f"{path}{name}.")


def switched_on(text: str) -> str:
    """Return the example with the settings on that are off, except alternatives of a setting above them."""
    kept, shown, table = [], set[str](), ""
    for line in text.splitlines():
        body = line.removeprefix("# ")
        if heading := re.match(r"\[+[\w.]+\]+", body):
            table = heading[0]
            shown -= {one for one in shown if one.startswith(table)}
        setting = re.match(r"\w+ = ", body)
        if setting and f"{table}{setting[0]}" in shown:
            continue
        shown.add(f"{table}{setting[0]}" if setting else "")
        kept.append(body if heading or setting else line)
    return "\n".join(kept)


def test_the_example_is_valid_with_all_settings() -> None:
    """The example passes as it is, and with every setting that is off in it."""
    everything = switched_on(TEXT)

    assert problems(TEXT) == []
    assert {"traits", "mappings"} <= tomllib.loads(everything).keys()
    assert problems(everything) == []


def test_a_hook_may_have_two_secrets() -> None:
    """One reference, or a list of them during a rotation."""
    assert problems(HOOK) == problems(HOOK.replace('"${CRM}"', '["${A}", "${B}"]')) == []


def test_the_configuration_of_the_demo_is_valid(tmp_path: Path) -> None:
    """The file that `demo` writes passes."""
    path = demo_shop.write_config(tmp_path, url="http://127.0.0.1:8480", key="sch_dev_sandbox")

    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("identiy = 'userId'\n", ": Additional properties are not allowed ('identiy' was unexpected)"),
        ("identity = ' '\n", "identity: ' ' does not match '\\\\S'"),
        ("[delivery]\nbatch_size = 0\n", "delivery.batch_size: 0 is less than the minimum of 1"),
        ("[delivery]\nbatch_size = '8'\n", "delivery.batch_size: '8' is not of type 'integer'"),
        ("[delivery]\nbatch_size = true\n", "delivery.batch_size: True is not of type 'integer'"),
        ("[delivery]\nmax_requests_per_second = 0\n", "delivery.max_requests_per_second: 0 is less than or equal to"),
        ("[delivery]\nmax_backoff = '15 minutes'\n", "delivery.max_backoff: '15 minutes' does not match"),
        ("[delivery]\nmax_backoff = '30s15m'\n", "delivery.max_backoff: '30s15m' does not match"),
        ("[delivery]\nmax_backoff = ''\n", "delivery.max_backoff: '' is too short"),
        ("[delivery]\nmax_backoff = 15\n", "delivery.max_backoff: 15 is not of type 'string'"),
        ("[schematic]\napi_key = 'sch_prod_1234'\n", "schematic.api_key: 'sch_prod_1234' does not match"),
        ("[schematic]\napi_key = '${SCHEMATIC_API_KEY'\n", "schematic.api_key: '${SCHEMATIC_API_KEY' does not match"),
        ("[schematic]\napi_url = 'ftp://example.com'\n", "schematic.api_url: 'ftp://example.com' does not match"),
        ("[ingest]\nwrite_keys = ['secret']\n", "ingest.write_keys.0: 'secret' does not match"),
        ("[ingest]\nlisten = 'localhost'\n", "ingest.listen: 'localhost' does not match"),
        ("[schedule]\ncron = '* * *'\n", "schedule.cron: '* * *' does not match"),
        ("[keys]\nplaceholders = ['']\n", "keys.placeholders.0: '' does not match"),
        (
            "[sources.s]\npath = 's.csv'\nmemory_limit = '8 apples'\n",
            "sources.s.memory_limit: '8 apples' does not match",
        ),
        ("[sources.s]\npath = 's.csv'\nseparator = ';;'\n", "sources.s.separator: ';;' does not match"),
        ("[sources.s]\npath = 's.csv'\ndate_order = 'ymd'\n", "sources.s.date_order: 'ymd' is not one of"),
        ("[sources.s]\npath = 's.csv'\ntypes = {a = 'int'}\n", "sources.s.types.a: 'int' is not one of"),
        (SOURCE + "[sources.s.events]\ntabel = 'events'\n", "sources.s.events: Additional properties"),
        (SOURCE + "[[audiences]]\nsql = 'SELECT 1'\n", "audiences.0: 'name' is a required property"),
        (AUDIENCE + "key = 'a b'\n", "audiences.0.key: 'a b' does not match"),
        (AUDIENCE + "enabled = 'yes'\n", "audiences.0.enabled: 'yes' is not of type 'boolean'"),
        (AUDIENCE + "user_keys = {userId = 7}\n", "audiences.0.user_keys.userId: 7 is not of type 'string'"),
        (
            AUDIENCE + "[audiences.guard]\nmin_members = -1\n",
            "audiences.0.guard.min_members: -1 is less than the minimum",
        ),
        (AUDIENCE + "on_missing = 'keep'\n", "audiences.0: Additional properties"),
        (
            AUDIENCE.replace("audiences", "traits") + "on_missing = 'drop'\n",
            "traits.0.on_missing: 'drop' is not one of",
        ),
        (AUDIENCE.replace("audiences", "traits") + "type = 'text'\n", "traits.0.type: 'text' is not one of"),
        (HOOK.replace("crm", "C R M"), "hooks.0.name: 'C R M' does not match"),
        (HOOK.replace('"${CRM}"', "'secret'"), "hooks.0.secret: 'secret' does not match"),
        (HOOK.replace('"${CRM}"', "[]"), "hooks.0.secret: [] should be non-empty"),
        (MAPPING.replace("identifyUser", "identify"), "mappings.0.action: 'identify' is not one of"),
    ],
)
def test_what_the_program_refuses_is_marked(tmp_path: Path, text: str, problem: str) -> None:
    """A mistake in one setting is a problem for both, at the same place."""
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    found = problems(text)

    assert any(one.startswith(problem) for one in found), found
    with pytest.raises(ConfigError):
        load(path, {})


@pytest.mark.parametrize("duration", ["30s", "15m", "1h30m", "400d", "1w", "1w1d1h1m1s"])
def test_durations_are_written_as_in_toml(duration: str) -> None:
    """Every spelling that the program reads passes."""
    assert problems(f"[retention]\nchanges = '{duration}'\n") == []


def test_every_setting_has_a_description_and_a_type() -> None:
    """An editor explains each setting with the comment of the example, and knows what it can be."""
    found = dict(settings(configuration_schema()))

    assert [path for path, one in found.items() if "type" not in one] == []
    assert [path for path, one in found.items() if not one.get("description")] == []
    assert found["delivery.max_backoff"]["default"] == "15m"
    assert found["delivery.max_backoff"]["description"] == "longest wait between two attempts"
    assert found["audiences.sql"]["description"] == "the members; :now is the time of the sync"
    assert found["traits.enabled"]["description"] == found["audiences.enabled"]["description"]


def test_there_are_no_nulls_and_references() -> None:
    """TOML has no null, and some editors ignore what stands next to a `$ref`."""
    text = json.dumps(configuration_schema())

    assert '"null"}' not in text
    assert "$ref" not in text


def test_comments_of_the_example_are_whole() -> None:
    """A comment of several lines is one description; that of a long text is behind it."""
    found = comments(TEXT)

    assert found["sources", "date_order"] == (
        'how to read 11/05/2026 in CSV and JSON files: "dmy" (day first) or "mdy"; without it, such dates are errors'
    )
    assert found[("delivery",)] == "how fast changes are sent"
    assert found["keys", "placeholders"].startswith("as the identity")


def test_the_command_prints_the_schema() -> None:
    """`schema` needs no configuration, and prints the schema alone."""
    printed = call(["schema"], {})

    assert (printed.code, printed.err) == (0, "")
    assert json.loads(printed.out) == json.loads(json.dumps(configuration_schema()))
