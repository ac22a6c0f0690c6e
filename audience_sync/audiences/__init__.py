"""From an audience or computed trait of the settings to its rows, in its source."""

from __future__ import annotations

from audience_sync.audiences.definition import Definition, columns_of, open_definition, reader_of_values, statement_of

__all__ = ["Definition", "columns_of", "open_definition", "reader_of_values", "statement_of"]
