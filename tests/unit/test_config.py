"""The configuration: what a good file becomes, and what is said about a bad one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from audience_sync import config_path
from audience_sync.config import (
    Address,
    DeliveryTable,
    FreshnessRule,
    IngestTable,
    RetentionTable,
    Schedule,
    SchematicTable,
    SecretUrl,
    Settings,
    defaults,
    load,
    parse_duration,
    resolve_api_key,
    resolve_write_keys,
)
from audience_sync.config.source_tables import SourceTable
from audience_sync.config.tables import AudienceTable, Document, TraitTable
from audience_sync.core.model import GuardLimits, Json
from audience_sync.destinations.mappings import apply, presets
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.errors import ConfigError, UnknownName
from tests.places import without_place

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"

SHOP = '[sources.shop]\nurl = "sqlite:///shop.db"\n'
AUDIENCE = '[[audiences]]\nname = "Big Spenders"\nsql = "SELECT user_id FROM spenders"\n'

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a configuration file."""

    def write_file(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def message(path: Path, environ: Mapping[str, str] | None = None) -> str:
    """Return what loading the file complains about."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return str(caught.value)


def problems(path: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the problems that loading the file lists, without the heading."""
    heading, *lines = message(path, environ).split("\n")

    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert heading == f"{path} has {count}:"
    return [without_place(line.removeprefix("  ")) for line in lines]


# A good file


def test_least_file_has_every_default(write: Write) -> None:
    """A source and an audience are enough; everything else has the default of the contract."""
    path = write(SHOP + AUDIENCE)

    settings = load(path, {})

    assert settings.path == path
    assert settings.identity == "userId"
    assert str(settings.database.url) == f"sqlite:///{path.parent}/audience_sync.db"
    assert settings.schematic == SchematicTable()
    assert settings.delivery == DeliveryTable()
    assert settings.retention == RetentionTable()
    assert settings.ingest == IngestTable()
    assert settings.guard == defaults.GUARD
    audience = settings.audiences[0]
    assert (audience.name, audience.key, audience.source) == ("Big Spenders", "big_spenders", "shop")
    assert (audience.user_keys, audience.company_keys) == ({"userId": "user_id"}, {})
    assert (audience.enabled, audience.send_updates) == (True, True)
    assert audience.schedule == settings.schedule
    assert settings.schedule == Schedule(every=timedelta(hours=2), cron=None, timezone="UTC", jitter=timedelta(hours=1))


def test_file_without_audiences_loads(write: Write) -> None:
    """The last audience may leave the file: retracting it works from the database."""
    assert load(write(""), {}).audiences == ()


def test_audience_overrides_schedule_and_guard(write: Write) -> None:
    """What an audience says wins, what it leaves out comes from the default tables."""
    text = '[schedule]\nevery = "4h"\ntimezone = "Europe/Berlin"\n[guard]\nmin_members = 7\nmax_exit_percent = 10\n'
    own = 'schedule = { cron = "0 6 * * mon-fri" }\nguard = { max_exit_percent = 55.5 }\n'

    settings = load(write(text + SHOP + AUDIENCE + own), {})

    audience = settings.audiences[0]
    assert settings.schedule.jitter == timedelta(hours=2)
    assert audience.schedule == Schedule(
        every=None, cron="0 6 * * mon-fri", timezone="Europe/Berlin", jitter=timedelta()
    )
    assert str(audience.schedule.zone) == "Europe/Berlin"
    assert audience.guard == replace(defaults.GUARD, max_exit_percent=55.5, min_members=7)


def test_every_of_an_audience_drops_the_default_cron(write: Write) -> None:
    """An audience with a rhythm of its own does not keep the default's beside it."""
    text = '[schedule]\ncron = "0 6 * * *"\njitter = "5m"\n'
    own = 'schedule = { every = "1h30m", jitter = "0s" }\n'

    settings = load(write(text + SHOP + AUDIENCE + own), {})

    assert settings.schedule == Schedule(every=None, cron="0 6 * * *", timezone="UTC", jitter=timedelta(minutes=5))
    assert settings.audiences[0].schedule == Schedule(
        every=timedelta(minutes=90), cron=None, timezone="UTC", jitter=timedelta()
    )


def test_audience_is_found_by_key_and_by_name(write: Write) -> None:
    """Commands take either; an explicit key wins over the name; a slip is answered with what was meant."""
    settings = load(write(SHOP + AUDIENCE + 'key = "Spenders_2"\n'), {})

    assert settings.audience("Spenders_2") is settings.audience("Big Spenders") is settings.audiences[0]
    with pytest.raises(UnknownName, match=r"no audience `Spender_2` in .*config.toml \(did you mean `Spenders_2` or"):
        settings.audience("Spender_2")


def test_definition_hash_follows_the_definition(write: Write) -> None:
    """The hash changes with what decides who is in and under which identifiers, and with nothing else."""

    def hash_of(own: str = "", sql: str = "SELECT 1") -> str:
        audience = f'[[audiences]]\nname = "A"\nsql = "{sql}"\n'
        return load(write(SHOP + SHOP.replace("shop", "other") + audience + own), {}).audiences[0].definition_hash

    first = hash_of('source = "shop"')
    same = hash_of('source = "shop"\nenabled = false\nkey = "b"\nuser_keys = { userId = "user_id" }', "  SELECT 1 ")
    others = [
        hash_of('source = "other"'),
        hash_of('source = "shop"', "SELECT 2"),
        hash_of('source = "shop"\nuser_keys = { userId = "user_id", email = "user_id" }'),
        hash_of('source = "shop"\ncompany_keys = { email = "user_id" }'),
    ]

    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert same == first
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("400d", 34_560_000), ("1w", 604_800), ("0s", 0)],
)
def test_duration(text: str, seconds: int) -> None:
    """A duration means what a person reads."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "1.5h", "-1h", "30m1h", "1h 30m", "1y", "٣h", "1H", "99999999d"])
def test_no_duration(text: str) -> None:
    """What could be read in two ways is not read at all."""
    with pytest.raises(ValueError, match="must"):
        parse_duration(text)


# The example


def test_example_loads_without_any_variable() -> None:
    """The file that `init` writes is usable as it is, and every value it shows is the default."""
    settings = load(EXAMPLE, {})

    assert settings.schematic == SchematicTable()
    assert settings.delivery == DeliveryTable()
    assert settings.retention == RetentionTable()
    assert settings.ingest == IngestTable()
    assert settings.guard == settings.audiences[0].guard == defaults.GUARD
    assert settings.schedule == settings.audiences[0].schedule
    assert settings.schedule.jitter == timedelta(hours=1)
    assert settings.sources["shop"].statement_timeout == timedelta(minutes=30)


def settings_of(model: type[BaseModel], table: str = "") -> Iterator[str]:
    """Yield the full name of every setting that the model has, with the example's name for its source."""
    for name, field in model.model_fields.items():
        path = f"{table}.{name}".lstrip(".")
        kinds = [*get_args(field.annotation), field.annotation]
        held = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if held is TraitTable:  # what it has of an audience is explained there
            yield from (f"{path}.{own}" for own in TraitTable.model_fields.keys() - AudienceTable.model_fields.keys())
        elif held is not None:
            yield from settings_of(held, "sources.shop" if held is SourceTable else path)
        else:
            yield path


def test_example_shows_every_setting() -> None:
    """A setting that is not in the example does not exist for people, one that is only there is a lie."""
    shown, table = {"mappings.fields"}, ""
    fields: set[str] = set()
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"(?:# )?\[+([\w.]+)\]", line):
            table = f"{heading[1]}."
        elif setting := re.match(r"(?:# )?(\w+) = ", line):
            (fields if table == "mappings.fields." else shown).add(table + setting[1])

    of_audiences = {f"traits.{name}" for name in AudienceTable.model_fields}
    assert shown - of_audiences == set(settings_of(Document))
    assert fields == {f"mappings.fields.{field.name}" for action in ACTIONS.values() for field in action.fields}


def test_mappings_of_the_example_are_right(write: Write) -> None:
    """Taking away every # of the mappings leads to what the presets do; the company's traits come on top."""
    _, heading, block = EXAMPLE.read_text().partition("# [[mappings]]")
    text = re.sub(r"^# ?", "", heading + block, flags=re.MULTILINE)

    load(write(text), {})
    identify, track = load(write(re.sub(r"^company_traits.*", "", text, flags=re.MULTILINE)), {}).mappings

    event: dict[str, Json] = {
        "type": "identify",
        "userId": "u1",
        "timestamp": 0,
        "traits": {"vip": True},
        "context": {"groupId": "g1"},
    }
    assert [apply(mapping, event) for mapping in presets(ACTIONS.values())] == [
        apply(mapping, event) for mapping in (identify, track)
    ]
    event = {"type": "track", "event": "Order Completed", "userId": "u1", "timestamp": 0}
    assert apply(presets(ACTIONS.values())[1], event) == apply(track, event)


def test_queries_of_the_example_are_right(write: Write) -> None:
    """Taking away the # of events, profiles, the query and the computed trait leads to what they say."""
    text = EXAMPLE.read_text()
    rooms = "\n\n".join(text.split("# [sources.shop.events]")[1].split("\n\n")[:2])
    queries = "# [[audiences]]" + text.partition("# [[audiences]]")[2].partition("# [[mappings]]")[0]
    block = f"# [sources.shop.events]{rooms}\n{queries}"
    block = re.sub(r"^# (sql|path|query_file|secret_file) = .*instead of.*", "", block, flags=re.MULTILINE)
    source = '[sources.shop]\nurl = "sqlite:///shop.db"\n'

    settings = load(write(source + re.sub(r"^# ", "", block, flags=re.MULTILINE)), {})

    assert [one.key for one in settings.audiences] == ["big_spenders", "total_spend_90_days"]
    assert settings.audiences[0].company_keys == {"groupId": "company_id"}
    events, profiles = settings.sources["shop"].events, settings.sources["shop"].profiles
    assert (events and events.properties, profiles and profiles.traits) == ("properties", "traits")


def test_settings_switched_off_in_the_example_are_right(write: Write) -> None:
    """Taking away a # never leads to a mistake, except where the comment says "instead"."""
    one, heading, others = EXAMPLE.read_text().partition("# [[audiences]]")
    text = (
        re.sub(r"^# (?=\[audiences|key|jitter|timezone|every|freshness|m\w+ = )", "", one, flags=re.MULTILINE)
        + heading
        + others
    )

    audience = load(write(text), {}).audiences[0]

    assert audience.schedule == Schedule(
        every=timedelta(minutes=30), cron=None, timezone="Europe/Berlin", jitter=timedelta()
    )
    assert audience.guard == GuardLimits(50, 500, 100, 1000, 1)
    assert audience.freshness == FreshnessRule(
        sql="SELECT max(loaded_at) FROM orders WHERE region = 'EU'", max_age=timedelta(hours=1)
    )
    cron = load(write(text.replace('every = "30m"', "").replace('# cron = "0 6', 'cron = "0 6')), {})
    assert cron.audiences[0].schedule.cron == "0 6 * * mon-fri"


# A bad file

BAD = {
    "unknown_table": ("[databse]", "databse: unknown setting (did you mean `database`?)"),
    "unknown_setting": (
        "[delivery]\nbatchsize = 1",
        "delivery.batchsize: unknown setting (did you mean `batch_size`?)",
    ),
    "unknown_in_source": (
        '[sources.shop]\nurl = "sqlite:///s.db"\npassword = "x"',
        "sources.shop.password: unknown setting",
    ),
    "later_feature": (SHOP + AUDIENCE + 'compute = "x"', "audiences[0].compute: unknown setting"),
    "unknown_in_override": (
        SHOP + AUDIENCE + "guard = { max_exits_percent = 1 }",
        (
            "audiences[0].guard.max_exits_percent: unknown setting (did you mean `max_exit_percent` or "
            "`max_entry_percent` or `max_update_percent`?)"
        ),
    ),
    "missing_sql": (SHOP + '[[audiences]]\nname = "A"', "audiences[0].sql: missing"),
    "missing_name": (SHOP + '[[audiences]]\nsql = "SELECT 1"', "audiences[0].name: missing"),
    "missing_url": ("[sources.shop]", "sources.shop.url: missing"),
    "empty_sql": (SHOP + '[[audiences]]\nname = "A"\nsql = " \\n"', "audiences[0].sql: must not be empty"),
    "nul_in_a_name": (
        '[[mappings]]\nname = "a\\u0000"\naction = "trackEvent"',
        "mappings[0].name: must not contain a NUL character",
    ),
    "empty_identity": ('identity = ""', "identity: must not be empty"),
    "not_a_number": ('[delivery]\nconcurrency = "8"', "delivery.concurrency: must be a whole number"),
    "not_whole": ("[delivery]\nconcurrency = 1.5", "delivery.concurrency: must be a whole number"),
    "not_a_flag": (SHOP + AUDIENCE + "enabled = 1", "audiences[0].enabled: must be true or false"),
    "not_text": ("identity = 7", "identity: must be text in quotes"),
    "not_a_table": ("delivery = 7", "delivery: must be a table"),
    "not_a_list": (
        SHOP + AUDIENCE.replace("[[audiences]]", "[audiences]"),
        "audiences: must be a list of tables: start each table with [[audiences]]",
    ),
    "batch_too_large": ("[delivery]\nbatch_size = 101", "delivery.batch_size: must be at most 100"),
    "no_workers": ("[delivery]\nconcurrency = 0", "delivery.concurrency: must be at least 1"),
    "many_workers": ("[delivery]\nconcurrency = 257", "delivery.concurrency: must be at most 256"),
    "no_rate": (
        "[delivery]\nmax_requests_per_second = 0",
        "delivery.max_requests_per_second: must be greater than 0",
    ),
    "negative_percent": ("[guard]\nmax_exit_percent = -1", "guard.max_exit_percent: must be at least 0"),
    "endless_percent": ("[guard]\nmax_entry_percent = inf", "guard.max_entry_percent: must be a number"),
    "bad_duration": (
        '[schedule]\nevery = "2 hours"',
        'schedule.every: must be a duration such as "30s", "15m", "2h" or "400d"',
    ),
    "duration_is_a_number": (
        "[schematic]\ntimeout = 30",
        'schematic.timeout: must be a duration such as "30s", "15m", "2h" or "400d"',
    ),
    "zero_duration": ('[schedule]\nevery = "0s"', "schedule.every: must be greater than zero"),
    "eternal_duration": (
        '[retention]\nchanges = "999999999w"',
        'retention.changes: must be at most "36500d"',
    ),
    "bad_timezone": (
        '[schedule]\ntimezone = "Mars/Base"',
        'schedule.timezone: must be a time zone name such as "UTC" or "Europe/Berlin"',
    ),
    "bad_cron": (
        '[schedule]\ncron = "0 25 * * *"',
        (
            "schedule.cron: must be a cron expression with five fields, such as `0 */2 * * *`: Error"
            " validating expression '25': the last value (25) is higher than the maximum value (23)"
        ),
    ),
    "short_cron": (
        '[schedule]\ncron = "@daily"',
        (
            "schedule.cron: must be a cron expression with five fields, such as `0 */2 * * *`: Wrong"
            " number of fields; got 1, expected 5"
        ),
    ),
    "numbered_weekday": (
        '[schedule]\ncron = "0 6 * * 1-5"',
        (
            "schedule.cron: must use weekday names, as in `mon-fri` or `sat,sun`, because cron"
            " implementations number them differently"
        ),
    ),
    "never": ('[schedule]\ncron = "0 0 30 2 *"', "schedule.cron: must match at least one date, but matches none"),
    "every_and_cron": (
        '[schedule]\nevery = "2h"\ncron = "0 6 * * *"',
        "schedule.cron: cannot be combined with `every`; remove one of them",
    ),
    "every_and_cron_of_an_audience": (
        SHOP + AUDIENCE + 'schedule = { every = "2h", cron = "0 6 * * *" }',
        "audiences[0].schedule.cron: cannot be combined with `every`; remove one of them",
    ),
    "two_keys": (
        '[schematic]\napi_key = "${A}"\napi_key_file = "key"',
        "schematic.api_key_file: cannot be combined with `api_key`; remove one of them",
    ),
    "api_url": (
        '[schematic]\napi_url = "api.schematichq.com"',
        "schematic.api_url: must be a URL such as `https://example.com`, without a user, query or fragment",
    ),
    "no_source": (AUDIENCE, "audiences[0].source: missing, and the file does not define any [sources.NAME]"),
    "which_source": (
        SHOP + SHOP.replace("shop", "crm") + AUDIENCE,
        "audiences[0].source: missing: set it to one of `shop`, `crm`",
    ),
    "unknown_source": (
        SHOP + AUDIENCE + 'source = "shp"',
        "audiences[0].source: there is no [sources.shp] (did you mean `shop`?)",
    ),
    "no_identity": (
        SHOP + AUDIENCE + 'user_keys = { email = "email" }',
        "audiences[0].user_keys: must include the identity key `userId`",
    ),
    "empty_column": (
        SHOP + AUDIENCE + 'user_keys = { userId = "" }',
        "audiences[0].user_keys.userId: must not be empty",
    ),
    "empty_key_name": (
        SHOP + AUDIENCE + 'company_keys = { "" = "company_id" }',
        'audiences[0].company_keys."": must not be empty',
    ),
    "bad_key": (
        SHOP + AUDIENCE + 'key = "big-spenders"',
        "audiences[0].key: must contain only letters, digits and `_`, and must not be empty",
    ),
    "long_key": (
        SHOP + AUDIENCE + f'key = "{"k" * 256}"',
        "audiences[0].key: must be at most 255 characters long",
    ),
    "keyless_name": (
        SHOP + '[[audiences]]\nname = "🔥"\nsql = "SELECT 1"',
        "audiences[0].key: missing: the name '🔥' has no letters or digits to make a key from",
    ),
    "long_name": (
        SHOP + f'[[audiences]]\nname = "{"n" * 256}"\nsql = "SELECT 1"',
        "audiences[0].key: required here: the key made from the name would exceed 255 characters",
    ),
    "same_key": (
        SHOP + AUDIENCE + AUDIENCE.replace("Big Spenders", "big-spenders"),
        (
            "audiences[1].key: 'Big Spenders' (audiences[0]) and 'big-spenders' have the same key"
            " `big_spenders`; set a different `key` for one of them"
        ),
    ),
    "same_name": (
        SHOP + AUDIENCE + AUDIENCE,
        "audiences[1].name: is also the name of audiences[0]; rename one of them",
    ),
    "same_name_other_key": (
        SHOP + AUDIENCE + AUDIENCE + 'key = "b"',
        "audiences[1].name: is also the name of audiences[0]; rename one of them",
    ),
    "database_in_memory": (
        '[database]\nurl = "sqlite:///:memory:"',
        "database.url: must name a file, as in `sqlite:///audience_sync.db`, so that memberships are kept",
    ),
    "database_dialect": (
        '[database]\nurl = "mysql://reader@db/shop"',
        "database.url: must begin with `sqlite:///` or `postgresql://`",
    ),
    "no_url": (
        '[database]\nurl = "audience_sync.db"',
        "database.url: is not a database URL, as in `postgresql://user@host/database`",
    ),
    "listen": (
        '[ingest]\nlisten = "8080"\nwrite_keys = ["${KEY}"]',
        "ingest.listen: must be an address with a port, such as `127.0.0.1:8080` or `[::1]:8080`",
    ),
    "listen_without_key": (
        '[ingest]\nlisten = "127.0.0.1:8080"',
        'ingest.write_keys: missing: `listen` needs at least one key, as in `["${SEGMENT_WRITE_KEY}"]`',
    ),
    "listen_to_others": (
        '[ingest]\nlisten = "0.0.0.0:8080"\nwrite_keys = ["${KEY}"]',
        (
            "ingest.listen: is reachable from other machines: listen on `127.0.0.1` behind a proxy with TLS, "
            "or set `allow_remote = true`"
        ),
    ),
    "write_keys": (
        '[ingest]\nwrite_keys = "${KEY}"',
        'ingest.write_keys: must be a list, as in `["${SEGMENT_WRITE_KEY}"]`',
    ),
    "write_key": (
        '[ingest]\nwrite_keys = ["${KEY}", "hunter2"]',
        (
            "ingest.write_keys[1]: must not contain the key itself: write `${SEGMENT_WRITE_KEY}` and"
            " keep the key in the environment or a systemd credential"
        ),
    ),
    "write_key_number": ("[ingest]\nwrite_keys = [5]", "ingest.write_keys[0]: must be text in quotes"),
    "unset_variable": (
        '[sources.shop]\nurl = "postgresql+psycopg://${SHOP_USER}:${SHOP_PASSWORD}@db/shop"',
        (
            "sources.shop.url: `SHOP_USER` and `SHOP_PASSWORD` are not set as an environment variable"
            " or a systemd credential"
        ),
    ),
    "broken_reference": (
        '[sources.shop]\nurl = "sqlite:///${SHOP-DB}"',
        "sources.shop.url: has a `${` without a name and a closing `}`",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_problem_has_its_path_and_sentence(write: Write, text: str, expected: str) -> None:
    """Every mistake is named once, with its path, in words that tell what to write instead."""
    assert problems(write(text)) == [expected]


def test_all_problems_are_reported_at_once(write: Write) -> None:
    """All kinds of check run whatever the others find, and problems follow the file from top to bottom."""
    text = """
    idenity = "userId"
    [retention]
    changes = "soon"
    [database]
    url = "${DATABASE_URL}"
    [schedule]
    every = "never"
    cron = "0 6 * * *"
    [sources.shop]
    url = "nonsense"
    [sources.crm]
    url = "sqlite:///crm.db"
    [[audiences]]
    name = "VIP"
    source = "shop"
    sql = "SELECT 1"
    [[audiences]]
    name = "vip"
    enabled = "yes"
    """

    assert problems(write(text)) == [
        "idenity: unknown setting (did you mean `identity`?)",
        'retention.changes: must be a duration such as "30s", "15m", "2h" or "400d"',
        "database.url: `DATABASE_URL` is not set as an environment variable or a systemd credential",
        'schedule.every: must be a duration such as "30s", "15m", "2h" or "400d"',
        "schedule.cron: cannot be combined with `every`; remove one of them",
        "sources.shop.url: is not a database URL, as in `postgresql://user@host/database`",
        "audiences[1].sql: missing",
        "audiences[1].source: missing: set it to one of `shop`, `crm`",
        (
            "audiences[1].key: 'VIP' (audiences[0]) and 'vip' have the same key `vip`; set a different"
            " `key` for one of them"
        ),
        "audiences[1].enabled: must be true or false",
    ]


def test_checks_survive_any_shape(write: Write) -> None:
    """A value of the wrong shape is reported where it stands and breaks no other check."""
    text = (
        "identity = []\nschematic = 1\nsources = [1]\naudiences = [1, {name = 2, key = 3, source = 4, user_keys = 5}]"
    )

    assert problems(write(text)) == [
        "identity: must be text in quotes",
        "schematic: must be a table",
        "sources: must be a table",
        "audiences[0]: must be a table",
        "audiences[1].name: must be text in quotes",
        "audiences[1].key: must be text in quotes",
        "audiences[1].source: must be text in quotes",
        "audiences[1].user_keys: must be a table",
        "audiences[1].sql: missing",
    ]


# The file itself


QUOTE = 'put text in straight quotes, as in name = "VIP", and write true and false in lowercase'
SYNTAX = "correct the line: it is not valid TOML"
MORE = "expected newline or end of document after a statement"


@pytest.mark.parametrize(
    ("text", "expected", "hint"),
    [
        ('identity = "a"\n[database', "line 2, column 10: expected ']' at the end of a table declaration", SYNTAX),
        ('identity = "a"\nidentity = "b"', "line 2, column 15: cannot overwrite a value", SYNTAX),
        ('identity = "a" b', f"line 1, column 16: {MORE}", SYNTAX),
        ("[[audiences]]\nname = VIP", "line 2, column 8: invalid value", QUOTE),
        ("name = “VIP”", "line 1, column 8: invalid value", QUOTE),
        ("[schedule]\nevery = 2h", f"line 2, column 10: {MORE}", QUOTE),
        ("[ingest]\nallow_remote = True", "line 2, column 16: invalid value", QUOTE),
        ("[keys]\nplaceholders = [NULL]", "line 2, column 17: invalid value", QUOTE),
    ],
)
def test_syntax_error_names_line_column_and_remedy(write: Write, text: str, expected: str, hint: str) -> None:
    """A file that is not valid TOML names the line and column of the mistake; text needs quotation marks."""
    path = write(text)

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert str(caught.value) == f"{path}, {expected}"
    assert caught.value.hint == hint


def test_file_that_is_not_text(write: Write) -> None:
    """A file in another encoding is refused with its line; a byte order mark is no mistake."""
    path = write("")
    path.write_bytes(b'identity = "a"\n# caf\xe9\n')

    assert message(path) == f"{path}, line 2: the file is not UTF-8 text"
    path.write_bytes(b'\xef\xbb\xbfidentity = "a"\r\n')
    assert load(path, {}).identity == "a"


def test_file_that_is_nested_too_deeply(write: Write) -> None:
    """A parser that gives up is an error of the configuration, which a reload survives."""
    path = write("a = " + "[" * 3000)

    assert message(path) == f"{path}: the brackets in the file are nested too deeply"


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory, or nothing at all, in the place of the file is an error of the configuration."""
    assert message(tmp_path) == f"{tmp_path} cannot be read: Is a directory"
    absent = tmp_path / "absent.toml"
    assert message(absent) == f"configuration file not found; looked for {absent}"


def test_configuration_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then AUDIENCE_SYNC_CONFIG, then here, then /etc; what was named is never replaced by a default."""
    monkeypatch.chdir(tmp_path)
    named, variable, system = (tmp_path / name for name in ("named.toml", "variable.toml", "system.toml"))
    environ = {"AUDIENCE_SYNC_CONFIG": str(variable)}
    monkeypatch.setattr(config_path, "CONFIG_PATHS", (Path("config.toml"), system))

    with pytest.raises(ConfigError) as caught:
        config_path.find_config(None, {"AUDIENCE_SYNC_CONFIG": ""})

    assert str(caught.value) == (
        f"configuration file not found; looked for {tmp_path / 'config.toml'} and {tmp_path / 'system.toml'}"
    )
    assert caught.value.hint == "create one with `audience-sync init`"
    system.touch()
    assert config_path.find_config(None, {}) == system
    (tmp_path / "config.toml").touch()
    assert config_path.find_config(None, {}) == Path("config.toml")
    with pytest.raises(ConfigError, match=re.escape(f"looked for {variable}")):
        config_path.find_config(None, environ)
    variable.touch()
    assert config_path.find_config(None, environ) == variable
    with pytest.raises(ConfigError, match=re.escape(f"looked for {named}")):
        config_path.find_config(named, environ)
    named.touch()
    assert config_path.find_config(named, environ) == named


# URLs and secrets


def database_file(settings: Settings) -> str | None:
    """Return the file of the membership database."""
    return settings.database.url.get_secret_value().database


def test_relative_files_are_resolved_once(write: Write, tmp_path: Path) -> None:
    """The membership database lies in systemd's first state directory, a source beside the file, wherever we start."""
    path = write('[database]\nurl = "sqlite:///a.db"\n[sources.s]\nurl = "duckdb:///x 100%/b.db"\n')

    beside = load(path, {})
    in_state = load(path, {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"})

    assert database_file(beside) == str(tmp_path / "a.db")
    assert database_file(in_state) == "/var/lib/one/a.db"
    url = in_state.sources["s"].url
    assert url is not None
    assert url.get_secret_value().database == str(tmp_path / "x 100%/b.db")


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        ("sqlite", "/srv/a.db"),
        ("sqlite", "file:a.db"),
        ("duckdb", ":memory:"),
        ("duckdb", "md:shop"),
        ("mysql", "shop"),
    ],
)
def test_what_is_no_relative_file_is_left_alone(write: Write, dialect: str, name: str) -> None:
    """An absolute file, a URI and a database elsewhere mean what they say."""
    source = load(write(f'[sources.s]\nurl = "{dialect}:///{name}"\n'), {}).sources["s"]

    assert source.url is not None
    assert source.url.get_secret_value().database == name


def test_references_in_urls_are_expanded(write: Write, tmp_path: Path) -> None:
    """Variables and credentials may stand anywhere in a URL; a password is taken as it is, whatever signs it has."""
    (tmp_path / "SHOP_PASSWORD").write_text("p@ss/w:rd%41?#\n")
    path = write(
        '[database]\nurl = "${DATABASE_URL}"\n'
        '[sources.shop]\nurl = "postgresql+psycopg://reader:${SHOP_PASSWORD}@${SHOP_HOST}/shop"\n'
    )
    environ = {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "DATABASE_URL": "postgresql+psycopg://me:p%40ss@db/members",
        "SHOP_HOST": "replica:5433",
        "SHOP_PASSWORD": "",  # empty is unset: the credential counts
    }

    settings = load(path, environ)

    assert settings.database.url.get_secret_value().password == "p@ss"
    shop_url = settings.sources["shop"].url
    assert shop_url is not None
    shop = shop_url.get_secret_value()
    assert (shop.username, shop.password) == ("reader", "p@ss/w:rd%41?#")
    assert (shop.host, shop.port, shop.database) == ("replica", 5433, "shop")


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "hunter2"',
        'api_key = "${KEY} hunter2"',
        'api_url = "https://me:hunter2@example.com"',
        'api_url = "https://example.com/?key=hunter2"',
        'api_url = ["hunter2"]',
        "hunter = 'hunter2'",
    ],
)
def test_secret_in_the_file_is_refused_and_not_repeated(write: Write, line: str) -> None:
    """A key or a password that stands in the file is in no message, and the refusal says where it belongs."""
    said = message(write(f"[schematic]\n{line}\n"))

    assert "hunter2" not in said
    assert ("must not contain the key itself: write `${SCHEMATIC_API_KEY}`" in said) == ("api_key" in line)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:hunter2@db/x",
        "postgresql+psycopg://me:hunter2@db:hunter2/x",
        "postgresql+psycopg://me:x@hunter2@db/x",
        "hunter2",
        "postgresql+psycopg://me:hunter2@db/${UNSET}",
    ],
)
def test_url_that_is_refused_is_not_repeated(write: Write, url: str) -> None:
    """No problem with a URL shows any of it, neither in the message nor in the chain behind it."""
    with pytest.raises(ConfigError) as caught:
        load(write(f'[database]\nurl = "{url}"\n'), {})

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_settings_show_no_secret(write: Write) -> None:
    """Printing the settings, or a URL, shows neither password nor the query in which drivers take tokens."""
    text = '[sources.s]\nurl = "postgresql+psycopg://me:${P}@db/x?sslpassword=hunter2"\n'

    settings = load(write(text), {"P": "hunter2"})

    url = settings.sources["s"].url
    assert isinstance(url, SecretUrl)
    assert str(url) == f"{url}" == "postgresql+psycopg://me:***@db/x"
    for shown in (repr(settings), str(settings), repr(url), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in shown


def test_web_urls_lose_their_last_slash(write: Write) -> None:
    """Paths are appended to the URLs of Schematic: one slash, not two."""
    text = '[schematic]\ncapture_url = "http://127.0.0.1:8080/"\napi_url = "https://proxy.example.com/schematic/"\n'

    schematic = load(write(text), {}).schematic

    assert schematic.capture_url == "http://127.0.0.1:8080"
    assert schematic.api_url == "https://proxy.example.com/schematic"


def test_api_key_is_looked_up_when_it_is_needed(write: Write, tmp_path: Path) -> None:
    """The key comes from the variable, else the systemd credential; a file without it loads all the same."""
    schematic = load(write('[schematic]\napi_key = "${KEY}"\n'), {}).schematic
    (tmp_path / "KEY").write_text("from_credential\n")

    assert resolve_api_key(schematic, {"KEY": " from_variable "}).get_secret_value() == "from_variable"
    credential = resolve_api_key(schematic, {"CREDENTIALS_DIRECTORY": str(tmp_path), "KEY": ""})
    assert credential.get_secret_value() == "from_credential"
    assert "from_credential" not in repr(credential)


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}, {"CREDENTIALS_DIRECTORY": "/nowhere"}])
def test_api_key_that_is_not_there(environ: Mapping[str, str]) -> None:
    """A missing key is named with both remedies."""
    with pytest.raises(ConfigError) as caught:
        resolve_api_key(SchematicTable(api_key="${KEY}"), environ)

    assert str(caught.value) == (
        "the Schematic API key is missing: `KEY` is not set as an environment variable or a systemd credential"
    )
    assert caught.value.hint == "export KEY, or set LoadCredential=KEY:/path/of/the/key for the service"


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.1.2.3:1", "127.1.2.3", 1, True),
        ("[::1]:0", "::1", 0, True),
        ("localhost:65535", "localhost", 65535, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("[::]:8080", "::", 8080, False),
        ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080, False),
        ("events.example.com:8080", "events.example.com", 8080, False),
    ],
)
def test_address_is_loopback_or_said_to_be_remote(
    write: Write, text: str, host: str, port: int, loopback: bool
) -> None:
    """Every spelling of an address is read and written the same, and what others reach needs a word of its own."""
    settings = f'[ingest]\nlisten = "{text}"\nwrite_keys = ["${{KEY}}"]\n'

    listen = load(write(settings + "allow_remote = true\n"), {}).ingest.listen

    assert listen == Address(host, port)
    assert str(listen) == text
    assert listen.is_loopback is loopback
    assert loopback or "allow_remote" in message(write(settings))


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", ":8080", "::1:8080", "[127.0.0.1", "[x]:1", "h:65536", "h:-1", "h: 1", "http://h:1", "h:"]
)
def test_no_address(write: Write, text: str) -> None:
    """What is no address with a port is refused in the words that say how one looks."""
    path = write(f"[ingest]\nlisten = '{text}'\nwrite_keys = ['${{KEY}}']\n")

    assert problems(path) == ["ingest.listen: must be an address with a port, such as `127.0.0.1:8080` or `[::1]:8080`"]


def test_write_keys_are_looked_up_when_they_are_needed(write: Write, tmp_path: Path) -> None:
    """Write keys come from variables and credentials; a file without them loads all the same, and shows none."""
    ingest = load(write('[ingest]\nwrite_keys = ["${ONE}", "${OTHER}"]\n'), {}).ingest
    (tmp_path / "OTHER").write_text("from_credential\n")
    environ = {"ONE": "from_variable", "CREDENTIALS_DIRECTORY": str(tmp_path)}

    found = resolve_write_keys(ingest, environ)

    assert [key.get_secret_value() for key in found] == ["from_variable", "from_credential"]
    assert "from_" not in repr(found) + repr(ingest)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "the write key is missing: `KEY` is not set as an environment variable or a systemd credential"),
        ({"KEY": "hunter2:"}, "`KEY` is not a valid write key"),
        ({"KEY": "hunter2 hunter2"}, "`KEY` is not a valid write key"),
        ({"KEY": "hünter2"}, "`KEY` is not a valid write key"),
    ],
)
def test_write_key_that_cannot_be_used(environ: Mapping[str, str], expected: str) -> None:
    """A write key that is missing, or could never be sent, is named without being shown."""
    with pytest.raises(ConfigError) as caught:
        resolve_write_keys(IngestTable(write_keys=["${KEY}"]), environ)

    assert str(caught.value) == expected


def test_api_key_file(write: Write, tmp_path: Path) -> None:
    """The key may be in a file, named relative to the configuration; what is no key is refused without showing it."""
    schematic = load(write('[schematic]\napi_key_file = "schematic.key"\n'), {}).schematic
    key_file = tmp_path / "schematic.key"

    def refusal() -> str:
        with pytest.raises(ConfigError) as caught:
            resolve_api_key(schematic, {})
        return str(caught.value)

    assert refusal() == f"cannot read the Schematic API key from {key_file}: No such file or directory"
    key_file.write_text(" \n")
    assert refusal() == f"the Schematic API key file {key_file} is empty"
    for nonsense in (b"KEY=hunter2 x", b"hunter2\nhunter2", b"hunter2\xff"):
        key_file.write_bytes(nonsense)
        assert refusal() == f"the file {key_file} does not contain a valid Schematic API key"
    key_file.write_text("hunter2\n")
    assert resolve_api_key(schematic, {}).get_secret_value() == "hunter2"
