"""Publishers on two nodes at once: no update is lost, none is applied twice or by half.

The longest load runs 30 seconds; `METASTORE_PROXY_TEST_LOAD_SECONDS` shortens all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from proxy import errors
from proxy.demo.processes import NodeProcess
from proxy.identifiers import new_ulid
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import DOC_MAPPING_UID, make_index, source_config
from tests.support.postgres import Scratch
from tests.support.publishing_load import (
    CONTESTED,
    LOAD_SECONDS,
    SOURCE,
    Account,
    PartitionPublisher,
    ShardPublisher,
    node_processes,
    number_of,
    run_all,
    sums,
    ways_to,
)
from tests.support.remote_access import GrpcWay
from tests.support.splitting import (
    listed,
    mark,
    publish,
    published,
    set_opstamp,
    stage,
    stored_checkpoint,
)
from tests.support.waiting import until

PUBLISHERS = 8


async def split_states(sql: asyncpg.Connection) -> dict[str, tuple[str, bool]]:
    """Return state and "was ever published" of all splits."""
    rows = await sql.fetch("SELECT split_id, split_state, publish_timestamp FROM splits")
    return {row[0]: (row[1], row[2] is not None) for row in rows}


def check_splits(account: Account, states: dict[str, tuple[str, bool]]) -> None:
    """Compare the table with what was answered for publishes whose outcome is known."""
    acknowledged = account.split_ids(account.acknowledged)
    refused = account.split_ids(account.refused)
    assert len(set(acknowledged)) == len(acknowledged)
    assert {states[split_id] for split_id in acknowledged} == {("Published", True)}
    assert {states[split_id] for split_id in refused} <= {("Staged", False)}
    never = [states[split_id] for split_id in account.not_published if split_id in states]
    assert set(never) <= {("Staged", False)}


async def check_listed(ways: Sequence[GrpcWay], sql: asyncpg.Connection, wanted: set[str]) -> None:
    """Every node lists exactly these splits as published, each of them once."""
    for way in ways:
        found = await listed(Metastore(way, sql), split_states=["Published"])
        assert Counter(split["split_id"] for split in found) == Counter(wanted)


async def ended_transactions(sql: asyncpg.Connection) -> bool:
    """Whether no node has a transaction open; what a killed one sent may still be on its way."""
    return not await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    )


@pytest.fixture
async def sql(migrated_database: Scratch) -> Any:
    connection = await asyncpg.connect(migrated_database.primary_uri)
    yield connection
    await connection.close()


@pytest.fixture
async def nodes(migrated_database: Scratch) -> Any:
    async with node_processes(migrated_database.primary_uri) as processes:
        yield processes


@pytest.fixture
async def ways(nodes: list[NodeProcess]) -> Any:
    async with ways_to(nodes) as opened:
        yield opened


async def test_the_checkpoint_is_the_sum_of_the_acknowledged_deltas(
    ways: list[GrpcWay], sql: asyncpg.Connection
) -> None:
    uid = await make_index(Metastore(ways[0], sql), "web-logs", source_config(SOURCE))
    account = Account()
    publishers = [PartitionPublisher(number, ways, uid, account) for number in range(PUBLISHERS)]
    await run_all(LOAD_SECONDS, [publisher.step for publisher in publishers])

    assert account.unexpected == []
    assert account.unknown == []
    assert account.not_published == set()
    expected = sums(account.acknowledged)
    # All made progress, and the racers got in each other's way.
    assert expected.keys() == {publisher.partition for publisher in publishers}
    assert {attempt.partition for attempt in account.refused} == {CONTESTED}
    assert all(account.served.values())
    assert len(account.served) == len(ways)

    stored = (await stored_checkpoint(Metastore(ways[0], sql)))[SOURCE]
    assert {key: number_of(position) for key, position in stored.items()} == expected
    states = await split_states(sql)
    check_splits(account, states)
    assert states.keys() == {*account.split_ids(account.acknowledged + account.refused)}
    await check_listed(ways, sql, {*account.split_ids(account.acknowledged)})


async def check_faulty(account: Account, ways: Sequence[GrpcWay], sql: asyncpg.Connection) -> None:
    """Compare the tables with the answers where some of them say "unknown"."""
    await until(lambda: ended_transactions(sql))
    assert account.unexpected == []
    assert account.unknown
    states = await split_states(sql)
    check_splits(account, states)
    applied = list(account.acknowledged)
    for attempt in account.unknown:
        outcome = {states[split_id] for split_id in attempt.split_ids}
        assert outcome in ({("Published", True)}, {("Staged", False)}), attempt
        if outcome == {("Published", True)}:
            applied.append(attempt)
    # The deltas of exactly those publishes whose splits are published make up the checkpoint.
    stored = (await stored_checkpoint(Metastore(ways[0], sql)))[SOURCE]
    assert {key: number_of(position) for key, position in stored.items()} == sums(applied)
    await check_listed(ways, sql, {*account.split_ids(applied)})


async def load_while(account: Account, ways: list[GrpcWay], uid: Any, faults: Any) -> None:
    """Load the nodes as long as the faults last."""
    has_ended = asyncio.Event()

    async def load(publisher: PartitionPublisher) -> None:
        while not has_ended.is_set():
            await publisher.step()

    async with asyncio.TaskGroup() as group:
        for number in range(PUBLISHERS):
            publisher = PartitionPublisher(number, ways, uid, account, may_lose=True)
            group.create_task(load(publisher))
        await faults
        has_ended.set()


async def test_what_was_acknowledged_survives_killed_nodes_and_nothing_is_applied_by_half(
    nodes: list[NodeProcess], ways: list[GrpcWay], sql: asyncpg.Connection
) -> None:
    uid = await make_index(Metastore(ways[0], sql), "web-logs", source_config(SOURCE))
    account = Account()

    async def more_from(number: int) -> None:
        wanted = account.served[number] + 30
        await until(lambda: account.served[number] >= wanted)

    async def kill_in_turn() -> None:
        deadline = time.monotonic() + LOAD_SECONDS / 3
        for number in itertools.cycle([0, 1]):
            await more_from(number)
            await asyncio.to_thread(nodes[number].kill)
            await more_from(1 - number)
            nodes[number].start()
            await nodes[number].wait_ready()
            await more_from(number)
            if number == 1 and time.monotonic() > deadline:
                return

    await load_while(account, ways, uid, kill_in_turn())
    await check_faulty(account, ways, sql)


async def test_nothing_is_applied_by_half_when_database_sessions_are_cut(
    ways: list[GrpcWay], sql: asyncpg.Connection
) -> None:
    uid = await make_index(Metastore(ways[0], sql), "web-logs", source_config(SOURCE))
    account = Account()

    async def cut_again_and_again() -> None:
        deadline = time.monotonic() + LOAD_SECONDS / 3
        while time.monotonic() < deadline or not account.unknown:
            answers = account.served.total()
            await until(lambda: account.served.total() >= answers + 10)  # noqa: B023 - used here
            # Two that are in a transaction, first those that have written already.
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL ORDER BY backend_xid IS NULL LIMIT 2"
            )

    await load_while(account, ways, uid, cut_again_and_again())
    await check_faulty(account, ways, sql)


class ShardWatcher:
    """Reads shards again and again: neither position nor token may go back."""

    def __init__(self, ways: Sequence[GrpcWay], uid: common_pb2.IndexUid) -> None:
        self._ways = itertools.cycle(ways)
        self._request = pb.ListShardsRequest(
            subrequests=[pb.ListShardsSubrequest(index_uid=uid, source_id=SOURCE)]
        )
        self._last: dict[bytes, tuple[int, str]] = {}
        self.moves: Counter[str] = Counter()

    async def step(self) -> None:
        answer = await next(self._ways).call("ListShards", self._request)
        for shard in answer.subresponses[0].shards:
            shard_id = shard.shard_id.shard_id
            position = number_of(shard.publish_position_inclusive.position.decode())
            old_position, old_token = self._last.get(shard_id, (0, ""))
            assert position >= old_position
            assert shard.publish_token >= old_token
            self.moves["position"] += position > old_position
            self.moves["token"] += shard.publish_token > old_token
            self._last[shard_id] = (position, shard.publish_token)


async def test_only_the_holder_of_a_shard_publishes_and_positions_never_go_back(
    ways: list[GrpcWay], sql: asyncpg.Connection
) -> None:
    metastore = Metastore(ways[0], sql)
    uid = await make_index(metastore, "web-logs", source_config(SOURCE, "ingest"))
    subrequests = [
        pb.OpenShardSubrequest(
            subrequest_id=number,
            index_uid=uid,
            source_id=SOURCE,
            shard_id=ingest_pb2.ShardId(shard_id=f"shard-{number}".encode()),
            ingester_id="ingester-1",
            doc_mapping_uid=DOC_MAPPING_UID,
        )
        for number in (0, 1)
    ]
    await metastore.call("OpenShards", pb.OpenShardsRequest(subrequests=subrequests))
    account = Account()
    publishers = [ShardPublisher(number, ways, uid, account) for number in range(PUBLISHERS)]
    watcher = ShardWatcher(ways, uid)
    await run_all(LOAD_SECONDS / 3, [watcher.step, *(publisher.step for publisher in publishers)])
    # A holder reads the position when it takes the shard. Had anybody else moved the shard since,
    # one of its publishes would have failed as a conflict, which nobody expects here.
    assert account.unexpected == []
    assert account.unknown == []
    assert account.refused
    assert watcher.moves["position"] > 0
    assert watcher.moves["token"] > 0
    rows = await sql.fetch("SELECT shard_id, publish_position_inclusive FROM shards")
    assert {row[0]: number_of(row[1]) for row in rows} == sums(account.acknowledged)
    # Tokens rise from holder to holder: whoever lost a shard does not publish to it again.
    for shard_id in ("shard-0", "shard-1"):
        mine = [attempt for attempt in account.acknowledged if attempt.partition == shard_id]
        tokens = [attempt.token or "" for attempt in sorted(mine, key=lambda item: item.start)]
        assert tokens == sorted(tokens)
        assert len(set(tokens)) > 1
    states = await split_states(sql)
    check_splits(account, states)
    await check_listed(ways, sql, {*account.split_ids(account.acknowledged)})
    assert await stored_checkpoint(metastore) == {SOURCE: {}}


async def outcome_of(call: Any) -> errors.MetastoreError | None:
    """Return the error of a call, None if it succeeded."""
    try:
        await call
    except errors.MetastoreError as error:
        return error
    return None


async def test_a_publish_and_a_deletion_of_the_same_split_have_an_order(
    ways: list[GrpcWay], sql: asyncpg.Connection
) -> None:
    first, second = (Metastore(way, sql) for way in ways)
    uid = await make_index(first)
    outcomes: Counter[str] = Counter()
    drawn = random.Random(0)

    async def race() -> None:
        kept, marked = new_ulid(), new_ulid()
        await stage(first, uid, kept, marked)
        calls = {
            "publish": publish(first, uid, kept, marked),
            "mark": mark(second, uid, marked),
            "opstamp": set_opstamp(second, uid, 7, kept, marked),
        }
        order = drawn.sample([*calls], len(calls))
        results = await asyncio.gather(*(outcome_of(calls[name]) for name in order))
        answers = dict(zip(order, results, strict=True))
        refusal = answers.pop("publish")
        assert answers == {"mark": None, "opstamp": None}
        rows = await sql_rows(kept, marked)
        assert rows[marked] == ("MarkedForDeletion", 7)
        assert rows[kept] == ("Staged" if refusal else "Published", 7)
        if refusal is not None:
            assert isinstance(refusal, errors.FailedPrecondition)
            assert refusal.entity == errors.splits([marked])
        outcomes["refused" if refusal else "published"] += 1

    async def sql_rows(*split_ids: str) -> dict[str, tuple[str, int]]:
        async with lock:
            rows = await sql.fetch(
                "SELECT split_id, split_state, delete_opstamp FROM splits"
                " WHERE split_id = ANY($1::text[])",
                split_ids,
            )
        return {row[0]: (row[1], row[2]) for row in rows}

    lock = asyncio.Lock()
    await run_all(LOAD_SECONDS / 6, [race] * 4)
    assert outcomes["published"] > 0
    assert outcomes["refused"] > 0


async def test_of_two_merges_of_one_split_exactly_one_is_published(
    ways: list[GrpcWay], sql: asyncpg.Connection
) -> None:
    first, second = (Metastore(way, sql) for way in ways)
    uid = await make_index(first)
    won: list[str] = []
    lost: list[str] = []

    async def race() -> None:
        source, other = new_ulid(), new_ulid()
        merges = [new_ulid(), new_ulid()]
        await published(first, uid, source, other)
        await stage(second, uid, *merges)
        refusals = await asyncio.gather(
            outcome_of(publish(first, uid, merges[0], replaced=[source, other])),
            outcome_of(publish(second, uid, merges[1], replaced=[other, source])),
        )
        (refusal,) = [refusal for refusal in refusals if refusal is not None]
        assert isinstance(refusal, errors.FailedPrecondition)
        assert refusal.entity == errors.splits(sorted([source, other]))
        won.append(merges[refusals.index(None)])
        lost.append(merges[refusals.index(refusal)])

    await run_all(LOAD_SECONDS / 6, [race] * 4)
    assert won
    await check_listed(ways, sql, {*won})
    states = await split_states(sql)
    assert {states[split_id] for split_id in lost} == {("Staged", False)}
