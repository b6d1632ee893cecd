"""How PostgreSQL would run every statement that nodes send, with 1,000,000 splits.

Each is run in a transaction that is taken back, with statistics and, as after a restore, without;
with the plan for its values and, where PostgreSQL would keep that, with the one for all values.
"""

from __future__ import annotations

import asyncpg

from proxy.config import PoolSettings, parse_postgres_uri
from tests.bench.results import Figure, Report
from tests.bench.stage import Stage
from tests.support import plan_calls, plan_cases, plan_tables
from tests.support.plan_cases import Sizes
from tests.support.plans import Findings, RecordingDatabase, Sql, explain_all


async def measure(stage: Stage, report: Report, _rounds: int) -> None:
    """Look at all plans; each that reads more than it has to is in the figure's note."""
    findings = await check(stage.uri, Sizes(stage.many, stage.per_index, stage.all_indexes))
    report.add(
        Figure(
            "plans",
            f"plans that read too much, of {findings.plans}",
            len(findings.worst),
            "",
            0,
            note="; ".join(findings.worst),
        )
    )


async def check(uri: str, sizes: Sizes) -> Findings:
    """Return what is found in a database that `corpus` has filled."""
    database = RecordingDatabase(parse_postgres_uri(uri), PoolSettings(), read_only=False)
    await database.open()
    try:
        calls = await plan_calls.recorded(database)
    finally:
        await database.close()
    findings = Findings()
    sql: Sql = await asyncpg.connect(
        uri, server_settings={"TimeZone": "UTC"}, statement_cache_size=0
    )
    transaction = sql.transaction()
    await transaction.start()
    try:
        of = await plan_tables.prepare(sql)
        # Those that change many rows come last: what they leave is read by all after them.
        for statements in ([*calls, *plan_cases.lists(of, sizes)], plan_cases.named(of)):
            await plan_tables.analyze(sql)
            await explain_all(sql, statements, findings, analyzed=True)
            await plan_tables.forget_statistics(sql)
            await explain_all(sql, statements, findings, analyzed=False)
    finally:
        await transaction.rollback()
        await sql.close()
    return findings
