"""How PostgreSQL runs what nodes send: nothing reads a table where an index leads to the rows.

Many rows make the difference: `make bench BENCH_ARGS="--only plans"` looks at a million.
"""

from __future__ import annotations

import asyncpg
import pytest

from proxy.store import migrations
from tests.bench import corpus, plans
from tests.support.plan_cases import Sizes
from tests.support.plans import Findings, Sent, Sql, explain_all, literal
from tests.support.postgres import Scratch, opened

SIZES = Sizes(large=800, each=150, indexes=61)


async def test_every_statement_reads_what_it_needs(migrated_database: Scratch) -> None:
    uri = migrated_database.primary_uri
    async with opened(uri) as database:
        await migrations.apply_deferred(database)
    sql: Sql = await asyncpg.connect(uri)
    try:
        await corpus.fill_indexes(sql, 0, 2_000)
    finally:
        await sql.close()
    one = corpus.Group(0, 1, SIZES.large)
    await corpus.fill_splits(uri, one, corpus.Group(1, SIZES.indexes - 1, SIZES.each))

    findings = await plans.check(uri, SIZES)

    assert not findings.worst, "\n".join(findings.worst)
    # Of over 80 statements, with and without statistics; plans for all values are not always used.
    assert findings.plans > 200
    assert findings.unused > 0


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("number = $1", []),
        ("number + 0 = $1", ["by Seq Scan of filled"]),
        ("other = $1 AND number > 0", ["by Seq Scan of filled"]),
    ],
)
async def test_a_scan_is_told(migrated_database: Scratch, condition: str, told: list[str]) -> None:
    sql: Sql = await asyncpg.connect(migrated_database.primary_uri, statement_cache_size=0)
    try:
        await sql.execute(
            "CREATE TABLE filled AS SELECT n AS number, n AS other, repeat('x', 500) AS text "
            "FROM generate_series(1, 5000) AS n; "
            "ALTER TABLE filled ADD PRIMARY KEY (number); ANALYZE filled"
        )
        findings = Findings()
        async with sql.transaction():
            sent = Sent("a read", f"SELECT * FROM filled WHERE {condition}", (7,))
            await explain_all(sql, [sent], findings, analyzed=True)
    finally:
        await sql.close()

    assert findings.plans > 0
    assert all(one.startswith("a read, with statistics, for ") for one in findings.worst)
    assert [*{one[one.index("by ") :].partition(" (")[0] for one in findings.worst}] == told


@pytest.mark.parametrize(
    "value",
    [None, 7, True, "it's", [], ["a,b", '"', "\\", "", "{}", None, "it's"]],
)
async def test_values_are_written_as_they_are(migrated_database: Scratch, value: object) -> None:
    kind = {bool: "bool", int: "int", str: "text", list: "text[]"}.get(type(value), "text")
    written = (
        [None if one is None else str(one) for one in value] if isinstance(value, list) else value
    )

    found = await migrated_database.value(f"SELECT {literal(value)}::{kind}")

    assert found == written
