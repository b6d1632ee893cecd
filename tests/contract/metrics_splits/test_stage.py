"""Staging metrics and sketch splits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy import errors
from tests.support.access import Metastore
from tests.support.making import ULID_TEXT, make_index, uid_text, unknown_index
from tests.support.parquet_index import ParquetIndex
from tests.support.parquet_samples import METRICS, SKETCHES, Family, metadata

STRUCT = "quickwit_parquet_engine::split::metadata::ParquetSplitMetadata"


async def test_a_staged_split_is_listed_as_it_was_sent(index: ParquetIndex) -> None:
    document = metadata(
        "s1",
        index.text,
        low_cardinality_tags={"env": ["prod"], "service": ["api", "web"]},
        high_cardinality_tag_keys=["host"],
        window_start=3600,
        window_duration_secs=900,
        sort_fields="metric_name|host|timestamp/V2",
        row_keys_proto=[0, 1, 255],
        zonemap_regexes={"host": "h.*"},
        num_merge_ops=2,
        parquet_file="s1.parquet",
        partition_id=2**64 - 1,
    )

    await index.family.stage(index.metastore, index.uid, document)

    (record,) = await index.list()
    assert sorted(record) == ["metadata", "state", "update_timestamp"]
    assert record["state"] == "Staged"
    assert record["metadata"] == document


async def test_the_columns_of_a_staged_split(index: ParquetIndex) -> None:
    await index.stage(
        "s1",
        metric_names=["cpu", "mem"],
        low_cardinality_tags={"service": ["api"], "region": [], "other": ["x"]},
        high_cardinality_tag_keys=["pod"],
        row_keys_proto=[0, 255],
        zonemap_regexes={"host": 'h"\\.*é'},
        window_start=-60,
        window_duration_secs=60,
        sort_fields="ts",
        num_merge_ops=3,
        maturity={"type": "immature", "maturation_period_millis": 1999},
    )

    row = await index.row("s1")
    assert row["index_uid"] == index.text
    assert row["split_state"] == "Staged"
    assert (row["time_range_start"], row["time_range_end"]) == (100, 200)
    assert row["metric_names"] == ["cpu", "mem"]
    assert (row["tag_service"], row["tag_region"]) == (["api"], [])
    assert row["tag_env"] is row["tag_datacenter"] is row["tag_host"] is None
    assert row["high_cardinality_tag_keys"] == ["pod"]
    assert (row["num_rows"], row["size_bytes"], row["num_merge_ops"]) == (10, 1000, 3)
    assert (row["window_start"], row["window_duration_secs"]) == (-60, 60)
    assert row["sort_fields"] == "ts"
    assert row["row_keys"] == b"\x00\xff"
    assert json.loads(row["zonemap_regexes"]) == {"host": 'h"\\.*é'}
    assert str(row["maturity_timestamp"]) == "2026-08-17 20:53:21"
    assert (row["node_id"], row["delete_opstamp"]) == (None, 0)
    assert row["create_timestamp"] == row["update_timestamp"]
    assert row["publish_timestamp"] is None


async def test_the_columns_of_a_split_without_a_window(index: ParquetIndex) -> None:
    await index.stage("s1", window_start=60)

    row = await index.row("s1")
    assert (row["window_start"], row["window_duration_secs"]) == (None, 0)
    assert row["row_keys"] is None
    assert json.loads(row["zonemap_regexes"]) == {}
    assert str(row["maturity_timestamp"]) == "1970-01-01 00:00:00"
    assert "window_start" not in json.loads(row["split_metadata_json"])


async def test_staging_nothing_succeeds_without_an_index(
    metastore: Metastore, family: Family
) -> None:
    await family.stage(metastore, unknown_index())


@pytest.mark.parametrize("name", ["nowhere", "web-logs"], ids=["unknown", "other incarnation"])
async def test_staging_for_an_unknown_index_is_not_found(index: ParquetIndex, name: str) -> None:
    uid = unknown_index(name)
    good, bad = metadata("s1", index.text), metadata("s2", f"{name}:{ULID_TEXT}")

    with pytest.raises(errors.NotFound) as caught:
        await index.family.stage(index.metastore, uid, good, bad)

    assert caught.value.entity == errors.index(name)
    assert await index.states() == {}


async def test_the_index_inside_the_metadata_is_the_one_that_counts(index: ParquetIndex) -> None:
    await index.family.stage(index.metastore, unknown_index("nowhere"), metadata("s1", index.text))

    assert await index.ids() == ["s1"]


async def test_staging_again_overwrites_but_keeps_index_and_creation(index: ParquetIndex) -> None:
    other = await make_index(index.metastore, "other")
    other_text = await uid_text(index.metastore, "other")
    await index.stage("s1")
    await index.update("create_timestamp = '2020-01-01', update_timestamp = '2020-01-01'")

    await index.family.stage(
        index.metastore, other, metadata("s1", other_text, num_rows=77, metric_names=["new"])
    )

    row = await index.row("s1")
    assert row["index_uid"] == index.text
    assert str(row["create_timestamp"]) == "2020-01-01 00:00:00"
    assert row["update_timestamp"] > row["create_timestamp"]
    assert (row["num_rows"], row["metric_names"]) == (77, ["new"])
    assert json.loads(row["split_metadata_json"])["num_rows"] == 77


async def test_staging_over_other_states_fails_but_stages_the_rest(index: ParquetIndex) -> None:
    await index.stage("published", "marked", "staged")
    await index.publish("published")
    await index.mark("marked")
    before = await index.row("published")

    with pytest.raises(errors.FailedPrecondition) as caught:
        await index.stage("new", "published", "staged", "marked", num_rows=99)

    assert caught.value.entity == errors.splits(["published", "marked"])
    assert caught.value.message == "splits are not in the Staged state"
    assert await index.states() == {
        "new": "Staged",
        "staged": "Staged",
        "published": "Published",
        "marked": "MarkedForDeletion",
    }
    assert await index.row("published") == before
    assert (await index.row("staged"))["num_rows"] == 99


async def test_a_split_twice_in_one_request_is_a_database_error(index: ParquetIndex) -> None:
    with pytest.raises(errors.Db) as caught:
        await index.stage("s1", "s1")

    assert caught.value.message == ("ON CONFLICT DO UPDATE command cannot affect row a second time")
    assert await index.states() == {}


async def test_a_split_id_of_50_characters_is_the_longest(index: ParquetIndex) -> None:
    await index.stage("s" * 50)
    with pytest.raises(errors.InvalidArgument) as caught:
        await index.stage("s" * 51)

    assert caught.value.message == "field `split_id` must have at most 50 characters, got 51"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("{}", "missing field `created_at`"),
        (
            json.dumps(metadata(num_rows="1")),
            "field `num_rows` is a string of 1 characters, expected an integer",
        ),
    ],
)
async def test_a_document_that_cannot_be_decoded_stages_nothing(
    index: ParquetIndex, text: str, message: str
) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        await index.family.stage(index.metastore, index.uid, metadata("s1", index.text), text)

    assert (caught.value.struct_name, caught.value.message) == (STRUCT, message)
    assert await index.states() == {}


async def test_a_document_is_decoded_before_the_index_is_looked_up(index: ParquetIndex) -> None:
    with pytest.raises(errors.JsonDeserializeError):
        await index.family.stage(index.metastore, unknown_index("nowhere"), "{}")


@pytest.mark.parametrize(
    "keys",
    [{"metric_names": ["a\x00"]}, {"sort_fields": "\x00"}, {"zonemap_regexes": {"a": "\x00"}}],
)
async def test_a_nul_character_is_an_invalid_argument(
    index: ParquetIndex, keys: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidArgument):
        await index.stage("s1", **keys)

    assert await index.states() == {}


async def test_a_thousand_splits_are_staged_in_one_request(index: ParquetIndex) -> None:
    await index.stage(*(f"s{n:04}" for n in range(1000)))

    assert await index.ids() == [f"s{n:04}" for n in range(1000)]


async def test_concurrent_stagings_of_the_same_splits_all_succeed(index: ParquetIndex) -> None:
    names = [f"s{n}" for n in range(20)]

    await asyncio.gather(
        *(index.stage(*(names if n % 2 else reversed(names)), num_rows=n) for n in range(6))
    )

    assert sorted(await index.states()) == sorted(names)


async def test_the_families_do_not_share_splits(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    document = metadata("s1", await uid_text(metastore))

    await METRICS.stage(metastore, uid, document)

    assert await SKETCHES.states(metastore) == {}
    await SKETCHES.stage(metastore, uid, document)
    await METRICS.publish(metastore, uid, "s1")
    assert await SKETCHES.states(metastore) == {"s1": "Staged"}
