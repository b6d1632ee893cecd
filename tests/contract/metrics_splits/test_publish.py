"""Publishing metrics and sketch splits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy import errors
from tests.support.making import ULID_TEXT, make_index, unknown_index
from tests.support.parquet_index import INGEST, ParquetIndex

TOKEN = "01J5ZQ5B0C1D2E3F4G5H6J7K8M"


def delta(source: str, start: str = "", end: str = "0009", partition: str = "p") -> dict[str, Any]:
    """Return a checkpoint delta of one partition."""
    return {
        "source_id": source,
        "source_delta": {"per_partition": {partition: {"from": start, "to": end}}},
    }


async def test_publishing_moves_staged_splits_and_stamps_them(index: ParquetIndex) -> None:
    await index.stage("s1", "s2", "s3")
    await index.update("update_timestamp = '2020-01-01'")

    await index.publish("s1", "s3")

    assert await index.states() == {"s1": "Published", "s2": "Staged", "s3": "Published"}
    row = await index.row("s1")
    assert row["publish_timestamp"] is not None
    assert row["update_timestamp"] > row["create_timestamp"]
    assert str((await index.row("s2"))["update_timestamp"]) == "2020-01-01 00:00:00"


async def test_replaced_splits_are_marked_and_keep_their_publish_time(index: ParquetIndex) -> None:
    await index.stage("old")
    await index.publish("old")
    await index.update("publish_timestamp = '2020-01-01', update_timestamp = '2020-01-01'")
    await index.stage("new")

    await index.publish("new", replaced=("old",))

    assert await index.states() == {"new": "Published", "old": "MarkedForDeletion"}
    row = await index.row("old")
    assert str(row["publish_timestamp"]) == "2020-01-01 00:00:00"
    assert str(row["update_timestamp"]) > "2020-01-01 00:00:00"


@pytest.mark.parametrize(
    "staged",
    [
        pytest.param(["s1", "nobody"], id="unknown"),
        pytest.param(["s1", "published"], id="already published"),
        pytest.param(["s1", "marked"], id="marked"),
        pytest.param(["s1", "s1"], id="listed twice"),
    ],
)
async def test_publishing_what_is_not_staged_is_not_found_and_rolls_back(
    index: ParquetIndex, staged: list[str]
) -> None:
    await index.stage("s1", "published", "marked")
    await index.publish("published")
    await index.mark("marked")
    before = await index.states()

    with pytest.raises(errors.NotFound) as caught:
        await index.publish(*staged, delta=delta("vector"))

    assert caught.value.entity == errors.splits(staged)
    assert await index.states() == before
    assert await index.checkpoint() == {"vector": {}, INGEST: {}}


@pytest.mark.parametrize(
    ("replaced", "marked"),
    [
        pytest.param(("published", "nobody"), 1, id="unknown"),
        pytest.param(("staged",), 0, id="staged"),
        pytest.param(("marked", "published"), 1, id="already marked"),
        pytest.param(("published", "published"), 1, id="listed twice"),
        pytest.param(("s1",), 0, id="published by the same request"),
    ],
)
async def test_replacing_what_is_not_published_fails_and_rolls_back(
    index: ParquetIndex, replaced: tuple[str, ...], marked: int
) -> None:
    await index.stage("s1", "staged", "published", "marked")
    await index.publish("published")
    await index.mark("marked")
    before = await index.states()

    with pytest.raises(errors.FailedPrecondition) as caught:
        await index.publish("s1", replaced=replaced, delta=delta("vector"))

    assert caught.value.entity == errors.splits(replaced)
    assert caught.value.message == (
        f"expected to mark {len(replaced)} splits for deletion, but only {marked} were in "
        "Published state"
    )
    assert await index.states() == before
    assert await index.checkpoint() == {"vector": {}, INGEST: {}}


async def test_missing_staged_splits_come_before_wrong_replaced_ones(index: ParquetIndex) -> None:
    with pytest.raises(errors.NotFound):
        await index.publish("nobody", replaced=("nobody",))


async def test_publishing_again_is_not_found(index: ParquetIndex) -> None:
    await index.stage("s1")
    await index.publish("s1")

    with pytest.raises(errors.NotFound) as caught:
        await index.publish("s1")

    assert caught.value.entity == errors.splits(["s1"])


@pytest.mark.parametrize("name", ["nowhere", "web-logs"], ids=["unknown", "other incarnation"])
async def test_publishing_in_an_unknown_index_is_not_found(index: ParquetIndex, name: str) -> None:
    await index.stage("s1")

    with pytest.raises(errors.NotFound) as caught:
        await index.family.publish(index.metastore, unknown_index(name), "s1")

    assert caught.value.entity == errors.index(name)
    assert await index.states() == {"s1": "Staged"}


async def test_splits_of_another_index_are_not_found(index: ParquetIndex) -> None:
    other = await make_index(index.metastore, "other")
    await index.stage("s1")

    with pytest.raises(errors.NotFound) as caught:
        await index.family.publish(index.metastore, other, "s1")

    assert caught.value.entity == errors.splits(["s1"])


async def test_a_delta_alone_moves_the_checkpoint(index: ParquetIndex) -> None:
    await index.publish(delta=delta("vector", "", "0009"))

    assert await index.checkpoint() == {"vector": {"p": "0009"}, INGEST: {}}


async def test_publishing_without_a_delta_keeps_the_checkpoint(index: ParquetIndex) -> None:
    await index.publish(delta=delta("vector"))
    await index.stage("s1")
    await index.publish("s1", token="ignored")

    assert await index.checkpoint() == {"vector": {"p": "0009"}, INGEST: {}}


async def test_a_delta_sent_again_is_incompatible_before_any_split_is_looked_at(
    index: ParquetIndex,
) -> None:
    await index.stage("s1")
    await index.publish("s1", delta=delta("vector", "", "0009"))

    with pytest.raises(errors.FailedPrecondition) as caught:
        await index.publish("s1", delta=delta("vector", "", "0009"))

    assert caught.value.entity == errors.checkpoint_delta("web-logs", "vector")
    assert caught.value.message == (
        "incompatible checkpoint delta at partition `p`: end position is "
        "`Position::Offset(0009)` (inclusive), whereas delta starts at `Position::Beginning` "
        "(exclusive)"
    )


async def test_a_delta_of_an_unknown_source_is_not_found(index: ParquetIndex) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await index.publish(delta=delta("nobody"))

    assert caught.value.entity == errors.source("web-logs", "nobody")


async def test_a_delta_that_cannot_be_decoded(index: ParquetIndex) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        await index.family.publish(index.metastore, unknown_index("nowhere"), delta="{}")

    assert caught.value.struct_name == "quickwit_metastore::checkpoint::IndexCheckpointDelta"


async def put_shard(index: ParquetIndex, token: str | None, position: str = "") -> None:
    await index.metastore.sql.execute(
        """
        INSERT INTO shards (index_uid, source_id, shard_id, leader_id,
            publish_position_inclusive, publish_token, doc_mapping_uid)
        VALUES ($1, $2, 'p', 'ingester', $3, $4, $5)
        """,
        index.text,
        INGEST,
        position,
        token,
        ULID_TEXT,
    )


async def test_a_shard_tracked_delta_moves_the_shard(index: ParquetIndex) -> None:
    await put_shard(index, TOKEN)
    await index.stage("s1")

    await index.publish("s1", delta=delta(INGEST, "", "~0009"), token=TOKEN)

    row = await index.metastore.sql.fetchrow(
        "SELECT publish_position_inclusive, shard_state::text FROM shards"
    )
    assert row is not None
    assert tuple(row) == ("~0009", "closed")
    assert await index.checkpoint() == {"vector": {}, INGEST: {}}


async def test_a_shard_tracked_delta_needs_a_token(index: ParquetIndex) -> None:
    await put_shard(index, TOKEN)

    with pytest.raises(errors.InvalidArgument) as caught:
        await index.publish(delta=delta(INGEST))

    assert caught.value.message == (
        "publish token is required for publishing splits for source `_ingest-source`"
    )


@pytest.mark.parametrize("stored", [None, "another"])
async def test_a_wrong_token_is_refused_and_rolls_back(
    index: ParquetIndex, stored: str | None
) -> None:
    await put_shard(index, stored)
    await index.stage("s1")

    with pytest.raises(errors.InvalidPublishToken) as caught:
        await index.publish("s1", delta=delta(INGEST), token=TOKEN)

    assert caught.value.queue_id == f"{index.text}/_ingest-source/p"
    assert await index.states() == {"s1": "Staged"}


async def test_a_delta_of_an_unknown_shard_is_not_found(index: ParquetIndex) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await index.publish(delta=delta(INGEST), token=TOKEN)

    assert caught.value.entity == errors.shard(f"{index.text}/_ingest-source")


async def test_a_failing_publish_takes_the_shard_back(index: ParquetIndex) -> None:
    await put_shard(index, TOKEN)

    with pytest.raises(errors.NotFound):
        await index.publish("nobody", delta=delta(INGEST), token=TOKEN)

    position = await index.metastore.sql.fetchval("SELECT publish_position_inclusive FROM shards")
    assert position == ""


async def test_concurrent_publishes_of_distinct_partitions_all_survive(index: ParquetIndex) -> None:
    names = [f"s{n}" for n in range(10)]
    await index.stage(*names)

    await asyncio.gather(
        *(index.publish(name, delta=delta("vector", "", name, partition=name)) for name in names)
    )

    assert await index.states() == dict.fromkeys(names, "Published")
    assert (await index.checkpoint())["vector"] == {name: name for name in names}


async def test_of_concurrent_publishes_of_one_split_one_succeeds(index: ParquetIndex) -> None:
    await index.stage("s1")

    outcomes = await asyncio.gather(
        *(index.publish("s1") for _ in range(6)), return_exceptions=True
    )

    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, errors.NotFound) for outcome in outcomes) == 5
