"""StageSplits: new splits, known ones, and what is refused."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from proxy import errors
from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, unknown_index
from tests.support.split_ages import EPOCH, age, database_now
from tests.support.splitting import (
    CREATED,
    all_rows,
    document,
    dumped,
    found,
    listed,
    mark,
    other_incarnation,
    published,
    split_row,
    stage,
    stage_text,
    states,
)

METADATA = "alloc::vec::Vec<quickwit_metastore::split_metadata::SplitMetadata>"


class TestStage:
    async def test_fills_every_column(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        before = await database_now(metastore)
        split = document(
            uid,
            "split-1",
            time_range={"start": 100, "end": 199},
            tags=["tenant:7", "tenant!"],
            delete_opstamp=5,
            node_id="indexer-1/2",
            maturity={"type": "immature", "maturation_period_millis": 172_800_999},
        )

        await stage(metastore, uid, split)

        row = await split_row(metastore, "split-1")
        created, updated = row.pop("create_timestamp"), row.pop("update_timestamp")
        assert before <= created == updated <= await database_now(metastore)
        expected = {**split, "tags": ["tenant!", "tenant:7"], "node_id": "indexer-1"}
        assert row == {
            "split_id": "split-1",
            "split_state": "Staged",
            "time_range_start": 100,
            "time_range_end": 199,
            "tags": ["tenant!", "tenant:7"],
            "split_metadata_json": dumped(expected),
            "index_uid": index_uid_text(uid),
            "publish_timestamp": None,
            "delete_opstamp": 5,
            "maturity_timestamp": EPOCH + timedelta(seconds=CREATED + 172_800),
            "node_id": "indexer-1",
            "split_size_bytes": 2000,
        }

    async def test_a_mature_split_has_epoch_0_and_no_range_is_null(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        row = await split_row(metastore, "split-1")
        assert row["maturity_timestamp"] == EPOCH
        assert (row["time_range_start"], row["time_range_end"]) == (None, None)

    async def test_the_index_is_the_requests(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        inner = "somewhere-else:01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
        await stage(metastore, uid, document(uid, "split-1", index_uid=inner))
        row = await split_row(metastore, "split-1")
        assert row["index_uid"] == index_uid_text(uid)
        assert json.loads(row["split_metadata_json"])["index_uid"] == inner
        (split,) = await listed(metastore)
        assert split["index_uid"] == index_uid_text(uid)

    async def test_the_clients_create_timestamp_stays_in_the_document_only(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "split-1", create_timestamp=77))
        row = await split_row(metastore, "split-1")
        assert json.loads(row["split_metadata_json"])["create_timestamp"] == 77
        (split,) = await listed(metastore)
        assert split["create_timestamp"] == int((row["create_timestamp"] - EPOCH).total_seconds())

    async def test_an_empty_list_succeeds_without_an_index(self, metastore: Metastore) -> None:
        await stage_text(metastore, unknown_index(), "[]")
        assert await states(metastore) == {}

    async def test_an_unknown_index(self, metastore: Metastore) -> None:
        with pytest.raises(errors.NotFound) as caught:
            await stage(metastore, unknown_index(), "split-1")
        assert caught.value.entity == errors.index("web-logs")

    async def test_another_incarnation(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        with pytest.raises(errors.NotFound) as caught:
            await stage(metastore, other_incarnation(uid), "split-1")
        assert caught.value.entity == errors.index("web-logs")
        assert await states(metastore) == {}

    async def test_staging_again_overwrites_and_resets_both_times(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "split-1", tags=["old"], num_docs=1))
        await age(metastore)
        aged = await split_row(metastore, "split-1")

        await stage(
            metastore,
            uid,
            document(
                uid,
                "split-1",
                tags=["new"],
                num_docs=2,
                time_range={"start": 1, "end": 2},
                delete_opstamp=4,
                node_id="indexer-2",
                maturity={"type": "immature", "maturation_period_millis": 1000},
                footer_offsets={"start": 1, "end": 9},
            ),
        )

        row = await split_row(metastore, "split-1")
        assert row["create_timestamp"] == row["update_timestamp"] > aged["update_timestamp"]
        assert row["split_state"] == "Staged"
        assert row["tags"] == ["new"]
        assert (row["time_range_start"], row["time_range_end"]) == (1, 2)
        assert (row["delete_opstamp"], row["node_id"]) == (4, "indexer-2")
        assert row["split_size_bytes"] == 9
        assert row["maturity_timestamp"] == EPOCH + timedelta(seconds=CREATED + 1)
        assert json.loads(row["split_metadata_json"])["num_docs"] == 2

    @pytest.mark.parametrize("state", ["Published", "MarkedForDeletion"])
    async def test_a_split_past_staging_fails_the_whole_call(
        self, metastore: Metastore, state: str
    ) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "taken")
        if state == "MarkedForDeletion":
            await mark(metastore, uid, "taken")
        await stage(metastore, uid, "staged")
        before = await all_rows(metastore)

        with pytest.raises(errors.FailedPrecondition) as caught:
            await stage(metastore, uid, "new", "taken", "staged")

        assert caught.value.entity == errors.splits(["taken"])
        assert caught.value.message == "splits are not staged"
        assert await all_rows(metastore) == before

    async def test_refused_splits_are_named_in_the_order_of_the_request(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "a", "b", "c")

        with pytest.raises(errors.FailedPrecondition) as caught:
            await stage(metastore, uid, "b", "new", "c", "a")

        assert caught.value.entity == errors.splits(["b", "c", "a"])

    async def test_the_same_split_twice_in_a_request(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        with pytest.raises(errors.Db) as caught:
            await stage(metastore, uid, "split-1", "split-2", "split-1")
        assert caught.value.message == (
            "ON CONFLICT DO UPDATE command cannot affect row a second time"
        )
        assert await states(metastore) == {}

    async def test_the_same_split_in_two_indexes_is_two_splits(self, metastore: Metastore) -> None:
        one, two = await make_index(metastore, "one"), await make_index(metastore, "two")
        await stage(metastore, one, "split-1")
        await stage(metastore, two, "split-1")
        assert len(await listed(metastore)) == 2
        assert len(await listed(metastore, index_uids=[index_uid_text(two)])) == 1

    async def test_a_split_id_has_at_most_50_characters(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "s" * 50)
        with pytest.raises(errors.Db) as caught:
            await stage(metastore, uid, "ok", "s" * 51)
        assert caught.value.message == "value too long for type character varying(50)"
        assert await states(metastore) == {"s" * 50: "Staged"}

    async def test_a_node_id_has_at_most_253_characters(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        with pytest.raises(errors.InvalidArgument) as caught:
            await stage(metastore, uid, document(uid, "split-1", node_id="n" * 254))
        assert caught.value.message == (
            "field `node_id` of a split must have at most 253 characters, got 254"
        )

    @pytest.mark.parametrize("version", ["0.7", "0.8"])
    async def test_documents_of_older_versions(self, metastore: Metastore, version: str) -> None:
        uid = await make_index(metastore)
        split = {
            "version": version,
            "split_id": "split-1",
            "index_id": index_uid_text(uid),
            "num_docs": 3,
            "size_in_bytes": 99,
            "time_range": {"start": 5, "end": 6},
            "footer_offsets": {"start": 10, "end": 20},
        }
        await stage(metastore, uid, split)
        (read,) = await listed(metastore)
        assert read["version"] == "0.9"
        assert read["uncompressed_docs_size_in_bytes"] == 99
        assert (read["source_id"], read["node_id"]) == ("unknown", "unknown")
        assert read["maturity"] == {"type": "mature"}
        assert read["doc_mapping_uid"] == "0" * 26
        assert (await split_row(metastore, "split-1"))["node_id"] == "unknown"

    async def test_a_split_without_create_timestamp_is_from_now(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        split = document(uid, "s", maturity={"type": "immature", "maturation_period_millis": 0})
        del split["create_timestamp"]
        await stage(metastore, uid, split)
        row = await split_row(metastore, "s")
        assert abs(row["maturity_timestamp"] - row["create_timestamp"]) < timedelta(seconds=60)

    async def test_unusual_texts_survive(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        tags = sorted(["", "a b", "é", "😀", "$1", "'", '"', "\\", "\n", "{a,b}", "NULL", "%_"])
        split = document(uid, "splît/😀'\"\\", tags=tags, source_id='s"\\\u0001')
        await stage(metastore, uid, split)
        (read,) = await listed(metastore)
        assert {key: read[key] for key in ("split_id", "tags", "source_id")} == {
            key: split[key] for key in ("split_id", "tags", "source_id")
        }
        assert (await split_row(metastore, split["split_id"]))["tags"] == tags

    async def test_64_bit_integers_survive(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        numbers = {
            "partition_id": 2**64 - 1,
            "num_docs": 2**64 - 1,
            "uncompressed_docs_size_in_bytes": 2**53 + 1,
            "time_range": {"start": -(2**63), "end": 2**63 - 1},
            "delete_opstamp": 2**63 - 1,
        }
        await stage(metastore, uid, document(uid, "split-1", **numbers))
        (read,) = await listed(metastore)
        assert {key: read[key] for key in numbers} == numbers

    async def test_a_thousand_splits_in_one_call(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        ids = [f"split-{number:04}" for number in range(1000)]
        await stage(metastore, uid, *ids)
        assert await found(metastore) == set(ids)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "null",
            "[1]",
            "[{}]",
            '[{"version":"0.9"}]',
            "[",
            "\x00",
            "[" * 5000,
            '[{"version":"0.6","split_id":"a"}]',
        ],
    )
    async def test_refuses_what_is_no_list_of_splits(self, metastore: Metastore, text: str) -> None:
        uid = await make_index(metastore)
        with pytest.raises(errors.JsonDeserializeError) as caught:
            await stage_text(metastore, uid, text)
        assert caught.value.struct_name == METADATA
        assert await states(metastore) == {}

    async def test_json_is_decoded_before_the_index_is_looked_at(
        self, metastore: Metastore
    ) -> None:
        with pytest.raises(errors.JsonDeserializeError):
            await stage_text(metastore, unknown_index(), "[{}]")

    @pytest.mark.parametrize(
        "changes",
        [
            {"split_id": "a\0b"},
            {"node_id": "a\0b"},
            {"tags": ["a\0b"]},
            {"delete_opstamp": 2**63},
            {"footer_offsets": {"start": 0, "end": 2**64 - 1}},
        ],
    )
    async def test_refuses_values_that_cannot_be_stored(
        self, metastore: Metastore, changes: dict[str, Any]
    ) -> None:
        uid = await make_index(metastore)
        with pytest.raises(errors.InvalidArgument):
            await stage(metastore, uid, "good", document(uid, "bad") | changes)
        assert await states(metastore) == {}

    async def test_a_maturity_beyond_the_calendar(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        maturity = {"type": "immature", "maturation_period_millis": 2**64 - 1}
        with pytest.raises(errors.Db) as caught:
            await stage(metastore, uid, document(uid, "split-1", maturity=maturity))
        assert "timestamp out of range" in caught.value.message

    async def test_an_index_uid_is_required(self, metastore: Metastore) -> None:
        request = pb.StageSplitsRequest(split_metadata_list_serialized_json="[]")
        with pytest.raises(errors.InvalidArgument, match="index_uid"):
            await metastore.call("StageSplits", request)

    async def test_concurrent_calls_naming_the_same_splits_all_succeed(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        ids = [f"split-{number:02}" for number in range(40)]
        orders = [ids, ids[::-1], ids[20:] + ids[:20], ids[::2] + ids[1::2]]
        await asyncio.gather(*(stage(metastore, uid, *order) for order in orders * 2))
        assert await found(metastore, split_states=["Staged"]) == set(ids)
