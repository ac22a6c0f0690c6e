"""Every statement on our own tables, as functions that take a connection: the caller owns the transaction.

Statements are SQL text that SQLite and Postgres both take; where they differ, the difference sits in one named
function. Timestamps are milliseconds since 1970, as in the tables.
"""
