"""Images of all tables of a database: to compare them byte for byte, and to put them back."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

_TABLES = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
    FILTER (WHERE a.attgenerated = '') AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY c.relname
-- Other tables refer to the indexes.
ORDER BY c.relname <> 'indexes', c.relname
"""


class TableImages:
    """The tables of one database, and a copy of them as they were when this was made."""

    def __init__(self, sql: asyncpg.Connection, tables: dict[str, Sequence[str]]) -> None:
        self._sql = sql
        self.tables = tables
        # A row version (its place, the transaction that wrote it) and the text of its values.
        self._image = " UNION ALL ".join(
            f"SELECT '{table}' AS name, COALESCE(string_agg(t.ctid::text || ' ' || t.xmin::text"
            f" || ' ' || t::text, E'\\n' ORDER BY t.ctid), '') AS image FROM \"{table}\" AS t"
            for table in tables
        )
        lists = {
            table: ", ".join(f'"{column}"' for column in columns)
            for table, columns in tables.items()
        }
        self._restore = ";".join(
            [
                *(f'DELETE FROM "{table}"' for table in reversed(tables)),
                *(
                    f'INSERT INTO "{table}" ({columns}) SELECT {columns} FROM copies."{table}"'
                    for table, columns in lists.items()
                ),
            ]
        )

    @classmethod
    async def make(cls, sql: asyncpg.Connection) -> TableImages:
        """Copy all tables of the database."""
        rows = await sql.fetch(_TABLES)
        tables: dict[str, Sequence[str]] = {row["relname"]: row["columns"] for row in rows}
        await sql.execute("CREATE SCHEMA copies")
        for table in tables:
            await sql.execute(f'CREATE TABLE copies."{table}" AS TABLE public."{table}"')
        return cls(sql, tables)

    async def image(self) -> dict[str, str]:
        """Return the rows of each table as they are now."""
        return {row["name"]: row["image"] for row in await self._sql.fetch(self._image)}

    async def restore(self) -> None:
        """Put the copied rows back."""
        await self._sql.execute(self._restore)
