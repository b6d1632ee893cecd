"""What a node tells of its database's replication."""

from __future__ import annotations

import asyncio
import time

from proxy.demo.postgres import PostgresPair
from proxy.roles import Role
from proxy.routing.consistency import parse_lsn
from tests.support.ages import lag_is, serving
from tests.support.postgres import Credentials, Scratch
from tests.support.replication import Told
from tests.support.waiting import until


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
