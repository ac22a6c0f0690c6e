"""The default of every setting, table by table.

The tables refer here, and nothing else states a default: what the file leaves out is what stands on this page. The
fields of a mapping are the exception: their defaults are the presets of `destinations.schematic.schematic_actions`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from audience_sync.core.model import GuardLimits, OnMissing

IDENTITY: Final = "userId"

# [database]
DATABASE_URL: Final = "sqlite:///audience_sync.db"

# [schematic]
API_KEY: Final = "${SCHEMATIC_API_KEY}"
ENVIRONMENT: Final = ""
CAPTURE_URL: Final = "https://c.schematichq.com"
API_URL: Final = "https://api.schematichq.com"
TIMEOUT: Final = timedelta(seconds=30)

# [delivery]
BATCH_SIZE: Final = 100
CONCURRENCY: Final = 8
MAX_REQUESTS_PER_SECOND: Final = 50.0
MAX_BACKOFF: Final = timedelta(minutes=15)

# [[hooks]]
HOOK_START: Final = "now"
HOOK_TIMEOUT: Final = timedelta(seconds=10)
IS_REQUIRED: Final = False
HOOK_CONCURRENCY: Final = 2
HOOK_REQUESTS_PER_SECOND: Final = 10.0

# [schedule], and that of an audience
EVERY: Final = timedelta(hours=2)
TIMEZONE: Final = "UTC"
JITTER_SHARE: Final = 0.5  # of `every`
JITTER_OF_CRON: Final = timedelta()

# [guard], and that of an audience
GUARD: Final = GuardLimits(
    max_exit_percent=30, max_entry_percent=200, max_update_percent=100, min_members=100, min_initial_members=0
)

# [retention]
KEEP_CHANGES: Final = timedelta(days=400)
KEEP_DELIVERIES: Final = timedelta(days=30)
KEEP_REJECTIONS: Final = timedelta(days=30)

# [keys]
PLACEHOLDERS: Final = (
    "NULL",
    "(null)",
    "<null>",
    "\\N",
    "None",
    "nil",
    "<nil>",
    "undefined",
    "NaN",
    "N/A",
    "#N/A",
    "#REF!",
    "#VALUE!",
    "#NAME?",
    "[object Object]",
    "00000000-0000-0000-0000-000000000000",
)
"""Texts that programs write where a value is missing."""

# [ingest]
ALLOW_REMOTE: Final = False

# [sources.NAME], its events and its profiles
STATEMENT_TIMEOUT: Final = timedelta(minutes=30)
SUMS_FIRST: Final = False
MEMORY_LIMIT: Final = "512MB"
USER_COLUMN: Final = "user_id"  # also of the identity in an audience's `sql`
EVENT_COLUMN: Final = "event"
TIMESTAMP_COLUMN: Final = "timestamp"

# [[audiences]] and [[traits]]
QUERY_TIMEZONE: Final = "UTC"
COMPANY_KEY: Final = "groupId"  # with a query, if the profiles have a company
IS_ENABLED: Final = True  # also of [[mappings]]
SEND_UPDATES: Final = True
ON_MISSING: Final = OnMissing.NULL
