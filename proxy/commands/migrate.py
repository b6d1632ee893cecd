"""The subcommand `migrate`: create or complete the schema, or tell what it lacks."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.commands.node_config import configure_logs, load
from proxy.config import NodeConfig
from proxy.store import migrations
from proxy.store.migration_manifest import Track
from proxy.store.pool import Database
from proxy.store.servers import Wanted


async def run(options: Namespace) -> int:
    """Apply the migrations, or report on them."""
    config = load(options, ["metastore"])
    configure_logs(config)
    if options.check:
        async with _opened(config, read_only=True) as database:
            return await _report_migrations(database)
    async with _opened(config, read_only=False) as database:
        report = await migrations.apply(database, lock=not config.postgres.skip_migration_locking)
        _say(f"required migrations: {len(report.applied)} applied in {report.seconds:.2f} s")
        _say("deferred migrations: running")
        deferred = await migrations.apply_deferred(database)
    _say(f"deferred migrations: {deferred.outcome.value} {deferred.error}".rstrip())
    return 1 if deferred.outcome is migrations.DeferredOutcome.FAILED else 0


@asynccontextmanager
async def _opened(config: NodeConfig, *, read_only: bool) -> AsyncIterator[Database]:
    # Of several servers, migrations run on the one that takes writes.
    wanted = Wanted.ANY if read_only else Wanted.PRIMARY
    database = Database(config.database_uri, config.pool, read_only=read_only, wanted=wanted)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def _report_migrations(database: Database) -> int:
    async with database.acquire() as session:
        states = await migrations.status(session)
    for state in states:
        track = state.track.value if state.track is not None else "-"
        _say(f"{state.version:>4}  {state.state.value:<8}  {track:<8}  {state.description}")
    wrong = [
        item
        for item in states
        if item.track is Track.REQUIRED and item.state is not migrations.State.APPLIED
    ]
    if wrong:
        sys.stderr.write(
            f"{len(wrong)} required migrations are missing or wrong: "
            "run `metastore-proxy migrate`\n"
        )
    return 1 if wrong else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
