"""ListShards: by source and state, complete, and what is refused."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, unknown_index
from tests.support.shards import PLAN, SOURCE, open_shards, open_subrequest, put_shard


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
