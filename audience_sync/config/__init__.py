"""The configuration: one TOML file becomes one frozen `Settings`, or one error that names every problem in it.

`tables` is what the file may say, `settings` what the program reads; `loader` makes one of the other. Nothing here
opens a database or asks anything of the network, and keys are not looked up until `resolve_api_key` and
`resolve_write_keys`.

Adding a setting: a field in `tables` (a new type in `types` has a `WithJsonSchema`, and `HOLDS_REFERENCES` if it can
refer to a secret), its default in `defaults`, what the program reads of it in `settings` or `loader`, a line with a
comment in `config.example.toml`, which is its description in the JSON schema, and its text in the manual. Then run
`python -m tests.tasks commands`, which lists all settings in `configuration.md` anew.
"""

from __future__ import annotations

from audience_sync.config.freshness_rule import FreshnessRule
from audience_sync.config.loader import load, secret_names
from audience_sync.config.secrets import WebhookSecrets, resolve_api_key, resolve_hook, resolve_write_keys
from audience_sync.config.settings import Audience, Route, Schedule, Settings, Subscriber
from audience_sync.config.source_tables import EventsTable, ProfilesTable, Source
from audience_sync.config.tables import (
    DatabaseTable,
    DeliveryTable,
    HookTable,
    IngestTable,
    KeysTable,
    RetentionTable,
    SchematicTable,
)
from audience_sync.config.types import Address, SecretUrl, parse_duration

__all__ = [
    "Address",
    "Audience",
    "DatabaseTable",
    "DeliveryTable",
    "EventsTable",
    "FreshnessRule",
    "HookTable",
    "IngestTable",
    "KeysTable",
    "ProfilesTable",
    "RetentionTable",
    "Route",
    "Schedule",
    "SchematicTable",
    "SecretUrl",
    "Settings",
    "Source",
    "Subscriber",
    "WebhookSecrets",
    "load",
    "parse_duration",
    "resolve_api_key",
    "resolve_hook",
    "resolve_write_keys",
    "secret_names",
]
