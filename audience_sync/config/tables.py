"""The tables of the file and their settings; an unknown setting is an error everywhere.

`None` means that the file does not say it; `loader` fills in what an audience leaves out. `defaults` has the values.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from audience_sync.config import defaults
from audience_sync.config.source_tables import SourceTable
from audience_sync.config.types import (
    ActionName,
    Count,
    Cron,
    DatabaseUrl,
    Duration,
    DurationOrZero,
    File,
    FileContext,
    HeaderName,
    HookAudiences,
    HookName,
    HookReference,
    HookSecrets,
    HookStart,
    HookUrl,
    Includes,
    Key,
    Listen,
    OnMissingName,
    Percent,
    Placeholders,
    Rate,
    Reference,
    Table,
    Text,
    Timezone,
    TraitTypeName,
    WebUrl,
    WriteKeys,
)


class DatabaseTable(Table):
    """`[database]`: where memberships are kept."""

    url: DatabaseUrl = Field(default=defaults.DATABASE_URL, validate_default=True)


class SchematicTable(Table):
    """`[schematic]`: where changes go, and where the key is found. The key itself is never in here."""

    api_key: Reference = defaults.API_KEY
    api_key_file: File | None = None
    environment: str = defaults.ENVIRONMENT
    capture_url: WebUrl = defaults.CAPTURE_URL
    api_url: WebUrl = defaults.API_URL
    timeout: Duration = defaults.TIMEOUT


class DeliveryTable(Table):
    """`[delivery]`: how fast changes are sent."""

    batch_size: int = Field(default=defaults.BATCH_SIZE, ge=1, le=100)
    concurrency: int = Field(default=defaults.CONCURRENCY, ge=1, le=256)
    max_requests_per_second: Rate = defaults.MAX_REQUESTS_PER_SECOND
    max_backoff: Duration = defaults.MAX_BACKOFF


class ScheduleTable(Table):
    """`[schedule]`, and what an audience has instead of it."""

    every: Duration | None = None
    cron: Cron | None = None
    timezone: Timezone | None = None
    jitter: DurationOrZero | None = None


class GuardTable(Table):
    """`[guard]`, and what an audience has instead of it."""

    max_exit_percent: Percent | None = None
    max_entry_percent: Percent | None = None
    max_update_percent: Percent | None = None
    min_members: Count | None = None
    min_initial_members: Count | None = None


class RetentionTable(Table):
    """`[retention]`: how long history is kept."""

    changes: Duration = defaults.KEEP_CHANGES
    deliveries: Duration = defaults.KEEP_DELIVERIES
    rejections: Duration = defaults.KEEP_REJECTIONS


class KeysTable(Table):
    """`[keys]`: which values do not identify a person or a company."""

    placeholders: Placeholders = defaults.PLACEHOLDERS


class IngestTable(Table):
    """`[ingest]`: where events of Segment's libraries are taken. The write keys themselves are never in here."""

    listen: Listen | None = None
    write_keys: WriteKeys = Field(default_factory=list)
    allow_remote: bool = defaults.ALLOW_REMOTE


class AudienceTable(Table):
    """`[[audiences]]`: one audience as it is written."""

    name: Text
    key: Key | None = None
    source: Text | None = None
    sql: Text | None = None
    query: Text | None = None
    sql_file: Text | None = None  # absolute once it was read: then `sql` has its text
    query_file: Text | None = None  # and `query` of this one
    timezone: Timezone = defaults.QUERY_TIMEZONE
    user_keys: dict[Text, Text] | None = None
    company_keys: dict[Text, Text] | None = None
    enabled: bool = defaults.IS_ENABLED
    send_updates: bool = defaults.SEND_UPDATES
    freshness: Text | None = None
    max_age: Duration | None = None
    schedule: ScheduleTable = ScheduleTable()
    guard: GuardTable = GuardTable()


class TraitTable(AudienceTable):
    """`[[traits]]`: one computed trait as it is written."""

    on_missing: OnMissingName = defaults.ON_MISSING
    type: TraitTypeName | None = None


class MappingTable(Table):
    """`[[mappings]]`: one mapping as it is written; `mapping_tables` makes it and finds what is wrong with it."""

    name: Text
    trigger: str | None = None
    action: ActionName
    enabled: bool = defaults.IS_ENABLED
    fields: dict[Text, Any] = Field(default_factory=dict)


class HookTable(Table):
    """`[[hooks]]`: one webhook, which gets a message for each change. Its secrets are never in here."""

    name: HookName
    url: HookUrl
    secret: HookSecrets | None = None
    secret_file: File | None = None
    headers: dict[HeaderName, HookReference] = Field(default_factory=dict)
    audiences: HookAudiences | None = None
    start: HookStart = defaults.HOOK_START
    required: bool = defaults.IS_REQUIRED
    timeout: Duration = defaults.HOOK_TIMEOUT
    batch_size: int = Field(default=defaults.BATCH_SIZE, ge=1, le=100)
    concurrency: int = Field(default=defaults.HOOK_CONCURRENCY, ge=1, le=256)
    max_requests_per_second: Rate = defaults.HOOK_REQUESTS_PER_SECOND
    max_backoff: Duration = defaults.MAX_BACKOFF

    @property
    def delivery(self) -> DeliveryTable:
        """Return how fast its messages are sent."""
        return DeliveryTable(
            batch_size=self.batch_size,
            concurrency=self.concurrency,
            max_requests_per_second=self.max_requests_per_second,
            max_backoff=self.max_backoff,
        )


class Document(Table):
    """The main file, with the lists of tables from the files that it includes."""

    identity: Text = defaults.IDENTITY
    include: Includes = Field(default_factory=list)
    database: DatabaseTable = Field(default_factory=dict, validate_default=True)
    schematic: SchematicTable = SchematicTable()
    delivery: DeliveryTable = DeliveryTable()
    schedule: ScheduleTable = ScheduleTable()
    guard: GuardTable = GuardTable()
    retention: RetentionTable = RetentionTable()
    keys: KeysTable = KeysTable()
    ingest: IngestTable = IngestTable()
    sources: dict[Text, SourceTable] = Field(default_factory=dict)
    audiences: list[AudienceTable] = Field(default_factory=list)
    traits: list[TraitTable] = Field(default_factory=list)
    mappings: list[MappingTable] = Field(default_factory=list)
    hooks: list[HookTable] = Field(default_factory=list)


def read_document(raw: dict[str, object], context: FileContext) -> Document:
    """Return the document that `raw` is; raise pydantic's ValidationError with everything that is wrong."""
    return Document.model_validate(raw, context=context)
