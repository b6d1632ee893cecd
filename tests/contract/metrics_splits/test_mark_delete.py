"""Marking and deleting metrics and sketch splits, and what holds for all five RPCs."""

from __future__ import annotations

import asyncio

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, uid_text, unknown_index
from tests.support.parquet_index import ParquetIndex
from tests.support.parquet_samples import METRICS, SKETCHES, Family, metadata


async def test_marking_takes_staged_and_published_splits(index: ParquetIndex) -> None:
    await index.stage("staged", "published", "marked", "other")
    await index.publish("published")
    await index.mark("marked")
    await index.update("update_timestamp = '2020-01-01'")

    await index.mark("staged", "published", "marked", "nobody")

    assert await index.states() == {
        "staged": "MarkedForDeletion",
        "published": "MarkedForDeletion",
        "marked": "MarkedForDeletion",
        "other": "Staged",
    }
    assert str((await index.row("marked"))["update_timestamp"]) == "2020-01-01 00:00:00"
    assert str((await index.row("staged"))["update_timestamp"]) > "2020-01-01 00:00:00"


async def test_marking_again_changes_nothing(index: ParquetIndex) -> None:
    await index.stage("s1")
    await index.mark("s1")
    before = await index.row("s1")

    await index.mark("s1")

    assert await index.row("s1") == before


async def test_marking_checks_no_index(metastore: Metastore, family: Family) -> None:
    await family.mark(metastore, unknown_index("nowhere"), "s1")
    await family.mark(metastore, unknown_index("nowhere"))


async def test_marking_by_another_index_changes_nothing(index: ParquetIndex) -> None:
    other = await make_index(index.metastore, "other")
    await index.stage("s1")

    await index.family.mark(index.metastore, other, "s1")

    assert await index.states() == {"s1": "Staged"}


async def test_deleting_removes_marked_splits_and_ignores_unknown_ones(index: ParquetIndex) -> None:
    await index.stage("s1", "s2", "s3")
    await index.mark("s1", "s2")

    await index.delete("s1", "nobody", "s2")

    assert await index.states() == {"s3": "Staged"}


async def test_deleting_again_succeeds(index: ParquetIndex) -> None:
    await index.stage("s1")
    await index.mark("s1")

    await index.delete("s1")
    await index.delete("s1")

    assert await index.states() == {}


async def test_a_split_in_use_keeps_all_of_a_deletion(index: ParquetIndex) -> None:
    await index.stage("a", "b", "marked")
    await index.publish("b")
    await index.mark("marked")

    with pytest.raises(errors.FailedPrecondition) as caught:
        await index.delete("b", "marked", "nobody", "a")

    assert caught.value.entity == errors.splits(["b", "a"])
    assert caught.value.message == "splits `b, a` are not deletable"
    assert await index.states() == {"a": "Staged", "b": "Published", "marked": "MarkedForDeletion"}


async def test_deleting_checks_no_index(metastore: Metastore, family: Family) -> None:
    await family.delete(metastore, unknown_index("nowhere"), "s1")
    await family.delete(metastore, unknown_index("nowhere"))


async def test_splits_of_another_index_are_not_deleted(index: ParquetIndex) -> None:
    other = await make_index(index.metastore, "other")
    await index.stage("s1")
    await index.mark("s1")

    await index.family.delete(index.metastore, other, "s1")

    assert await index.states() == {"s1": "MarkedForDeletion"}


async def test_concurrent_marking_and_deletion_leave_no_error_but_in_use(
    index: ParquetIndex,
) -> None:
    names = [f"s{n}" for n in range(20)]
    await index.stage(*names)

    outcomes = await asyncio.gather(
        *(index.mark(*(names if n % 2 else reversed(names))) for n in range(4)),
        *(index.delete(*(names if n % 2 else reversed(names))) for n in range(4)),
        return_exceptions=True,
    )

    failures = [outcome for outcome in outcomes if outcome is not None]
    assert all(isinstance(failure, errors.FailedPrecondition) for failure in failures)
    await index.delete(*names)
    assert await index.states() == {}


@pytest.mark.parametrize(
    "pattern",
    [
        "Stage{}Splits",
        "Publish{}Splits",
        "List{}Splits",
        "Mark{}SplitsForDeletion",
        "Delete{}Splits",
    ],
)
async def test_the_index_uid_is_required_and_checked(
    metastore: Metastore, family: Family, pattern: str
) -> None:
    rpc = pattern.format(family.name)
    request_class = getattr(pb, f"{rpc}Request")
    short = common_pb2.IndexUid(index_id="web-logs", incarnation_id=b"short")

    with pytest.raises(errors.InvalidArgument) as missing:
        await metastore.call(rpc, request_class())
    with pytest.raises(errors.InvalidArgument) as malformed:
        await metastore.call(rpc, request_class(index_uid=short))

    assert missing.value.message == "field `index_uid` is required"
    assert malformed.value.message == "field `index_uid.incarnation_id` must be 16 bytes, got 5"


async def test_deleting_an_index_with_metrics_splits_is_a_database_error(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)
    await METRICS.stage(metastore, uid, metadata("s1", await uid_text(metastore)))

    with pytest.raises(errors.Db) as caught:
        await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))

    assert caught.value.message == (
        'error returned from database: update or delete on table "indexes" violates foreign key '
        'constraint "metrics_splits_index_uid_fkey" on table "metrics_splits"'
    )


async def test_deleting_an_index_deletes_its_sketch_splits(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await SKETCHES.stage(metastore, uid, metadata("s1", await uid_text(metastore)))

    await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))

    assert await SKETCHES.states(metastore) == {}
