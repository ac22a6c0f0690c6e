"""The columns of a query on MariaDB or MySQL: the server prepares the statement, and runs nothing.

PyMySQL has no prepared statements, but reads and writes the packets that they are made of.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from pymysql.connections import Connection
from pymysql.constants import COMMAND, FIELD_TYPE, FLAG
from pymysql.protocol import FieldDescriptorPacket

_BINARY = 63  # the character set of bytes
_HEAD = struct.Struct("<xIHH")  # of the answer: the statement's number, its columns, its parameters
_TYPES: Final = {
    FIELD_TYPE.DECIMAL: "decimal",
    FIELD_TYPE.NEWDECIMAL: "decimal",
    FIELD_TYPE.TINY: "tinyint",
    FIELD_TYPE.SHORT: "smallint",
    FIELD_TYPE.LONG: "int",
    FIELD_TYPE.INT24: "mediumint",
    FIELD_TYPE.LONGLONG: "bigint",
    FIELD_TYPE.FLOAT: "float",
    FIELD_TYPE.DOUBLE: "double",
    FIELD_TYPE.YEAR: "year",
    FIELD_TYPE.BIT: "bit",
    FIELD_TYPE.NULL: "null",
    FIELD_TYPE.TIMESTAMP: "timestamp",
    FIELD_TYPE.DATETIME: "datetime",
    FIELD_TYPE.DATE: "date",
    FIELD_TYPE.NEWDATE: "date",
    FIELD_TYPE.TIME: "time",
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.GEOMETRY: "geometry",
}
_TEXTS: Final = {FIELD_TYPE.STRING: ("char", "binary"), FIELD_TYPE.VAR_STRING: ("varchar", "varbinary")}


class PreparedColumn(NamedTuple):
    """A column: its name and type, and the column of a table that it is, if it is one: schema, table and name."""

    name: str
    type: str
    origin: tuple[str, str, str] | None


def prepared_columns(connection: Connection[Any], sql: str) -> list[PreparedColumn]:
    """Return the columns of a statement, none if it is not a query.

    Raises:
        pymysql.Error: the server refuses the statement.
    """
    connection._execute_command(COMMAND.COM_STMT_PREPARE, sql)  # noqa: SLF001 - PyMySQL has no public way
    number, columns, parameters = _HEAD.unpack_from(_packet(connection).get_all_data())
    for _ in range(parameters and parameters + 1):  # and the packet that ends them
        _packet(connection)
    found = [_packet(connection, FieldDescriptorPacket) for _ in range(columns)]
    if columns:
        _packet(connection)
    connection._execute_command(COMMAND.COM_STMT_CLOSE, struct.pack("<I", number))  # noqa: SLF001 - has no answer
    return [_column(field) for field in found]


def _packet(connection: Connection[Any], *kind: type[Any]) -> Any:
    return connection._read_packet(*kind)  # noqa: SLF001 - as above


def _column(field: Any) -> PreparedColumn:
    schema = field.db.decode() if isinstance(field.db, bytes) else field.db
    origin = (schema, field.org_table, field.org_name) if schema and field.org_table and field.org_name else None
    return PreparedColumn(field.name, _type(field), origin)


def _type(field: Any) -> str:
    code, is_bytes = field.type_code, field.charsetnr == _BINARY
    if field.flags & (FLAG.ENUM | FLAG.SET):
        return "enum" if field.flags & FLAG.ENUM else "set"
    if code in (FIELD_TYPE.TINY, FIELD_TYPE.BIT) and field.length == 1:
        return "boolean"  # TINYINT(1) and BIT(1)
    if code in _TYPES:
        return _TYPES[code]
    return _TEXTS.get(code, ("text", "blob"))[is_bytes]
