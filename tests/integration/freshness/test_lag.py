"""How old a replica's node says its data may be."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from proxy import errors
from proxy.demo.postgres import PostgresPair
from proxy.roles import Role
from proxy.routing.consistency import parse_lsn
from proxy.store.lag import HEARTBEAT_KEY
from tests.support.ages import AGE, lag_is, paused, serving
from tests.support.postgres import Credentials, Scratch
from tests.support.replication import Told
from tests.support.servers import end_server
from tests.support.waiting import until


@asynccontextmanager
async def forwarding(to: Callable[[], int]) -> AsyncIterator[int]:
    """Pass each connection on to a port of its own choice, as a balancer does."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", to())
        await asyncio.gather(copy(reader, here), copy(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await end_server(server)


class TestLag:
    async def test_an_idle_primary_does_not_make_its_replica_old(
        self, primary: Told, replica: Told, migrated_database: Scratch
    ) -> None:
        await lag_is(replica, lambda lag: lag < 2)
        stamp = f"SELECT value FROM kv WHERE key = '{HEARTBEAT_KEY}'"
        seen: set[object] = set()

        async def is_beating() -> bool:
            seen.add(await migrated_database.value(stamp))
            lag = await replica.lag()
            assert lag is not None
            assert lag < 2
            return len(seen) > 4

        await until(is_beating)

    async def test_paused_replay_makes_it_grow_and_resumed_replay_shrink(
        self, pg: PostgresPair, primary: Told, replica: Told
    ) -> None:
        await lag_is(replica, lambda lag: lag < 1)
        async with paused(pg):
            since = time.monotonic()
            await lag_is(replica, lambda lag: lag > 2)
            lag = await replica.lag()
            assert lag is not None
            assert lag > time.monotonic() - since - 1
        await lag_is(replica, lambda lag: lag < 1)

    async def test_a_stopped_wal_receiver_makes_it_grow(self, own: PostgresPair) -> None:
        standby = own.standby
        async with (
            serving(Role.METASTORE, own.primary_uri()),
            serving(Role.READ_REPLICA, own.standby_uri()) as (_, told),
        ):
            await lag_is(told, lambda lag: lag < 1)
            await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await standby.execute("SELECT pg_reload_conf()")
            await lag_is(told, lambda lag: lag > 2)
            await standby.execute("ALTER SYSTEM RESET primary_conninfo")

    async def test_a_standby_whose_replay_timestamp_is_null_is_as_old_as_its_heartbeat(
        self, own: PostgresPair
    ) -> None:
        async with serving(Role.METASTORE, own.primary_uri()):
            await until(lambda: own.primary.value("SELECT count(*) FROM kv"))
        await own.primary.execute("CHECKPOINT")
        await own.wait_caught_up()
        await own.standby.execute("CHECKPOINT")
        await own.standby.restart()
        replayed = "SELECT pg_last_xact_replay_timestamp() IS NULL"
        assert await own.standby.value(replayed) is True
        async with serving(Role.READ_REPLICA, own.standby_uri()) as (_, told):
            lag = await told.lag()
            age = await own.primary.value(AGE, HEARTBEAT_KEY)
            assert lag is not None
            assert float(age) - 0.5 < lag < float(age) + 0.5

    async def test_a_standby_without_a_heartbeat_is_of_unknown_age(
        self, migrated_database: Scratch
    ) -> None:
        uri = migrated_database.standby_uri
        async with serving(Role.READ_REPLICA, uri) as (node, told):
            assert await told.lag() is None
            assert not node.vector().fresh
            assert node.vector().stale

    async def test_a_stamp_from_the_future_does_not_hide_lag(
        self, pg: PostgresPair, replica: Told, migrated_database: Scratch
    ) -> None:
        async def stamp(ahead: float) -> None:
            await migrated_database.execute(
                f"""
                INSERT INTO kv (key, value) SELECT '{HEARTBEAT_KEY}', json_build_object(
                    'at', extract(epoch FROM clock_timestamp()) + {ahead}, 'timeline', 1)::text
                ON CONFLICT (key) DO UPDATE SET value = excluded.value
                """
            )

        await stamp(3600.0)
        await lag_is(replica, lambda lag: lag < 2)
        async with paused(pg):
            await lag_is(replica, lambda lag: lag > 2)
        await stamp(3600.0)
        await lag_is(replica, lambda lag: lag < 2)
        # Set right: for a while the bound is too large, never too small.
        await stamp(0.0)
        await lag_is(replica, lambda lag: lag > 3500)

    async def test_a_promoted_replica_grows_old_apart_from_its_primary(
        self, own: PostgresPair
    ) -> None:
        async with (
            serving(Role.METASTORE, own.primary_uri()) as (_, primary),
            serving(Role.READ_REPLICA, own.standby_uri()) as (node, told),
        ):
            await lag_is(told, lambda lag: lag < 1)
            await own.promote()
            await lag_is(told, lambda lag: lag > 2)
            answer = await told.replication()
            assert (answer.in_recovery, answer.timeline) == (False, 2)
            assert (await primary.replication()).timeline == 1
            assert node.readiness.is_ready
            async with serving(Role.METASTORE, own.standby_uri()):
                await lag_is(told, lambda lag: lag < 1)

    async def test_a_standby_that_follows_the_promoted_one_tells_its_timeline(
        self, own: PostgresPair
    ) -> None:
        second = await own.add_standby()
        async with serving(Role.METASTORE, own.primary_uri()):
            await until(lambda: own.primary.value("SELECT count(*) FROM kv"))
            await own.wait_caught_up()
        await own.primary.stop()
        await own.promote()
        slot = "SELECT pg_create_physical_replication_slot('standby2')"
        await own.standby.value(slot)
        conninfo = f"host=127.0.0.1 port={own.standby.port} user=postgres password={own.password}"
        await second.execute(f"ALTER SYSTEM SET primary_conninfo = '{conninfo}'")
        await second.execute("SELECT pg_reload_conf()")
        async with (
            serving(Role.METASTORE, own.standby.uri()),
            serving(Role.READ_REPLICA, second.uri()) as (_, told),
        ):

            async def is_on_the_new_one() -> bool:
                return (await told.replication()).timeline == 2

            await until(is_on_the_new_one)
            await lag_is(told, lambda lag: lag < 2)

    async def test_a_balancer_before_two_standbys_makes_the_age_unknown(
        self, own: PostgresPair
    ) -> None:
        second = await own.add_standby()
        ports = itertools.cycle([own.standby.port, second.port])
        async with (
            serving(Role.METASTORE, own.primary_uri()),
            forwarding(lambda: next(ports)) as port,
        ):
            uri = own.standby_uri().replace(f":{own.standby.port}/", f":{port}/")
            async with serving(Role.READ_REPLICA, uri) as (node, told), AsyncExitStack() as stack:
                # Two sessions at once, and so on two servers.
                for _ in range(2):
                    await stack.enter_async_context(node.database.acquire())

                async def is_unknown() -> bool:
                    answer = await told.replication()
                    return not answer.HasField("lag") and answer.lsn == ""

                await until(is_unknown)
                with pytest.raises(errors.Unavailable):
                    await told.call("ListIndexTemplates", min_lsn="0/1")

    async def test_a_user_who_may_not_read_the_control_file_still_tells_positions(
        self, primary: Told, migrated_database: Scratch, readonly_user: Credentials
    ) -> None:
        for name in ("system", "checkpoint", "recovery"):
            revoke = f"REVOKE EXECUTE ON FUNCTION pg_control_{name}() FROM PUBLIC"
            await migrated_database.execute(revoke)
        _, uri = migrated_database.uris_as(readonly_user)
        async with serving(Role.READ_REPLICA, uri) as (_, told):
            await lag_is(told, lambda lag: lag < 5)
            answer = await told.replication()
            assert answer.timeline == 1
            assert answer.cluster_identity == ""
            assert parse_lsn(answer.lsn) is not None
