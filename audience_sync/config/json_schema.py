"""The JSON schema of the configuration file, with which editors complete and check it.

It has what the tables say about single settings, in the way TOML writes them, without `null`; and it has no `$ref`, so
that each setting has the comment of its own place in the example. `check` finds what depends on several settings.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from audience_sync.config.example_file import SettingPath, comments, example
from audience_sync.config.tables import Document
from audience_sync.core.text import short_duration

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
"""The version that all editors for TOML know."""

Schema = dict[str, Any]


class _TomlSchema(GenerateJsonSchema):
    """Pydantic's generator, with defaults as TOML writes them."""

    def encode_default(self, dft: Any) -> Any:
        return short_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


class _Builder:
    """Makes the schema of tables from pydantic's, whose tables are in `definitions`."""

    def __init__(self, definitions: Schema, comments_: dict[SettingPath, str]) -> None:
        self._definitions = definitions
        self._comments = comments_

    def table(self, schema: Schema, path: SettingPath) -> Schema:
        """Return the schema of a table at a path."""
        settings = {name: self._setting(inner, (*path, name)) for name, inner in schema["properties"].items()}
        made = {"type": "object", "additionalProperties": False, "properties": settings}
        return {**made, "required": schema["required"]} if "required" in schema else made

    def _setting(self, schema: Schema, path: SettingPath) -> Schema:
        kind = next((one for one in schema.get("anyOf", ()) if one != {"type": "null"}), schema)  # TOML has no null
        default = None if "$ref" in kind else schema.get("default")
        made = self._kind(kind, path)
        known = {"description": self._comment(path), "default": default}
        return {**{name: value for name, value in known.items() if value is not None}, **made}

    def _kind(self, schema: Schema, path: SettingPath) -> Schema:
        if "$ref" in schema:
            return self.table(self._definitions[schema["$ref"].rpartition("/")[2]], path)
        made = {name: value for name, value in schema.items() if name not in ("title", "default", "description")}
        if "patternProperties" in made:  # pydantic's form for names that must not be blank
            (made["additionalProperties"],) = made.pop("patternProperties").values()
        for name in ("items", "additionalProperties"):
            if isinstance(made.get(name), dict):
                made[name] = self._kind(made[name], path)
        return made

    def _comment(self, path: SettingPath) -> str | None:
        """Return the comment on a setting; a computed trait has the settings of an audience, too."""
        of_audience = ("audiences", *path[1:]) if path[0] == "traits" else path
        elsewhere = path[1:] if path[1:2] in (("schedule",), ("guard",)) else path
        return next((self._comments[one] for one in (path, of_audience, elsewhere) if one in self._comments), None)


def configuration_schema() -> Schema:
    """Return the JSON schema of the configuration file."""
    found = Document.model_json_schema(schema_generator=_TomlSchema)
    builder = _Builder(found["$defs"], comments(example().read_text(encoding="utf-8")))
    return {"$schema": DIALECT, "title": "Configuration of audience-sync", **builder.table(found, ())}
