"""The schema of a database as its catalog tells it, in the form of `tests/facts/schema.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

FACTS = Path(__file__).parent.parent / "facts" / "schema.json"
SECTIONS = (
    "tables",
    "indexes",
    "constraints",
    "triggers",
    "enum_types",
    "sequences",
    "functions",
    "migrations",
)

_COLUMNS = """
SELECT c.relname AS table, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attnotnull AS not_null, a.attgenerated <> '' AS generated,
    pg_get_expr(d.adbin, d.adrelid) AS default
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    AND (c.relname = '_sqlx_migrations') = $1
ORDER BY c.relname, a.attnum
"""
_INDEXES = """
SELECT i.indrelid::regclass::text AS table, i.indexrelid::regclass::text AS name,
    pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
    AND i.indisvalid AND i.indisready
ORDER BY 1, 2
"""
# PostgreSQL 18 lists NOT NULL here too; the facts have it with the columns.
_CONSTRAINTS = """
SELECT conrelid::regclass::text AS table, conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype <> 'n' AND convalidated
    AND conrelid <> 'public._sqlx_migrations'::regclass
ORDER BY 1, 2
"""
_TRIGGERS = """
SELECT t.tgrelid::regclass::text AS table, t.tgname AS name, p.proname AS function,
    t.tgenabled::text AS enabled
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal
ORDER BY 1, 2
"""
_ENUM_TYPES = """
SELECT t.typname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
GROUP BY 1 ORDER BY 1
"""
_SEQUENCES = """
SELECT sequencename AS name, data_type::text AS type
FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1
"""
_FUNCTIONS = """
SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1
"""
_MIGRATIONS = """
SELECT version, description, encode(checksum, 'hex') AS sha384
FROM _sqlx_migrations WHERE success ORDER BY version
"""
# Every catalog row and every row of data with the transaction that wrote it.
_CATALOGS = (
    "pg_class",
    "pg_attribute",
    "pg_attrdef",
    "pg_constraint",
    "pg_index",
    "pg_proc",
    "pg_trigger",
    "pg_type",
    "pg_namespace",
)


@cache
def facts() -> dict[str, Any]:
    """Return the facts about the final schema."""
    content: dict[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
    return content


async def schema_of(connection: asyncpg.Connection) -> dict[str, Any]:
    """Return the sections of the facts as this database has them."""

    async def records(sql: str, *arguments: object) -> list[dict[str, Any]]:
        return [dict(record) for record in await connection.fetch(sql, *arguments)]

    tables: dict[str, list[dict[str, Any]]] = {}
    for column in await records(_COLUMNS, False):
        tables.setdefault(column.pop("table"), []).append(column)
    tracks = {fact["version"]: fact["track"] for fact in facts()["migrations"]}
    return {
        "tables": tables,
        "indexes": await records(_INDEXES),
        "constraints": await records(_CONSTRAINTS),
        "triggers": await records(_TRIGGERS),
        "enum_types": await records(_ENUM_TYPES),
        "sequences": await records(_SEQUENCES),
        "functions": [record["proname"] for record in await records(_FUNCTIONS)],
        "migrations": [
            {**record, "track": tracks.get(record["version"])}
            for record in await records(_MIGRATIONS)
        ],
    }


async def record_table(connection: asyncpg.Connection) -> list[tuple[str, str, bool, str | None]]:
    """Return name, type, NOT NULL and default of the columns of `_sqlx_migrations`."""
    columns = await connection.fetch(_COLUMNS, True)
    return [(c["name"], c["type"], c["not_null"], c["default"]) for c in columns]


async def fingerprint(connection: asyncpg.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of data, and all catalog rows, each with the transaction that wrote it."""
    result: dict[str, list[tuple[object, ...]]] = {}
    for catalog in _CATALOGS:
        sql = f"SELECT xmin::text, ctid::text FROM {catalog} ORDER BY ctid"
        result[catalog] = [tuple(record) for record in await connection.fetch(sql)]
    names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (name,) in names:
        sql = f'SELECT xmin::text, ctid::text, t::text FROM public."{name}" t ORDER BY ctid'
        result[name] = [tuple(record) for record in await connection.fetch(sql)]
    return result
