"""AcquireShards: who owns a shard afterwards."""

from __future__ import annotations

import asyncio
from datetime import UTC

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, shard_ids, unknown_index
from tests.support.shards import LEGACY, NEW_PLAN, OLD_PLAN, PLAN, SOURCE, put_shard


async def acquire(
    metastore: Metastore, uid: common_pb2.IndexUid, token: str, *shards: str, source: str = SOURCE
) -> list[ingest_pb2.Shard]:
    request = pb.AcquireShardsRequest(
        index_uid=uid, source_id=source, shard_ids=shard_ids(*shards), publish_token=token
    )
    return list((await metastore.call("AcquireShards", request)).acquired_shards)


@pytest.mark.parametrize(
    ("stored", "presented", "is_acquired"),
    [
        pytest.param(None, PLAN, True, id="unowned"),
        pytest.param("", PLAN, True, id="empty placeholder"),
        pytest.param(OLD_PLAN, PLAN, True, id="newer plan"),
        pytest.param(PLAN, PLAN, True, id="same plan"),
        pytest.param(PLAN, f"{PLAN}-2", True, id="same plan, later suffix"),
        pytest.param(NEW_PLAN, PLAN, False, id="older plan"),
        pytest.param(f"{PLAN}-2", PLAN, False, id="same plan, earlier suffix"),
        pytest.param(LEGACY, PLAN, True, id="legacy owner loses"),
        pytest.param(NEW_PLAN, LEGACY, True, id="legacy token wins"),
        pytest.param(LEGACY, "a/b", True, id="legacy against legacy"),
        pytest.param("zz/", OLD_PLAN, True, id="a slash at the end is legacy"),
        pytest.param(NEW_PLAN, "/", True, id="a slash alone is legacy"),
        pytest.param(PLAN, "", False, id="an empty token is the oldest"),
        pytest.param(None, "", True, id="an empty token takes an unowned shard"),
        pytest.param(PLAN, "%", False, id="a percent sign is no wildcard"),
    ],
)
async def test_who_owns_a_shard_after_an_acquisition(
    metastore: Metastore, stored: str | None, presented: str, is_acquired: bool
) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", token=stored)

    acquired = await acquire(metastore, uid, presented, "s1")

    assert [shard.publish_token for shard in acquired] == ([presented] if is_acquired else [])
    owner = await metastore.sql.fetchval("SELECT publish_token FROM shards")
    assert owner == (presented if is_acquired else stored)


async def test_an_acquisition_changes_nothing_but_the_token(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(
        metastore, "s1", position="~00000000000000000009", state="closed", age=3600, token=OLD_PLAN
    )
    before = await metastore.sql.fetchrow("SELECT *, shard_state::text FROM shards")
    assert before is not None

    (shard,) = await acquire(metastore, uid, PLAN, "s1")

    after = await metastore.sql.fetchrow("SELECT *, shard_state::text FROM shards")
    assert after is not None
    assert dict(after) == {**before, "publish_token": PLAN}
    assert shard.shard_state == ingest_pb2.SHARD_STATE_CLOSED
    assert shard.publish_position_inclusive.position == b"~00000000000000000009"
    expected = before["update_timestamp"].replace(tzinfo=UTC, microsecond=0).timestamp()
    assert shard.update_timestamp == expected


async def test_refused_and_unknown_shards_are_left_out(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", token=OLD_PLAN)
    await put_shard(metastore, "s2", token=NEW_PLAN)
    await put_shard(metastore, "s3")

    acquired = await acquire(metastore, uid, PLAN, "s3", "s2", "nobody", "s1", "s1")

    assert sorted(shard.shard_id.shard_id for shard in acquired) == [b"s1", b"s3"]


async def test_only_the_shards_of_the_source_are_acquired(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", source="other")

    assert await acquire(metastore, uid, PLAN, "s1") == []
    assert await metastore.sql.fetchval("SELECT publish_token FROM shards") is None


async def test_acquiring_nothing_answers_nothing(metastore: Metastore) -> None:
    assert await acquire(metastore, unknown_index(), PLAN) == []


async def test_acquiring_in_an_unknown_index_answers_nothing(metastore: Metastore) -> None:
    assert await acquire(metastore, unknown_index(), PLAN, "s1") == []


async def test_acquiring_again_with_the_same_token_answers_the_same(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1")

    assert await acquire(metastore, uid, PLAN, "s1") == await acquire(metastore, uid, PLAN, "s1")


async def test_of_concurrent_acquirers_the_newest_plan_wins(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    names = [f"s{n}" for n in range(20)]
    for name in names:
        await put_shard(metastore, name)
    tokens = [f"01J6{n:022d}" for n in range(8)]

    await asyncio.gather(
        *(
            acquire(metastore, uid, token, *(names if n % 2 else reversed(names)))
            for n, token in enumerate(tokens)
        )
    )

    owners = await metastore.sql.fetch("SELECT DISTINCT publish_token FROM shards")
    assert [row["publish_token"] for row in owners] == [tokens[-1]]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.AcquireShardsRequest(), "field `index_uid` is required"),
        (
            pb.AcquireShardsRequest(
                index_uid=unknown_index(),
                shard_ids=[*shard_ids("s1"), ingest_pb2.ShardId(shard_id=b"\xff")],
            ),
            "field `shard_ids[1]` must be UTF-8 text, got 1 bytes that are not",
        ),
    ],
)
async def test_a_malformed_acquisition_names_the_field(
    metastore: Metastore, request_: pb.AcquireShardsRequest, message: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await metastore.call("AcquireShards", request_)

    assert caught.value.message == message
