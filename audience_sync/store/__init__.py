"""All statements on our own tables, as functions that take a connection; the caller owns the transaction.

Statements are SQL text for both SQLite and PostgreSQL; differences are isolated in named functions. Timestamps are
milliseconds since 1970, as in the tables.
"""
