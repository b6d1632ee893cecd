"""Shards: OpenShards, AcquireShards, DeleteShards, PruneShards, ListShards."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import (
    DOC_MAPPING_UID,
    ULID_TEXT,
    make_index,
    shard_ids,
    uid_text,
    unknown_index,
)

SOURCE = "_ingest-source"
OLD_PLAN = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
PLAN = "01J5ZQ5B0C1D2E3F4G5H6J7K8M"
NEW_PLAN = "01J6000000000000000000000A"
LEGACY = "indexer-1/web-logs/pipeline-1"


def open_subrequest(
    uid: common_pb2.IndexUid, shard: str = "s1", number: int = 0, **changes: Any
) -> pb.OpenShardSubrequest:
    subrequest = pb.OpenShardSubrequest(
        subrequest_id=number,
        index_uid=uid,
        source_id=SOURCE,
        shard_id=ingest_pb2.ShardId(shard_id=shard.encode()),
        ingester_id="ingester-1",
        doc_mapping_uid=DOC_MAPPING_UID,
    )
    for field, value in changes.items():
        setattr(subrequest, field, value)
    return subrequest


async def open_shards(
    metastore: Metastore, *subrequests: pb.OpenShardSubrequest
) -> list[pb.OpenShardSubresponse]:
    request = pb.OpenShardsRequest(subrequests=subrequests)
    return list((await metastore.call("OpenShards", request)).subresponses)


async def put_shard(
    metastore: Metastore,
    shard: str,
    *,
    source: str = SOURCE,
    position: str = "",
    token: str | None = None,
    state: str = "open",
    age: float = 0.0,
    index_id: str = "web-logs",
) -> None:
    """Insert a shard's row; `age` is in seconds."""
    await metastore.sql.execute(
        """
        INSERT INTO shards (index_uid, source_id, shard_id, leader_id, shard_state,
            publish_position_inclusive, publish_token, doc_mapping_uid, update_timestamp)
        VALUES ($1, $2, $3, 'ingester-1', $4::text::shard_state, $5, $6, $7, $8)
        """,
        await uid_text(metastore, index_id),
        source,
        shard,
        state,
        position,
        token,
        ULID_TEXT,
        datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=age),
    )


async def stored_ids(metastore: Metastore) -> list[str]:
    rows = await metastore.sql.fetch("SELECT shard_id FROM shards ORDER BY shard_id")
    return [row["shard_id"] for row in rows]


# OpenShards


async def test_a_new_shard_is_open_at_the_beginning_and_complete(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    before = int(time.time())

    (answer,) = await open_shards(metastore, open_subrequest(uid, number=7, publish_token=PLAN))

    shard = answer.open_shard
    assert answer.subrequest_id == 7
    assert shard.index_uid == uid
    assert shard.source_id == SOURCE
    assert shard.shard_id.shard_id == b"s1"
    assert shard.ingester_id == "ingester-1"
    assert shard.shard_state == ingest_pb2.SHARD_STATE_OPEN
    assert shard.HasField("publish_position_inclusive")
    assert shard.publish_position_inclusive.position == b""
    assert shard.publish_token == PLAN
    assert shard.doc_mapping_uid == DOC_MAPPING_UID
    assert before <= shard.update_timestamp <= time.time()


async def test_a_shard_of_a_queue_source_has_no_ingester_and_a_nil_doc_mapping(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)
    nil = common_pb2.DocMappingUid(doc_mapping_uid=bytes(16))
    # Its ID is the address of an object, its token that of an indexing pipeline.
    subrequest = open_subrequest(
        uid, "s3://bucket/2026/logs.json", ingester_id="", publish_token="indexer-1/web-logs/0"
    )
    subrequest.doc_mapping_uid.CopyFrom(nil)

    (answer,) = await open_shards(metastore, subrequest)

    assert answer.open_shard.ingester_id == ""
    assert answer.open_shard.shard_id.shard_id == b"s3://bucket/2026/logs.json"
    assert answer.open_shard.doc_mapping_uid == nil
    assert answer.open_shard.publish_token == "indexer-1/web-logs/0"


async def test_the_row_of_a_new_shard(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    await open_shards(metastore, open_subrequest(uid))

    row = await metastore.sql.fetchrow("SELECT *, shard_state::text AS state FROM shards")
    assert row is not None
    assert row["leader_id"] == "ingester-1"
    assert row["follower_id"] is None
    assert row["state"] == "open"
    assert row["publish_position_inclusive"] == ""
    assert row["doc_mapping_uid"] == ULID_TEXT


async def test_without_a_token_the_shard_has_none(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    (answer,) = await open_shards(metastore, open_subrequest(uid))

    assert not answer.open_shard.HasField("publish_token")
    assert await metastore.sql.fetchval("SELECT publish_token FROM shards") is None


async def test_an_empty_token_is_kept_apart_from_none(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    (answer,) = await open_shards(metastore, open_subrequest(uid, publish_token=""))

    assert answer.open_shard.HasField("publish_token")
    assert answer.open_shard.publish_token == ""


async def test_a_nil_doc_mapping_uid_comes_back_as_16_zero_bytes(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    subrequest = open_subrequest(uid)
    subrequest.doc_mapping_uid.Clear()
    subrequest.doc_mapping_uid.SetInParent()

    (answer,) = await open_shards(metastore, subrequest)

    assert answer.open_shard.doc_mapping_uid.doc_mapping_uid == bytes(16)


async def test_opening_an_existing_shard_returns_it_unchanged(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1", position="~0000", token=OLD_PLAN, state="closed", age=100)
    before = await metastore.sql.fetchrow("SELECT *, shard_state::text FROM shards")

    (answer,) = await open_shards(
        metastore, open_subrequest(uid, ingester_id="ingester-2", publish_token=NEW_PLAN)
    )

    shard = answer.open_shard
    assert shard.ingester_id == "ingester-1"
    assert shard.shard_state == ingest_pb2.SHARD_STATE_CLOSED
    assert shard.publish_token == OLD_PLAN
    assert shard.publish_position_inclusive.position == b"~0000"
    assert await metastore.sql.fetchrow("SELECT *, shard_state::text FROM shards") == before


async def test_opening_a_shard_twice_answers_the_same(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    first = await open_shards(metastore, open_subrequest(uid, publish_token=PLAN))
    second = await open_shards(metastore, open_subrequest(uid, publish_token=PLAN))

    assert first == second


async def test_answers_keep_the_order_of_the_request(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    answers = await open_shards(
        metastore,
        *(open_subrequest(uid, shard, number) for number, shard in ((9, "c"), (2, "a"), (5, "b"))),
    )

    assert [(a.subrequest_id, a.open_shard.shard_id.shard_id) for a in answers] == [
        (9, b"c"),
        (2, b"a"),
        (5, b"b"),
    ]


async def test_one_shard_asked_for_twice_in_a_request_is_answered_twice(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)

    answers = await open_shards(
        metastore, open_subrequest(uid, number=1), open_subrequest(uid, number=2)
    )

    assert answers[0].open_shard == answers[1].open_shard
    assert await stored_ids(metastore) == ["s1"]


async def test_concurrent_openings_of_a_shard_make_one_row_and_all_see_it(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)

    answers = await asyncio.gather(
        *(
            open_shards(metastore, open_subrequest(uid, publish_token=token))
            for token in (OLD_PLAN, PLAN, NEW_PLAN, LEGACY)
        )
    )

    assert await stored_ids(metastore) == ["s1"]
    stored = await metastore.sql.fetchval("SELECT publish_token FROM shards")
    assert {answer[0].open_shard.publish_token for answer in answers} == {stored}


async def test_the_source_need_not_exist(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    (answer,) = await open_shards(metastore, open_subrequest(uid, source_id="nobody"))

    assert answer.open_shard.source_id == "nobody"


async def test_opening_nothing_answers_nothing(metastore: Metastore) -> None:
    assert await open_shards(metastore) == []


async def test_opening_in_an_unknown_index_is_a_database_error(metastore: Metastore) -> None:
    with pytest.raises(errors.Db) as caught:
        await open_shards(metastore, open_subrequest(unknown_index()))

    assert caught.value.message == (
        'error returned from database: insert or update on table "shards" violates foreign key '
        'constraint "shards_index_uid_fkey"'
    )


async def test_a_missing_doc_mapping_uid_is_a_database_error(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    subrequest = open_subrequest(uid)
    subrequest.ClearField("doc_mapping_uid")

    with pytest.raises(errors.Db) as caught:
        await open_shards(metastore, subrequest)

    assert caught.value.message == (
        'error returned from database: null value in column "doc_mapping_uid" of relation '
        '"shards" violates not-null constraint'
    )


async def test_shards_opened_before_a_failing_one_stay(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    with pytest.raises(errors.Db):
        await open_shards(
            metastore,
            open_subrequest(uid, "s1"),
            open_subrequest(unknown_index(), "s2"),
            open_subrequest(uid, "s3"),
        )

    assert await stored_ids(metastore) == ["s1"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("index_uid", None, "subrequests[1]: field `index_uid` is required"),
        ("shard_id", None, "subrequests[1]: field `shard_id` is required"),
        (
            "index_uid",
            common_pb2.IndexUid(index_id="web-logs", incarnation_id=b"0" * 17),
            "subrequests[1]: field `index_uid.incarnation_id` must be 16 bytes, got 17",
        ),
        (
            "doc_mapping_uid",
            common_pb2.DocMappingUid(doc_mapping_uid=b"short"),
            "field `subrequests[1].doc_mapping_uid` must be 16 bytes, got 5",
        ),
        (
            "shard_id",
            ingest_pb2.ShardId(shard_id=b"\xff\xfe"),
            "field `subrequests[1].shard_id` must be UTF-8 text, got 2 bytes that are not",
        ),
    ],
)
async def test_a_malformed_opening_is_refused_before_any_row_is_written(
    metastore: Metastore, field: str, value: Any, message: str
) -> None:
    uid = await make_index(metastore)
    malformed = open_subrequest(uid, "s2")
    malformed.ClearField(field)
    if value is not None:
        getattr(malformed, field).CopyFrom(value)

    with pytest.raises(errors.InvalidArgument) as caught:
        await open_shards(metastore, open_subrequest(uid, "s1"), malformed)

    assert caught.value.message == message
    assert await stored_ids(metastore) == []


async def test_a_nul_character_in_an_id_is_an_invalid_argument(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    with pytest.raises(errors.InvalidArgument):
        await open_shards(metastore, open_subrequest(uid, "s\x001"))


async def test_an_id_longer_than_its_column_is_an_invalid_argument(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    with pytest.raises(errors.InvalidArgument) as caught:
        await open_shards(metastore, open_subrequest(uid, "s" * 256))

    assert caught.value.message == (
        "field `subrequests[0].shard_id` must have at most 255 characters, got 256"
    )


async def test_a_shard_that_vanishes_while_it_is_opened_is_not_found(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    # The trigger swallows the row: neither the insert nor the read that follows it sees a shard.
    await metastore.sql.execute(
        """
        CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER swallow BEFORE INSERT ON shards FOR EACH ROW EXECUTE FUNCTION swallow();
        """
    )
    try:
        with pytest.raises(errors.NotFound) as caught:
            await open_shards(metastore, open_subrequest(uid))
    finally:
        await metastore.sql.execute("DROP TRIGGER swallow ON shards; DROP FUNCTION swallow()")

    assert caught.value.entity == errors.source(await uid_text(metastore), SOURCE)


# AcquireShards


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


# DeleteShards


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


# ListShards


async def list_shards(
    metastore: Metastore, *questions: tuple[common_pb2.IndexUid, str, int | None]
) -> list[pb.ListShardsSubresponse]:
    request = pb.ListShardsRequest(
        subrequests=[
            pb.ListShardsSubrequest(index_uid=uid, source_id=source, shard_state=state)
            for uid, source, state in questions
        ]
    )
    return list((await metastore.call("ListShards", request)).subresponses)


def ids(answer: pb.ListShardsSubresponse) -> list[str]:
    return [shard.shard_id.shard_id.decode() for shard in answer.shards]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(None, ["c", "o", "u", "x"], id="absent"),
        pytest.param(0, ["c", "o", "u", "x"], id="unspecified"),
        pytest.param(1, ["o"], id="open"),
        pytest.param(2, ["u"], id="unavailable"),
        pytest.param(3, ["c"], id="closed"),
        pytest.param(99, ["c", "o", "u", "x"], id="unknown number"),
        pytest.param(-1, ["c", "o", "u", "x"], id="negative number"),
    ],
)
async def test_the_state_filters_the_list(
    metastore: Metastore, state: int | None, expected: list[str]
) -> None:
    uid = await make_index(metastore)
    for name, stored in (
        ("o", "open"),
        ("u", "unavailable"),
        ("c", "closed"),
        ("x", "unspecified"),
    ):
        await put_shard(metastore, name, state=stored)

    (answer,) = await list_shards(metastore, (uid, SOURCE, state))

    assert (answer.index_uid, answer.source_id) == (uid, SOURCE)
    assert sorted(ids(answer)) == expected


async def test_a_listed_shard_is_complete(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    (opened,) = await open_shards(metastore, open_subrequest(uid, publish_token=PLAN))

    (answer,) = await list_shards(metastore, (uid, SOURCE, None))

    (shard,) = answer.shards
    assert shard == opened.open_shard
    assert shard.HasField("publish_position_inclusive")


async def test_seconds_are_cut_off_not_rounded(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1")
    await metastore.sql.execute("UPDATE shards SET update_timestamp = '2026-01-01 00:00:00.999999'")

    (answer,) = await list_shards(metastore, (uid, SOURCE, None))

    assert answer.shards[0].update_timestamp == 1767225600


async def test_each_source_gets_one_answer_even_when_empty(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    metrics = await make_index(metastore, "metrics")
    await put_shard(metastore, "s1")
    await put_shard(metastore, "s2", source="other")

    answers = await list_shards(
        metastore,
        (uid, SOURCE, None),
        (uid, "other", None),
        (metrics, SOURCE, None),
        (unknown_index("nowhere"), SOURCE, None),
    )

    assert {(a.index_uid.index_id, a.source_id): ids(a) for a in answers} == {
        ("web-logs", SOURCE): ["s1"],
        ("web-logs", "other"): ["s2"],
        ("metrics", SOURCE): [],
        ("nowhere", SOURCE): [],
    }


async def test_questions_about_one_source_are_merged(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    for name, state in (("o", "open"), ("u", "unavailable"), ("c", "closed")):
        await put_shard(metastore, name, state=state)

    (answer,) = await list_shards(metastore, (uid, SOURCE, 1), (uid, SOURCE, 3))

    assert sorted(set(ids(answer))) == ["c", "o"]


async def test_a_hundred_thousand_questions_are_answered(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1")

    (answer,) = await list_shards(metastore, *[(uid, SOURCE, n % 2) for n in range(100_000)])

    assert ids(answer) == ["s1"]


async def test_listing_nothing_answers_nothing(metastore: Metastore) -> None:
    assert await list_shards(metastore) == []


async def test_listing_needs_an_index_uid(metastore: Metastore) -> None:
    request = pb.ListShardsRequest(
        subrequests=[
            pb.ListShardsSubrequest(index_uid=unknown_index(), source_id=SOURCE),
            pb.ListShardsSubrequest(source_id=SOURCE),
        ]
    )

    with pytest.raises(errors.InvalidArgument) as caught:
        await metastore.call("ListShards", request)

    assert caught.value.message == "subrequests[1]: field `index_uid` is required"


async def test_a_stored_doc_mapping_uid_that_is_no_ulid_is_a_database_error(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1")
    await metastore.sql.execute("UPDATE shards SET doc_mapping_uid = 'short'")

    with pytest.raises(errors.Db) as caught:
        await list_shards(metastore, (uid, SOURCE, None))

    assert caught.value.message == ("shard `s1` cannot be read: a ULID has 26 characters, got 5")


async def test_deleting_the_index_deletes_its_shards(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await put_shard(metastore, "s1")

    await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))

    assert await stored_ids(metastore) == []
