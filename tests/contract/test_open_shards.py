"""OpenShards: new shards, known ones, several at once, and what is refused."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2, ingest_pb2
from tests.support.access import Metastore
from tests.support.making import DOC_MAPPING_UID, ULID_TEXT, make_index, uid_text, unknown_index
from tests.support.shards import (
    LEGACY,
    NEW_PLAN,
    OLD_PLAN,
    PLAN,
    SOURCE,
    open_shards,
    open_subrequest,
    put_shard,
    stored_ids,
)


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
