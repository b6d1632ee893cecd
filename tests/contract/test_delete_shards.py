"""DeleteShards and PruneShards, and what becomes of shards with their index."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, shard_ids, unknown_index
from tests.support.shards import SOURCE, put_shard, stored_ids


async def delete(
    metastore: Metastore, uid: common_pb2.IndexUid, *shards: str, force: bool = False
) -> tuple[list[str], list[str]]:
    request = pb.DeleteShardsRequest(
        index_uid=uid, source_id=SOURCE, shard_ids=shard_ids(*shards), force=force
    )
    response = await metastore.call("DeleteShards", request)
    assert (response.index_uid, response.source_id) == (uid, SOURCE)
    return (
        [shard.shard_id.decode() for shard in response.successes],
        [shard.shard_id.decode() for shard in response.failures],
    )


@pytest.mark.parametrize("position", ["~", "~00000000000000000009"])
async def test_a_fully_indexed_shard_is_deleted(metastore: Metastore, position: str) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", position=position)

    assert await delete(metastore, uid, "s1") == (["s1"], [])
    assert await stored_ids(metastore) == []


@pytest.mark.parametrize("position", ["", "00000000000000000009", "9~"])
async def test_a_shard_with_data_left_is_a_failure_and_stays(
    metastore: Metastore, position: str
) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", position=position, state="closed")

    assert await delete(metastore, uid, "s1") == ([], ["s1"])
    assert await stored_ids(metastore) == ["s1"]


async def test_a_mixed_deletion_reports_each_shard(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "done", position="~")
    await put_shard(metastore, "busy", position="0001")

    outcome = await delete(metastore, uid, "busy", "nobody", "done")

    assert outcome == (["nobody", "done"], ["busy"])
    assert await stored_ids(metastore) == ["busy"]


async def test_a_forced_deletion_deletes_all_and_reports_success(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "busy", position="0001")

    assert await delete(metastore, uid, "busy", "nobody", force=True) == (["busy", "nobody"], [])
    assert await stored_ids(metastore) == []


async def test_deleting_again_is_a_success(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", position="~")

    assert await delete(metastore, uid, "s1") == await delete(metastore, uid, "s1")


async def test_deleting_in_an_unknown_index_is_a_success(metastore: Metastore) -> None:
    assert await delete(metastore, unknown_index(), "s1") == (["s1"], [])


@pytest.mark.parametrize("force", [False, True])
async def test_deleting_nothing_gets_an_empty_answer(metastore: Metastore, force: bool) -> None:
    uid = await make_index(metastore)

    response = await metastore.call(
        "DeleteShards", pb.DeleteShardsRequest(index_uid=uid, source_id=SOURCE, force=force)
    )

    assert response == pb.DeleteShardsResponse()
    assert not response.HasField("index_uid")


async def test_other_sources_and_indexes_keep_their_shards(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await make_index(metastore, "metrics")
    await put_shard(metastore, "s1", source="other")
    await put_shard(metastore, "s1", index_id="metrics")

    assert await delete(metastore, uid, "s1", force=True) == (["s1"], [])
    assert await stored_ids(metastore) == ["s1", "s1"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.DeleteShardsRequest(source_id=SOURCE), "field `index_uid` is required"),
        (
            pb.DeleteShardsRequest(
                index_uid=unknown_index(), shard_ids=[ingest_pb2.ShardId(shard_id=b"\xc3(")]
            ),
            "field `shard_ids[0]` must be UTF-8 text, got 2 bytes that are not",
        ),
    ],
)
async def test_a_malformed_deletion_names_the_field(
    metastore: Metastore, request_: pb.DeleteShardsRequest, message: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await metastore.call("DeleteShards", request_)

    assert caught.value.message == message


# PruneShards


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({}, ["a", "b", "c", "d"], id="no bound"),
        pytest.param({"interval_secs": 1}, ["a", "b", "c", "d"], id="the interval is the caller's"),
        pytest.param({"max_age_secs": 5000}, ["a", "b", "c", "d"], id="none is that old"),
        pytest.param({"max_age_secs": 250}, ["a", "b", "c"], id="age"),
        pytest.param({"max_age_secs": 0}, [], id="age 0"),
        pytest.param({"max_age_secs": 2**32 - 1}, ["a", "b", "c", "d"], id="largest age"),
        pytest.param({"max_count": 2}, ["a", "b"], id="count"),
        pytest.param({"max_count": 0}, [], id="count 0"),
        pytest.param({"max_count": 4}, ["a", "b", "c", "d"], id="count not reached"),
        pytest.param({"max_count": 2**32 - 1}, ["a", "b", "c", "d"], id="largest count"),
        pytest.param({"max_age_secs": 150, "max_count": 1}, ["a"], id="both, count is tighter"),
        pytest.param({"max_age_secs": 150, "max_count": 3}, ["a", "b"], id="both, age is tighter"),
    ],
)
async def test_what_pruning_keeps(
    metastore: Metastore, bounds: dict[str, int], expected: list[str]
) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "d", age=300, position="0001", state="closed")
    await put_shard(metastore, "b", age=100, position="~")
    await put_shard(metastore, "a", age=1, state="unavailable")
    await put_shard(metastore, "c", age=200)

    await metastore.call(
        "PruneShards", pb.PruneShardsRequest(index_uid=uid, source_id=SOURCE, **bounds)
    )

    assert await stored_ids(metastore) == expected


async def test_pruning_leaves_other_sources_alone(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", age=1000)
    await put_shard(metastore, "s2", age=1000, source="other")

    await metastore.call(
        "PruneShards",
        pb.PruneShardsRequest(index_uid=uid, source_id=SOURCE, max_age_secs=1, max_count=0),
    )

    assert await stored_ids(metastore) == ["s2"]


async def test_pruning_an_unknown_index_is_a_success(metastore: Metastore) -> None:
    request = pb.PruneShardsRequest(
        index_uid=unknown_index(), source_id=SOURCE, max_age_secs=1, max_count=1
    )

    assert await metastore.call("PruneShards", request) == pb.EmptyResponse()


async def test_pruning_needs_an_index_uid(metastore: Metastore) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await metastore.call("PruneShards", pb.PruneShardsRequest(max_count=1))

    assert caught.value.message == "field `index_uid` is required"


async def test_deleting_the_index_deletes_its_shards(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1")

    await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))

    assert await stored_ids(metastore) == []
