"""MarkSplitsForDeletion and DeleteSplits."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, unknown_index
from tests.support.split_ages import age, database_now
from tests.support.splitting import (
    all_rows,
    delete,
    mark,
    other_incarnation,
    published,
    split_row,
    stage,
    states,
)


class TestMark:
    async def test_marks_staged_and_published_splits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "published")
        await stage(metastore, uid, "staged", "other")
        await age(metastore)
        before = await database_now(metastore)

        await mark(metastore, uid, "staged", "published")

        assert await states(metastore) == {
            "staged": "MarkedForDeletion",
            "published": "MarkedForDeletion",
            "other": "Staged",
        }
        row = await split_row(metastore, "published")
        assert row["update_timestamp"] >= before
        assert row["publish_timestamp"] < before
        assert row["create_timestamp"] < before
        assert (await split_row(metastore, "other"))["update_timestamp"] < before

    async def test_marking_again_keeps_the_old_time(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1", "split-2")
        await mark(metastore, uid, "split-1")
        await age(metastore)
        row = await split_row(metastore, "split-1")
        await mark(metastore, uid, "split-1", "split-2")
        assert await split_row(metastore, "split-1") == row
        assert (await split_row(metastore, "split-2"))["split_state"] == "MarkedForDeletion"

    async def test_unknown_splits_are_ignored(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await mark(metastore, uid, "split-1", "unknown")
        assert await states(metastore) == {"split-1": "MarkedForDeletion"}

    async def test_duplicates_are_harmless(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await mark(metastore, uid, "split-1", "split-1")
        assert await states(metastore) == {"split-1": "MarkedForDeletion"}

    @pytest.mark.parametrize("split_ids", [(), ("unknown",)])
    async def test_nothing_found_in_a_known_index(
        self, metastore: Metastore, split_ids: tuple[str, ...]
    ) -> None:
        await mark(metastore, await make_index(metastore), *split_ids)

    @pytest.mark.parametrize("split_ids", [(), ("unknown",)])
    async def test_nothing_found_in_an_unknown_index(
        self, metastore: Metastore, split_ids: tuple[str, ...]
    ) -> None:
        with pytest.raises(errors.NotFound) as caught:
            await mark(metastore, unknown_index(), *split_ids)
        assert caught.value.entity == errors.index("web-logs")

    async def test_any_incarnation_of_the_index_will_do(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await mark(metastore, other_incarnation(uid), "split-1")
        assert await states(metastore) == {"split-1": "Staged"}

    async def test_an_index_uid_is_required(self, metastore: Metastore) -> None:
        with pytest.raises(errors.InvalidArgument, match="index_uid"):
            await metastore.call("MarkSplitsForDeletion", pb.MarkSplitsForDeletionRequest())

    async def test_a_name_that_cannot_exist(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        with pytest.raises(errors.InvalidArgument):
            await mark(metastore, uid, "a\0b")


class TestDelete:
    async def test_deletes_marked_splits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1", "split-2", "kept")
        await mark(metastore, uid, "split-1", "split-2")
        await delete(metastore, uid, "split-1", "split-2", "split-1", "unknown")
        assert await states(metastore) == {"kept": "Staged"}

    async def test_a_replay_succeeds(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await mark(metastore, uid, "split-1")
        await delete(metastore, uid, "split-1")
        await delete(metastore, uid, "split-1")
        assert await states(metastore) == {}

    async def test_one_live_split_keeps_them_all(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "b-published")
        await stage(metastore, uid, "a-staged", "marked")
        await mark(metastore, uid, "marked")
        before = await all_rows(metastore)

        with pytest.raises(errors.FailedPrecondition) as caught:
            await delete(metastore, uid, "marked", "b-published", "unknown", "a-staged")

        assert caught.value.entity == errors.splits(["a-staged", "b-published"])
        assert caught.value.message == "splits `a-staged, b-published` are not deletable"
        assert await all_rows(metastore) == before

    @pytest.mark.parametrize("split_ids", [(), ("unknown",)])
    async def test_nothing_found_in_a_known_index(
        self, metastore: Metastore, split_ids: tuple[str, ...]
    ) -> None:
        await delete(metastore, await make_index(metastore), *split_ids)

    @pytest.mark.parametrize("split_ids", [(), ("unknown",)])
    async def test_nothing_found_in_an_unknown_index(
        self, metastore: Metastore, split_ids: tuple[str, ...]
    ) -> None:
        with pytest.raises(errors.NotFound) as caught:
            await delete(metastore, unknown_index(), *split_ids)
        assert caught.value.entity == errors.index("web-logs")

    async def test_another_incarnation_is_unknown(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await mark(metastore, uid, "split-1")
        with pytest.raises(errors.NotFound) as caught:
            await delete(metastore, other_incarnation(uid), "split-1")
        assert caught.value.entity == errors.index("web-logs")
        assert await states(metastore) == {"split-1": "MarkedForDeletion"}

    async def test_an_index_uid_is_required(self, metastore: Metastore) -> None:
        with pytest.raises(errors.InvalidArgument, match="index_uid"):
            await metastore.call("DeleteSplits", pb.DeleteSplitsRequest(split_ids=["a"]))

    async def test_a_long_list_of_names_still_arrives_as_an_error(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        ids = [f"split-{number:044}" for number in range(300)]
        await stage(metastore, uid, *ids)
        with pytest.raises(errors.FailedPrecondition) as caught:
            await delete(metastore, uid, *ids)
        assert caught.value.message.startswith(f"splits `{ids[0]}, {ids[1]}")
        assert set(await states(metastore)) == set(ids)
