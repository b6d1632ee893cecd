"""What reads may see while standbys lag: bounds, tokens and monotonic reads on real processes.

The sizes are those that the project promises; `METASTORE_PROXY_TEST_SCALE` makes them smaller.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from typing import Any

import grpc

from proxy import errors
from proxy.client import Answer, ClientOptions, Consistency, RoutingClient
from proxy.demo import dataset
from proxy.demo.postgres import PostgresServer
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.counter import counting, shown
from tests.support.disturbing import disturbed, serves
from tests.support.fleet import Fleet, fleet, scaled
from tests.support.readers import Read, read_many
from tests.support.routers import Caller
from tests.support.waiting import until

log = logging.getLogger(__name__)

READS = 100_000
PAIRS = 10_000
CALLERS = 16
BOUND = 1.0


def reads_of(client: RoutingClient, names: list[str], **options: Any) -> Read:
    async def read(number: int) -> Answer[pb.IndexMetadataResponse]:
        request = pb.IndexMetadataRequest(index_id=names[number % len(names)])
        return await client.index_metadata(request, **options)

    return read


async def delay_replay(standby: PostgresServer, delay: str) -> None:
    """Make a standby apply each commit so much later."""
    await standby.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
    await standby.execute("SELECT pg_reload_conf()")


async def all_served(client: RoutingClient, running: Fleet) -> None:
    await client.wait_ready()
    await until(lambda: all(serves(client, one) for one in running.replicas))


async def test_no_read_is_older_than_its_bound_while_replay_pauses() -> None:
    options = ClientOptions(max_lag=BOUND, share_reads=False)
    async with fleet(standbys=2) as running, running.client(options=options) as client:
        await all_served(client, running)
        names = await running.create_indexes(client, CALLERS)
        too_old: list[float] = []
        above_lag: list[tuple[float, float]] = []
        pauses = itertools.cycle([(0, 1), (0,), (1,)])

        async def pause() -> None:
            standbys = [running.pair.standbys[number] for number in next(pauses)]
            for standby in standbys:
                await standby.execute("SELECT pg_wal_replay_pause()")
            try:
                await asyncio.sleep(2.5 * BOUND)
            finally:
                for standby in standbys:
                    await standby.execute("SELECT pg_wal_replay_resume()")
            await asyncio.sleep(BOUND)

        async with counting(running) as counter:

            def check(answer: Answer[Any], started: float) -> None:
                value = shown(answer.response)
                # What the read did not see was committed after this moment, or it is too old.
                age = started - counter.since(value)
                if age > BOUND:
                    too_old.append(age)
                if answer.route == "replica" and (answer.lag is None or age > answer.lag):
                    above_lag.append((age, -1.0 if answer.lag is None else answer.lag))

            async with disturbed(pause):
                report = await read_many(scaled(READS), CALLERS, reads_of(client, names), check)
        log.info("counted to %d: %s", counter.value, report)
        assert report.failures == []
        assert too_old == []
        assert above_lag == []
        assert report.total == scaled(READS)
        assert report.routes["replica"] > 0.2 * report.total
        assert set(report.routes) == {"replica", "fallback"}
        by_node = {name for name, route in report.served if route == "replica"}
        assert by_node == {one.node_id for one in running.replicas}


def index_config(name: str) -> str:
    config = json.loads(dataset.index_config())
    config["index_id"] = name
    config["index_uri"] = f"ram:///{name}"
    return json.dumps(config)


async def test_a_read_with_a_token_sees_the_write_although_replay_is_late() -> None:
    async with fleet(standbys=1, nodes_per_standby=2) as running:
        router = await running.start_router()
        consistent = Consistency.READ_YOUR_WRITES
        async with (
            running.client(consistency=consistent) as client,
            running.client() as plain,
            Caller(router.address) as caller,
        ):
            await all_served(client, running)
            await all_served(plain, running)
            (known,) = await running.create_indexes(client, 1)
            await delay_replay(running.pair.standby, "2s")
            stale: list[str] = []
            # One of ten pairs goes through the router, with the token in the call's metadata.
            pairs = scaled(PAIRS)
            routes = await asyncio.gather(
                _plain_reads(plain, known, pairs // 10),
                _pairs_by_client(client, pairs - pairs // 10, stale),
                _pairs_by_router(caller, pairs // 10, stale),
            )
    log.info("%d pairs, %d stale; plain reads went by %s", pairs, len(stale), routes[0])
    assert stale == []
    assert routes[0] == {"replica"}


async def _plain_reads(client: RoutingClient, name: str, count: int) -> set[str]:
    report = await read_many(count, 2, reads_of(client, [name]))
    assert report.failures == []
    return set(report.routes)


async def _pairs_by_client(client: RoutingClient, count: int, stale: list[str]) -> None:
    async def pair(number: int) -> Answer[Any]:
        name = f"by-client-{number}"
        created = await client.create_index(
            pb.CreateIndexRequest(index_config_json=index_config(name))
        )
        assert created.lsn is not None
        try:
            return await client.index_metadata(pb.IndexMetadataRequest(index_id=name))
        except errors.NotFound:
            stale.append(name)
            return created

    report = await read_many(count, CALLERS - 2, pair)
    assert report.failures == []
    log.info("by the client: %s", report)


async def _pairs_by_router(caller: Caller, count: int, stale: list[str]) -> None:
    left = iter(range(count))

    async def pair() -> None:
        for number in left:
            name = f"by-router-{number}"
            create = pb.CreateIndexRequest(index_config_json=index_config(name))
            _, written = await caller.unary(
                "CreateIndex", create.SerializeToString(), x_metastore_want_lsn="true"
            )
            token = written["x-metastore-lsn"]
            read = pb.IndexMetadataRequest(index_id=name).SerializeToString()
            try:
                await caller.unary("IndexMetadata", read, x_metastore_min_lsn=token)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                stale.append(name)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(pair())


async def test_monotonic_reads_never_step_back_over_replicas_of_different_lag() -> None:
    options = ClientOptions(share_reads=False)
    async with (
        fleet(standbys=2) as running,
        running.client(options=options, consistency=Consistency.MONOTONIC) as client,
        running.client(options=options) as plain,
    ):
        await all_served(client, running)
        await all_served(plain, running)
        names = await running.create_indexes(client, CALLERS)
        await delay_replay(running.pair.standbys[1], "700ms")
        steps_back: list[tuple[int, int]] = []
        plain_steps_back = 0
        seen = plain_seen = 0

        async with counting(running):
            read, plain_read = reads_of(client, names), reads_of(plain, names)

            async def monotonic(number: int) -> Answer[Any]:
                nonlocal seen
                before = seen
                answer = await read(number)
                value = shown(answer.response)
                if value < before:
                    steps_back.append((before, value))
                seen = max(seen, value)
                return answer

            async def ordinary(number: int) -> Answer[Any]:
                nonlocal plain_seen, plain_steps_back
                before = plain_seen
                answer = await plain_read(number)
                value = shown(answer.response)
                plain_steps_back += value < before
                plain_seen = max(plain_seen, value)
                return answer

            report = await read_many(scaled(READS // 5), CALLERS, monotonic)
            compared = await read_many(scaled(2_000), CALLERS, ordinary)
    log.info("monotonic: %s", report)
    log.info("ordinary: %s, stepped back %d times", compared, plain_steps_back)
    assert report.failures == []
    assert compared.failures == []
    assert steps_back == []
    # The replicas do differ, and the client does not take the easy way out.
    assert plain_steps_back > 0
    assert report.routes["replica"] > 0
