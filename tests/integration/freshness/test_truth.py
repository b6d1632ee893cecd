"""No answer is older than it says."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from contextlib import AsyncExitStack

from proxy.demo.postgres import PostgresPair
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import parse_lag
from tests.support.ages import BEAT, lag_is, paused, serving
from tests.support.postgres import Scratch
from tests.support.replication import Told
from tests.support.waiting import until


class TestTruth:
    """Counters with the time of their commit: what an answer's lag says against what it showed."""

    async def test_an_answer_is_as_old_as_what_was_known_before_it_was_read(
        self, primary: Told, replica: Told, migrated_database: Scratch
    ) -> None:
        uri = migrated_database.standby_uri
        async with serving(Role.READ_REPLICA, uri, node_id="busy") as (node, told):
            await lag_is(told, lambda lag: lag < 1)
            async with AsyncExitStack() as stack:
                for _ in range(node.config.pool.max_connections):
                    await stack.enter_async_context(node.database.acquire())
                call = asyncio.create_task(told.call("ListIndexTemplates"))
                await until(lambda: node.database.stats().waiting)
                since = time.monotonic()
                # Probes go on meanwhile, and find younger data than the call may get.
                seen: set[str] = set()

                async def has_beaten() -> bool:
                    seen.add((await told.replication()).lsn)
                    return len(seen) > 4

                await until(has_beaten)
                await lag_is(told, lambda lag: lag < 2 * BEAT)
                held = time.monotonic() - since
            assert float((await call)["x-metastore-lag"]) >= held

    async def test_no_answer_is_older_than_it_says(
        self, pg: PostgresPair, primary: Told, replica: Told, migrated_database: Scratch
    ) -> None:
        committed: list[float] = []
        await migrated_database.execute(
            "INSERT INTO index_templates VALUES ('counter', ARRAY['x'], ARRAY['y'], 1, '0')"
        )
        await pg.wait_caught_up()
        connection = await pg.primary.connect(migrated_database.name)
        stopped = asyncio.Event()

        async def write() -> None:
            count = "UPDATE index_templates SET index_template_json = $1"
            while not stopped.is_set():
                await connection.execute(count, str(len(committed) + 1))
                committed.append(time.monotonic())

        async def more(writes: int) -> None:
            enough = len(committed) + writes
            await until(lambda: len(committed) > enough or stopped.is_set())

        async def disturb() -> None:
            while not stopped.is_set():
                async with paused(pg):
                    await more(150)
                await more(150)

        tasks = [asyncio.create_task(write()), asyncio.create_task(disturb())]
        await lag_is(replica, lambda lag: lag < 5)
        checked = 0
        try:
            while checked < 1000:
                sent = time.monotonic()
                seen, lag = await counter(replica)
                assert lag is not None
                owed = bisect_right(committed, sent - lag)
                assert seen >= owed, lag
                checked += owed > 0
        finally:
            stopped.set()
            await asyncio.gather(*tasks)
            await connection.close()


async def counter(told: Told) -> tuple[int, float | None]:
    """Return the counter that a node shows, and how old it says that may be."""
    raw = pb.GetIndexTemplateRequest(template_id="counter").SerializeToString()
    call = told.channel.unary_unary(RPCS["GetIndexTemplate"].path)(raw, timeout=30)
    answer = pb.GetIndexTemplateResponse.FromString(await call)
    lag = parse_lag(dict(await call.trailing_metadata()).get("x-metastore-lag"))
    return int(answer.index_template_json), lag
