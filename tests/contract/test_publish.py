"""PublishSplits: splits and replaced splits."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, unknown_index
from tests.support.splitting import (
    all_rows,
    listed,
    mark,
    other_incarnation,
    publish,
    published,
    split_row,
    stage,
    states,
)


class TestSplits:
    async def test_publishes_staged_splits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1", "split-2", "other")
        before = await split_row(metastore, "other")

        await publish(metastore, uid, "split-1", "split-2")

        expected = {"split-1": "Published", "split-2": "Published", "other": "Staged"}
        assert await states(metastore) == expected
        assert await split_row(metastore, "other") == before
        row = await split_row(metastore, "split-1")
        assert row["publish_timestamp"] == row["update_timestamp"] > row["create_timestamp"]
        split = next(item for item in await listed(metastore) if item["split_id"] == "split-1")
        assert split["publish_timestamp"] == split["update_timestamp"]

    async def test_replaced_splits_are_marked_and_get_both_times(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "old-1", "old-2")
        old = await split_row(metastore, "old-1")
        await stage(metastore, uid, "merged")

        await publish(metastore, uid, "merged", replaced=["old-1", "old-2"])

        assert await states(metastore) == {
            "merged": "Published",
            "old-1": "MarkedForDeletion",
            "old-2": "MarkedForDeletion",
        }
        merged, row = await split_row(metastore, "merged"), await split_row(metastore, "old-1")
        assert row["publish_timestamp"] == row["update_timestamp"] > old["publish_timestamp"]
        assert row["publish_timestamp"] == merged["publish_timestamp"]
        assert row["create_timestamp"] == old["create_timestamp"]

    async def test_replacing_without_publishing(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "old")
        await publish(metastore, uid, replaced=["old"])
        assert await states(metastore) == {"old": "MarkedForDeletion"}

    async def test_an_empty_publish_succeeds(self, metastore: Metastore) -> None:
        await publish(metastore, await make_index(metastore))

    async def test_duplicates_in_a_list_are_harmless(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "old")
        await stage(metastore, uid, "new")
        await publish(metastore, uid, "new", "new", replaced=["old", "old"])
        assert await states(metastore) == {"new": "Published", "old": "MarkedForDeletion"}

    async def test_an_unknown_index(self, metastore: Metastore) -> None:
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, unknown_index(), "split-1")
        assert caught.value.entity == errors.index("web-logs")

    async def test_another_incarnation(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, other_incarnation(uid), "split-1")
        assert caught.value.entity == errors.index("web-logs")
        assert await states(metastore) == {"split-1": "Staged"}

    async def test_missing_splits_of_either_list(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "staged")
        before = await all_rows(metastore)
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, uid, "staged", "no-1", replaced=["no-2"])
        assert caught.value.entity == errors.splits(["no-1", "no-2"])
        assert await all_rows(metastore) == before

    async def test_splits_of_another_index_are_missing(self, metastore: Metastore) -> None:
        one, two = await make_index(metastore, "one"), await make_index(metastore, "two")
        await stage(metastore, one, "split-1")
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, two, "split-1")
        assert caught.value.entity == errors.splits(["split-1"])

    @pytest.mark.parametrize("state", ["Published", "MarkedForDeletion"])
    async def test_a_split_that_is_not_staged(self, metastore: Metastore, state: str) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "late")
        if state == "MarkedForDeletion":
            await mark(metastore, uid, "late")
        await stage(metastore, uid, "staged")
        before = await all_rows(metastore)
        with pytest.raises(errors.FailedPrecondition) as caught:
            await publish(metastore, uid, "staged", "late")
        assert caught.value.entity == errors.splits(["late"])
        assert caught.value.message == "splits are not staged"
        assert await all_rows(metastore) == before

    @pytest.mark.parametrize("state", ["Staged", "MarkedForDeletion"])
    async def test_a_replaced_split_that_is_not_published(
        self, metastore: Metastore, state: str
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "old", "new")
        if state == "MarkedForDeletion":
            await mark(metastore, uid, "old")
        before = await all_rows(metastore)
        with pytest.raises(errors.FailedPrecondition) as caught:
            await publish(metastore, uid, "new", replaced=["old"])
        assert caught.value.entity == errors.splits(["old"])
        assert caught.value.message == "splits are not marked for deletion"
        assert await all_rows(metastore) == before

    async def test_missing_comes_before_not_staged_before_not_published(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "published")
        await stage(metastore, uid, "staged")
        with pytest.raises(errors.NotFound):
            await publish(metastore, uid, "published", "missing", replaced=["staged"])
        with pytest.raises(errors.FailedPrecondition, match="splits are not staged"):
            await publish(metastore, uid, "published", replaced=["staged"])

    @pytest.mark.parametrize(
        ("split_id", "message"),
        [
            ("staged", "splits are not marked for deletion"),
            ("published", "splits are not staged"),
        ],
    )
    async def test_a_split_in_both_lists_fails(
        self, metastore: Metastore, split_id: str, message: str
    ) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "published")
        await stage(metastore, uid, "staged")
        with pytest.raises(errors.FailedPrecondition) as caught:
            await publish(metastore, uid, split_id, replaced=[split_id])
        assert caught.value.message == message

    async def test_a_replay_fails(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await publish(metastore, uid, "split-1")
        with pytest.raises(errors.FailedPrecondition, match="splits are not staged"):
            await publish(metastore, uid, "split-1")

    async def test_the_row_of_the_index_is_always_rewritten(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        version = "SELECT xmin::text, index_metadata_json FROM indexes"
        before = await metastore.sql.fetchrow(version)
        await publish(metastore, uid)
        after = await metastore.sql.fetchrow(version)
        assert before is not None
        assert after is not None
        assert after["xmin"] != before["xmin"]
        # Key order is free.
        stored = json.loads(after["index_metadata_json"])
        assert stored == json.loads(before["index_metadata_json"])

    async def test_unknown_keys_of_the_metadata_survive(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await metastore.sql.execute(
            """
            UPDATE indexes SET index_metadata_json =
                (index_metadata_json::jsonb || '{"future": {"key": 12345678901234567890}}')::text
            """
        )
        await publish(metastore, uid)
        text = await metastore.sql.fetchval("SELECT index_metadata_json FROM indexes")
        assert json.loads(text)["future"] == {"key": 12345678901234567890}

    async def test_broken_metadata(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await metastore.sql.execute("UPDATE indexes SET index_metadata_json = '{'")
        with pytest.raises(errors.JsonDeserializeError) as caught:
            await publish(metastore, uid)
        assert caught.value.struct_name == "IndexMetadata"

    async def test_an_index_uid_is_required(self, metastore: Metastore) -> None:
        with pytest.raises(errors.InvalidArgument, match="index_uid"):
            await metastore.call("PublishSplits", pb.PublishSplitsRequest())

    async def test_a_thousand_splits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        ids = [f"split-{number:04}" for number in range(1000)]
        await stage(metastore, uid, *ids)
        await publish(metastore, uid, *ids)
        assert set((await states(metastore)).values()) == {"Published"}
