"""The heartbeat on the primary, which shows the age where nothing else does."""

from __future__ import annotations

from contextlib import AsyncExitStack

from proxy.demo.postgres import PostgresPair
from proxy.roles import Role
from proxy.store.heartbeat import Heart
from proxy.store.lag import HEARTBEAT_KEY, Writer
from tests.support.ages import AGE, BEAT, serving
from tests.support.postgres import Scratch, opened
from tests.support.waiting import until


class TestHeartbeat:
    async def test_one_node_at_a_time_stamps_and_another_takes_over(
        self, migrated_database: Scratch
    ) -> None:
        stamper = f"SELECT value::json ->> 'node' FROM kv WHERE key = '{HEARTBEAT_KEY}'"
        uri = migrated_database.primary_uri
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(serving(Role.METASTORE, uri, node_id="first"))
            await until(lambda: migrated_database.value(stamper))
            async with serving(Role.METASTORE, uri, node_id="second"):
                seen = set()

                async def stamps() -> int:
                    seen.add(await migrated_database.value(stamper.replace("'node'", "'at'")))
                    assert await migrated_database.value(stamper) == "first"
                    return len(seen) > 3

                await until(stamps)
                await first[0].close()

                async def has_taken_over() -> bool:
                    return await migrated_database.value(stamper) == "second"

                await until(has_taken_over, timeout=5)

    async def test_a_node_that_hangs_loses_the_lock(self, migrated_database: Scratch) -> None:
        async with opened(migrated_database.primary_uri) as database:
            silent = Heart(database, Writer("silent", "c", 1), interval=BEAT)
            other = Heart(database, Writer("other", "c", 2), interval=BEAT)
            try:
                assert await silent.beat()
                assert not await other.beat()
                # The server ends a session that is silent for too long, and with it the lock.
                await until(other.beat, timeout=5)
            finally:
                silent.close()
                other.close()

    async def test_a_stamp_does_not_wait_for_a_synchronous_standby(self, own: PostgresPair) -> None:
        async with serving(Role.METASTORE, own.primary_uri()):
            await own.primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await own.primary.execute("SELECT pg_reload_conf()")

            async def is_young() -> bool:
                shown = await own.primary.value("SHOW synchronous_standby_names")
                return shown == "nobody" and await own.primary.value(AGE, HEARTBEAT_KEY) < BEAT

            await until(is_young)
            await own.primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await own.primary.execute("SELECT pg_reload_conf()")

    async def test_it_can_be_turned_off(self, migrated_database: Scratch) -> None:
        uri = migrated_database.primary_uri
        async with serving(Role.METASTORE, uri, heartbeat=None) as (_, told):
            for _ in range(5):
                await told.replication()
            stamps = f"SELECT count(*) FROM kv WHERE key = '{HEARTBEAT_KEY}'"
            assert await migrated_database.value(stamps) == 0
