"""UpdateSplitsDeleteOpstamp and ListStaleSplits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, unknown_index
from tests.support.split_ages import EPOCH, age, database_now
from tests.support.splitting import (
    document,
    listed,
    mark,
    other_incarnation,
    publish,
    published,
    set_opstamp,
    split_row,
    stage,
    stale,
)


class TestDeleteOpstamp:
    async def test_sets_it_in_any_state(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "published", "other")
        await stage(metastore, uid, "staged", "marked")
        await mark(metastore, uid, "marked")
        await set_opstamp(metastore, uid, 7, "staged", "published", "marked", "unknown")
        read = {split["split_id"]: split["delete_opstamp"] for split in await listed(metastore)}
        assert read == {"staged": 7, "published": 7, "marked": 7, "other": 0}

    async def test_the_update_time_moves_only_where_the_value_does(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "same", delete_opstamp=7), "changed")
        await age(metastore)
        same, changed = (
            await split_row(metastore, "same"),
            await split_row(metastore, "changed"),
        )
        await set_opstamp(metastore, uid, 7, "same", "changed")
        assert await split_row(metastore, "same") == same
        after = await split_row(metastore, "changed")
        assert after["update_timestamp"] > changed["update_timestamp"]
        assert after["create_timestamp"] == changed["create_timestamp"]

    async def test_it_may_be_lowered(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "split-1", delete_opstamp=9))
        await set_opstamp(metastore, uid, 2, "split-1")
        assert (await split_row(metastore, "split-1"))["delete_opstamp"] == 2

    async def test_the_stored_document_is_left_alone(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        before = (await split_row(metastore, "split-1"))["split_metadata_json"]
        await set_opstamp(metastore, uid, 2**63 - 1, "split-1")
        assert (await split_row(metastore, "split-1"))["split_metadata_json"] == before
        (split,) = await listed(metastore)
        assert split["delete_opstamp"] == 2**63 - 1

    async def test_no_splits_succeed_without_an_index(self, metastore: Metastore) -> None:
        await set_opstamp(metastore, unknown_index(), 7)

    async def test_unknown_splits_of_a_known_index(self, metastore: Metastore) -> None:
        await set_opstamp(metastore, await make_index(metastore), 7, "unknown")

    async def test_an_unknown_index(self, metastore: Metastore) -> None:
        with pytest.raises(errors.NotFound) as caught:
            await set_opstamp(metastore, unknown_index(), 7, "split-1")
        assert caught.value.entity == errors.index("web-logs")

    async def test_another_incarnation_is_unknown(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        with pytest.raises(errors.NotFound):
            await set_opstamp(metastore, other_incarnation(uid), 7, "split-1")
        assert (await split_row(metastore, "split-1"))["delete_opstamp"] == 0

    async def test_the_column_has_63_bits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        with pytest.raises(errors.InvalidArgument, match="delete_opstamp"):
            await set_opstamp(metastore, uid, 2**63, "split-1")

    async def test_an_index_uid_is_required(self, metastore: Metastore) -> None:
        with pytest.raises(errors.InvalidArgument, match="index_uid"):
            await metastore.call("UpdateSplitsDeleteOpstamp", pb.UpdateSplitsDeleteOpstampRequest())


class TestStale:
    async def prepared(self, metastore: Metastore) -> common_pb2.IndexUid:
        uid = await make_index(metastore)
        now = int((await database_now(metastore) - EPOCH).total_seconds())

        def immature(split_id: str, since: int) -> dict[str, Any]:
            maturity = {"type": "immature", "maturation_period_millis": 10_000}
            return document(uid, split_id, create_timestamp=now - since, maturity=maturity)

        await published(metastore, uid, document(uid, "third", delete_opstamp=5))
        await published(metastore, uid, document(uid, "second", delete_opstamp=3))
        await published(metastore, uid, document(uid, "first", delete_opstamp=3))
        await published(metastore, uid, immature("ripened", 1000), immature("unripe", -1000))
        await stage(metastore, uid, "staged")
        await published(metastore, uid, "marked")
        await mark(metastore, uid, "marked")
        await metastore.sql.execute(
            """
            UPDATE splits SET publish_timestamp = publish_timestamp - interval '1 hour'
            WHERE split_id = 'first'
            """
        )
        return uid

    @pytest.mark.parametrize(
        ("opstamp", "count", "expected"),
        [
            (0, 100, []),
            (1, 100, ["ripened"]),
            (3, 100, ["ripened"]),
            (4, 100, ["ripened", "first", "second"]),
            (6, 100, ["ripened", "first", "second", "third"]),
            (6, 2, ["ripened", "first"]),
            (6, 0, []),
            (2**63, 2**64 - 1, ["ripened", "first", "second", "third"]),
        ],
    )
    async def test_filters_orders_and_limits(
        self, metastore: Metastore, opstamp: int, count: int, expected: list[str]
    ) -> None:
        uid = await self.prepared(metastore)
        assert await stale(metastore, uid, opstamp, count) == expected

    async def test_an_unknown_index_has_an_empty_list(self, metastore: Metastore) -> None:
        request = pb.ListStaleSplitsRequest(
            index_uid=unknown_index(), delete_opstamp=10, num_splits=10
        )
        response = await metastore.call("ListStaleSplits", request)
        assert response == pb.ListSplitsResponse(splits_serialized_json="[]")

    async def test_other_indexes_do_not_count(self, metastore: Metastore) -> None:
        one, two = await make_index(metastore, "one"), await make_index(metastore, "two")
        await published(metastore, one, "in-one")
        await published(metastore, two, "in-two")
        assert await stale(metastore, one, 1) == ["in-one"]

    async def test_answers_whole_splits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await publish(metastore, uid, "split-1")
        request = pb.ListStaleSplitsRequest(index_uid=uid, delete_opstamp=1, num_splits=1)
        response = await metastore.call("ListStaleSplits", request)
        assert json.loads(response.splits_serialized_json) == await listed(metastore)

    async def test_a_row_that_is_no_split(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "split-1")
        await metastore.sql.execute(
            """UPDATE splits SET split_metadata_json = '{"footer_offsets":{"end":1}}'"""
        )
        with pytest.raises(errors.JsonDeserializeError) as caught:
            await stale(metastore, uid, 1)
        assert caught.value.struct_name == "SplitMetadata"

    async def test_an_index_uid_is_required(self, metastore: Metastore) -> None:
        with pytest.raises(errors.InvalidArgument, match="index_uid"):
            await metastore.call("ListStaleSplits", pb.ListStaleSplitsRequest())
