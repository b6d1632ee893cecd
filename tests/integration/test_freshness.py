"""How old a replica's node says its data may be, and what callers may ask of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest

from proxy import errors
from proxy.demo.postgres import PostgresPair
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import parse_lag, parse_lsn
from proxy.store.heartbeat import Heart
from proxy.store.lag import HEARTBEAT_KEY, Writer
from tests.support.nodes import node_config, running
from tests.support.pairs import QuickPair
from tests.support.postgres import Credentials, Scratch, opened
from tests.support.replication import Told, telling
from tests.support.servers import end_server
from tests.support.waiting import until

BEAT = 0.2
AGE = "SELECT extract(epoch FROM now()) - (value::json ->> 'at')::float8 FROM kv WHERE key = $1"


@asynccontextmanager
async def serving(
    role: Role, uri: str, *, node_id: str = "node-1", heartbeat: float | None = BEAT
) -> AsyncIterator[tuple[Node, Told]]:
    """Run a node with a short heartbeat and probe; connect to it."""
    config = node_config(role, uri, node_id=node_id)
    proxy = replace(config.proxy, heartbeat_interval=heartbeat, probe_interval=0.1)
    async with running(replace(config, proxy=proxy)) as node, telling(node) as told:
        yield node, told


@pytest.fixture
async def primary(migrated_database: Scratch) -> AsyncIterator[Told]:
    """A `metastore` node that stamps the heartbeat."""
    async with serving(Role.METASTORE, migrated_database.primary_uri) as (_, told):
        yield told


@pytest.fixture
async def replica(migrated_database: Scratch) -> AsyncIterator[Told]:
    """A replica's node on the standby."""
    uri = migrated_database.standby_uri
    async with serving(Role.READ_REPLICA, uri, node_id="replica-1") as (_, told):
        yield told


@pytest.fixture
async def own() -> AsyncIterator[PostgresPair]:
    """A pair that a test may break."""
    async with QuickPair() as pair:
        yield pair


@asynccontextmanager
async def paused(pair: PostgresPair) -> AsyncIterator[None]:
    await pair.pause_replay()
    try:
        yield
    finally:
        await pair.resume_replay()


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


async def lag_is(told: Told, condition: Callable[[float], bool], *, timeout: float = 20.0) -> None:
    async def holds() -> bool:
        lag = await told.lag()
        return lag is not None and condition(lag)

    await until(holds, timeout=timeout)


class TestReplication:
    async def test_primary_and_standby_tell_the_same_cluster_and_timeline(
        self, pg: PostgresPair, primary: Told, replica: Told
    ) -> None:
        await pg.wait_caught_up()
        one, two = await primary.replication(), await replica.replication()
        assert (one.node_id, one.role, one.in_recovery) == ("node-1", "metastore", False)
        assert (two.node_id, two.role, two.in_recovery) == (
            "replica-1",
            "metastore_read_replica",
            True,
        )
        assert one.timeline == two.timeline == 1
        assert one.cluster_identity == two.cluster_identity != ""
        assert one.database_reachable
        assert two.database_reachable

    async def test_another_database_of_the_cluster_is_another_cluster(
        self, primary: Told, shared_scratch: Scratch
    ) -> None:
        uri = shared_scratch.standby_uri
        async with serving(Role.READ_REPLICA, uri) as (_, other):
            mine, theirs = await primary.replication(), await other.replication()
            assert mine.cluster_identity != theirs.cluster_identity != ""

    async def test_another_cluster_is_another_cluster(
        self, primary: Told, own: PostgresPair
    ) -> None:
        async with serving(Role.METASTORE, own.primary_uri()) as (_, other):
            mine, theirs = await primary.replication(), await other.replication()
            assert mine.cluster_identity != theirs.cluster_identity != ""

    async def test_a_user_with_nothing_but_select_tells_everything(
        self, primary: Told, migrated_database: Scratch, readonly_user: Credentials
    ) -> None:
        _, uri = migrated_database.uris_as(readonly_user)
        async with serving(Role.READ_REPLICA, uri) as (_, told):
            await lag_is(told, lambda lag: lag < 5)
            answer, of_primary = await told.replication(), await primary.replication()
            assert answer.timeline == 1
            assert answer.cluster_identity == of_primary.cluster_identity
            assert parse_lsn(answer.lsn) is not None

    async def test_a_caught_up_standby_reaches_what_an_idle_primary_tells(
        self, own: PostgresPair
    ) -> None:
        async with (
            serving(Role.METASTORE, own.primary_uri(), heartbeat=None) as (_, primary),
            serving(Role.READ_REPLICA, own.standby_uri()) as (_, replica),
        ):
            # The position behind it is that of a segment's header, which no record ends at.
            await own.primary.execute("SELECT pg_switch_wal()")

            async def has_reached() -> bool:
                written = parse_lsn((await primary.replication()).lsn)
                replayed = parse_lsn((await replica.replication()).lsn)
                return written is not None and replayed is not None and replayed >= written

            await until(has_reached)

    async def test_a_database_that_hangs_is_not_reachable_within_the_callers_time(
        self, own: PostgresPair
    ) -> None:
        async with (
            serving(Role.METASTORE, own.primary_uri()),
            serving(Role.READ_REPLICA, own.standby_uri()) as (node, told),
        ):
            await lag_is(told, lambda lag: lag < 5)
            own.standby.pause()
            try:
                started = time.monotonic()
                answer = await told.replication(timeout=0.5)
                assert time.monotonic() - started < 0.5
                assert not answer.database_reachable
                assert answer.lsn == ""

                async def is_unknown() -> bool:
                    return await told.lag() is None

                await until(is_unknown)
                assert not node.vector().fresh
            finally:
                own.standby.resume()
            await lag_is(told, lambda lag: lag < 5)

    async def test_a_database_that_is_gone_has_an_unknown_lag(self, own: PostgresPair) -> None:
        async with (
            serving(Role.METASTORE, own.primary_uri()),
            serving(Role.READ_REPLICA, own.standby_uri()) as (_, told),
        ):
            await lag_is(told, lambda lag: lag < 5)
            await own.standby.stop()

            async def is_unknown() -> bool:
                return await told.lag() is None

            await until(is_unknown)
            assert not (await told.replication()).database_reachable
            await own.standby.start()
            await lag_is(told, lambda lag: lag < 5)

    async def test_many_callers_share_looks(self, primary: Told) -> None:
        answers = await asyncio.gather(*(primary.replication() for _ in range(100)))
        assert all(answer.database_reachable for answer in answers)
        assert len({answer.lsn for answer in answers}) < 100


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


class TestWishes:
    async def test_a_write_tells_a_position_that_a_replica_waits_for(
        self, pg: PostgresPair, primary: Told, replica: Told
    ) -> None:
        for number in range(20):
            template = pb.CreateIndexTemplateRequest(
                index_template_json=json.dumps(
                    {
                        "version": "0.9",
                        "template_id": f"template-{number}",
                        "index_id_patterns": [f"index-{number}-*"],
                        "doc_mapping": {},
                    }
                )
            )
            written = await primary.call("CreateIndexTemplate", template, want_lsn="true")
            lsn = str(written["x-metastore-lsn"])
            read = pb.GetIndexTemplateRequest(template_id=f"template-{number}")
            answer = await replica.call("GetIndexTemplate", read, min_lsn=lsn, want_lsn="true")
            seen, needed = parse_lsn(str(answer["x-metastore-lsn"])), parse_lsn(lsn)
            assert seen is not None
            assert needed is not None
            assert seen >= needed

    async def test_no_position_is_told_unasked(self, primary: Told) -> None:
        assert "x-metastore-lsn" not in await primary.call("ListIndexTemplates")

    async def test_a_replica_refuses_soon_what_it_has_not_replayed(
        self, pg: PostgresPair, primary: Told, replica: Told, migrated_database: Scratch
    ) -> None:
        async with paused(pg):
            await migrated_database.execute("CREATE TABLE written_after_the_pause ()")
            answer = await primary.call("ListIndexTemplates", want_lsn="true")
            lsn = str(answer["x-metastore-lsn"])
            started = time.monotonic()
            with pytest.raises(errors.Unavailable, match="has not reached `x-metastore-min-lsn`"):
                await replica.call("ListIndexTemplates", min_lsn=lsn)
            assert time.monotonic() - started < 2
            await primary.call("ListIndexTemplates", min_lsn=lsn)
        await pg.wait_caught_up()
        await replica.call("ListIndexTemplates", min_lsn=lsn)

    async def test_a_replica_refuses_what_is_younger_than_it(
        self, pg: PostgresPair, primary: Told, replica: Told
    ) -> None:
        await lag_is(replica, lambda lag: lag < 1)
        await replica.call("ListIndexTemplates", max_lag="30")
        async with paused(pg):
            await lag_is(replica, lambda lag: lag > 1)
            with pytest.raises(errors.Unavailable, match="`x-metastore-max-lag` allows 1 s"):
                await replica.call("ListIndexTemplates", max_lag="1")
            await primary.call("ListIndexTemplates", max_lag="0")

    async def test_an_unknown_age_is_too_old(self, replica: Told) -> None:
        with pytest.raises(errors.Unavailable, match="of unknown age"):
            await replica.call("ListIndexTemplates", max_lag="1000000")
        await replica.call("ListIndexTemplates")

    async def test_a_replica_is_no_primary(self, primary: Told, replica: Told) -> None:
        with pytest.raises(errors.Unavailable, match="asks for the primary"):
            await replica.call("ListIndexTemplates", consistency="primary")
        await replica.call("ListIndexTemplates", consistency="eventual")
        await primary.call("ListIndexTemplates", consistency="primary")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_lag", "soon"),
            ("max_lag", "-1"),
            ("max_lag", "nan"),
            ("min_lsn", "12"),
            ("min_lsn", "0/123456789"),
            ("consistency", "strong"),
            ("allow_replica", "yes"),
            ("want_lsn", "1"),
        ],
    )
    async def test_a_wish_that_does_not_parse_is_named(
        self, primary: Told, name: str, value: str
    ) -> None:
        header = f"x-metastore-{name.replace('_', '-')}"
        with pytest.raises(errors.InvalidArgument, match=header):
            await primary.call("ListIndexTemplates", **{name: value})


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
