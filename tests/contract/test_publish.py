"""PublishSplits: splits, replaced splits, checkpoints in the index and in shards, races."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy import errors
from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, source_config, unknown_index
from tests.support.splitting import (
    all_rows,
    delta,
    deltas,
    listed,
    mark,
    other_incarnation,
    publish,
    published,
    split_row,
    stage,
    states,
    stored_checkpoint,
)

DELTA = "quickwit_metastore::checkpoint::IndexCheckpointDelta"
TOKEN = "01K33Z58DJRFAEBXG730MKMJTW"


def padded(number: int) -> str:
    return f"{number:020}"


async def with_source(metastore: Metastore, source_type: str = "void") -> common_pb2.IndexUid:
    return await make_index(metastore, "web-logs", source_config("source", source_type))


async def add_shard(
    metastore: Metastore,
    uid: common_pb2.IndexUid,
    shard_id: str,
    position: str = "",
    token: str | None = TOKEN,
    state: str = "open",
) -> None:
    await metastore.sql.execute(
        """
        INSERT INTO shards (index_uid, source_id, shard_id, leader_id, shard_state,
            publish_position_inclusive, publish_token, doc_mapping_uid)
        VALUES ($1, 'source', $2, 'ingester-1', $3::text::shard_state, $4, $5, $6)
        """,
        index_uid_text(uid),
        shard_id,
        state,
        position,
        token,
        "0" * 26,
    )


async def shard(metastore: Metastore, shard_id: str) -> dict[str, Any]:
    row = await metastore.sql.fetchrow("SELECT * FROM shards WHERE shard_id = $1", shard_id)
    assert row is not None
    return dict(row)


async def positions(metastore: Metastore) -> dict[str, tuple[str, str]]:
    rows = await metastore.sql.fetch("SELECT * FROM shards")
    return {
        row["shard_id"]: (row["publish_position_inclusive"], row["shard_state"]) for row in rows
    }


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


class TestCheckpoint:
    async def test_advances_with_the_splits(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        await stage(metastore, uid, "split-1")
        checkpoint = delta("source", a=("", padded(5)), b=(padded(1), padded(7)))
        await publish(metastore, uid, "split-1", checkpoint=checkpoint)
        assert await stored_checkpoint(metastore) == {"source": {"a": padded(5), "b": padded(7)}}

    async def test_advances_without_splits(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        await publish(metastore, uid, checkpoint=delta("source", a=("", padded(5))))
        await publish(metastore, uid, checkpoint=delta("source", a=(padded(5), padded(9))))
        assert await stored_checkpoint(metastore) == {"source": {"a": padded(9)}}

    async def test_partition_ids_are_free_texts(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        moved = {"": ("", "x"), "é\"'$1": ("", "~"), "s3://bucket/a b": ("", "~12")}
        await publish(metastore, uid, checkpoint=deltas("source", moved))
        assert await stored_checkpoint(metastore) == {
            "source": {"": "x", "é\"'$1": "~", "s3://bucket/a b": "~12"}
        }

    @pytest.mark.parametrize(
        ("stored", "start"),
        [
            (padded(5), padded(5)),
            (padded(5), padded(8)),
            ("", ""),
            ("", padded(3)),
            (padded(9), "~"),
            (padded(9), "~" + padded(1)),
            ("~", "~" + padded(1)),
            ("9", "91"),
        ],
    )
    async def test_a_delta_from_the_position_or_above_is_accepted(
        self, metastore: Metastore, stored: str, start: str
    ) -> None:
        uid = await with_source(metastore)
        await publish(metastore, uid, checkpoint=delta("source", a=("", stored)))
        await publish(metastore, uid, checkpoint=delta("source", a=(start, "~99")))
        assert await stored_checkpoint(metastore) == {"source": {"a": "~99"}}

    @pytest.mark.parametrize(
        ("stored", "start", "message"),
        [
            (
                padded(99),
                "",
                (
                    "incompatible checkpoint delta at partition `a`: end position is "
                    "`Position::Offset(00000000000000000099)` (inclusive), whereas delta starts at "
                    "`Position::Beginning` (exclusive)"
                ),
            ),
            (
                "~",
                padded(7),
                (
                    "incompatible checkpoint delta at partition `a`: end position is "
                    "`Position::Eof` (inclusive), whereas delta starts at "
                    "`Position::Offset(00000000000000000007)` (exclusive)"
                ),
            ),
            (
                "~" + padded(9),
                "~",
                (
                    "incompatible checkpoint delta at partition `a`: end position is "
                    "`Position::Eof(00000000000000000009)` (inclusive), whereas delta starts at "
                    "`Position::Eof` (exclusive)"
                ),
            ),
            (
                # Compared as texts, not as numbers.
                "9",
                "10",
                (
                    "incompatible checkpoint delta at partition `a`: end position is "
                    "`Position::Offset(9)` (inclusive), whereas delta starts at "
                    "`Position::Offset(10)` (exclusive)"
                ),
            ),
        ],
    )
    async def test_a_delta_from_below_is_refused(
        self, metastore: Metastore, stored: str, start: str, message: str
    ) -> None:
        uid = await with_source(metastore)
        await publish(metastore, uid, checkpoint=delta("source", a=("", stored)))
        await stage(metastore, uid, "split-1")
        before = await all_rows(metastore)
        with pytest.raises(errors.FailedPrecondition) as caught:
            checkpoint = delta("source", a=(start, "~999"), b=("", "1"))
            await publish(metastore, uid, "split-1", checkpoint=checkpoint)
        assert caught.value.entity == errors.checkpoint_delta("web-logs", "source")
        assert caught.value.message == message
        assert await all_rows(metastore) == before

    async def test_resending_a_delta_is_refused_before_the_splits_are_looked_at(
        self, metastore: Metastore
    ) -> None:
        uid = await with_source(metastore)
        await stage(metastore, uid, "split-1")
        checkpoint = delta("source", a=("", padded(5)))
        await publish(metastore, uid, "split-1", checkpoint=checkpoint)
        with pytest.raises(errors.FailedPrecondition) as caught:
            await publish(metastore, uid, "split-1", checkpoint=checkpoint)
        assert caught.value.entity == errors.checkpoint_delta("web-logs", "source")

    async def test_a_failed_publish_leaves_the_checkpoint(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        before = await all_rows(metastore)
        with pytest.raises(errors.NotFound):
            await publish(metastore, uid, "missing", checkpoint=delta("source", a=("", "1")))
        assert await all_rows(metastore) == before

    @pytest.mark.parametrize("checkpoint", [delta("other", a=("", "1")), delta("other")])
    async def test_an_unknown_source(self, metastore: Metastore, checkpoint: str) -> None:
        uid = await with_source(metastore)
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, uid, "missing", checkpoint=checkpoint)
        assert caught.value.entity == errors.source("web-logs", "other")

    async def test_an_empty_delta_changes_nothing(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        before = await stored_checkpoint(metastore)
        await publish(metastore, uid, checkpoint=delta("source"))
        assert await stored_checkpoint(metastore) == before

    async def test_an_unneeded_token_is_ignored(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        await publish(metastore, uid, token="whatever")
        await publish(metastore, uid, token="x", checkpoint=delta("source", a=("", "1")))
        assert await stored_checkpoint(metastore) == {"source": {"a": "1"}}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "null",
            "{}",
            '{"source_id":"source"}',
            '{"source_id":1,"source_delta":{"per_partition":{}}}',
            '{"source_id":"source","source_delta":{"per_partition":[]}}',
            '{"source_id":"source","source_delta":{"per_partition":{"a":{"from":""}}}}',
            '{"source_id":"source","source_delta":{"per_partition":{"a":{"from":0,"to":1}}}}',
        ],
    )
    async def test_a_malformed_delta_is_refused_first(
        self, metastore: Metastore, text: str
    ) -> None:
        with pytest.raises(errors.JsonDeserializeError) as caught:
            await publish(metastore, unknown_index(), "missing", checkpoint=text)
        assert caught.value.struct_name == DELTA


class TestShards:
    async def test_advances_the_named_shards_only(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", padded(3))
        await add_shard(metastore, uid, "shard-2")
        await add_shard(metastore, uid, "shard-3", padded(4))
        untouched = await shard(metastore, "shard-3")
        await stage(metastore, uid, "split-1")
        moved = {"shard-1": (padded(3), padded(8)), "shard-2": ("", "~" + padded(2))}

        await publish(metastore, uid, "split-1", checkpoint=deltas("source", moved), token=TOKEN)

        assert await positions(metastore) == {
            "shard-1": (padded(8), "open"),
            "shard-2": ("~" + padded(2), "closed"),
            "shard-3": (padded(4), "open"),
        }
        assert await shard(metastore, "shard-3") == untouched
        assert await states(metastore) == {"split-1": "Published"}
        assert (await stored_checkpoint(metastore)).get("source", {}) == {}

    async def test_stamps_the_servers_clock(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1")
        moved = deltas("source", {"shard-1": ("", padded(1))})
        await publish(metastore, uid, checkpoint=moved, token=TOKEN)
        lag = await metastore.sql.fetchval(
            "SELECT extract(epoch FROM clock_timestamp() AT TIME ZONE 'UTC' - update_timestamp)"
            "::float8 FROM shards"
        )
        assert -5 < lag < 60

    @pytest.mark.parametrize("end", ["~", "~" + padded(3)])
    async def test_the_end_closes_a_shard(self, metastore: Metastore, end: str) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", state="unavailable")
        moved = deltas("source", {"shard-1": ("", end)})
        await publish(metastore, uid, checkpoint=moved, token=TOKEN)
        assert await positions(metastore) == {"shard-1": (end, "closed")}

    @pytest.mark.parametrize("state", ["open", "closed", "unavailable"])
    async def test_the_state_stays_otherwise(self, metastore: Metastore, state: str) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", state=state)
        moved = deltas("source", {"shard-1": ("", padded(1))})
        await publish(metastore, uid, checkpoint=moved, token=TOKEN)
        assert await positions(metastore) == {"shard-1": (padded(1), state)}

    @pytest.mark.parametrize("start", [padded(5), padded(9), "~"])
    async def test_equal_and_higher_starts_are_accepted(
        self, metastore: Metastore, start: str
    ) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", padded(5))
        # The end is not compared with the start.
        moved = deltas("source", {"shard-1": (start, padded(2))})
        await publish(metastore, uid, checkpoint=moved, token=TOKEN)
        assert await positions(metastore) == {"shard-1": (padded(2), "open")}

    async def test_a_lower_start_is_refused(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", padded(5))
        await add_shard(metastore, uid, "shard-2")
        before = await all_rows(metastore)
        moved = {"shard-2": ("", padded(1)), "shard-1": (padded(4), padded(9))}
        with pytest.raises(errors.InvalidArgument) as caught:
            await publish(metastore, uid, checkpoint=deltas("source", moved), token=TOKEN)
        assert caught.value.message == (
            "incompatible checkpoint delta at partition `shard-1`: end position is "
            "`Position::Offset(00000000000000000005)` (inclusive), whereas delta starts at "
            "`Position::Offset(00000000000000000004)` (exclusive)"
        )
        assert await all_rows(metastore) == before

    @pytest.mark.parametrize("checkpoint", [delta("source", a=("", "1")), delta("source")])
    async def test_a_token_is_required(self, metastore: Metastore, checkpoint: str) -> None:
        uid = await with_source(metastore, "ingest")
        with pytest.raises(errors.InvalidArgument) as caught:
            await publish(metastore, uid, checkpoint=checkpoint)
        assert caught.value.message == (
            "publish token is required for publishing splits for source `source`"
        )

    async def test_no_delta_needs_no_token(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await publish(metastore, uid)

    async def test_an_empty_delta_changes_nothing(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1")
        before = await shard(metastore, "shard-1")
        await publish(metastore, uid, checkpoint=delta("source"), token=TOKEN)
        assert await shard(metastore, "shard-1") == before

    @pytest.mark.parametrize("stored", [None, "", "other", TOKEN.lower(), TOKEN + " "])
    async def test_another_token_is_refused(self, metastore: Metastore, stored: str | None) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", token=stored)
        await stage(metastore, uid, "split-1")
        before = await all_rows(metastore)
        moved = deltas("source", {"shard-1": ("", padded(1))})
        with pytest.raises(errors.InvalidPublishToken) as caught:
            await publish(metastore, uid, "split-1", checkpoint=moved, token=TOKEN)
        assert caught.value.queue_id == f"{index_uid_text(uid)}/source/shard-1"
        assert await all_rows(metastore) == before

    async def test_an_empty_token_matches_an_empty_one(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", token="")
        moved = deltas("source", {"shard-1": ("", padded(1))})
        await publish(metastore, uid, checkpoint=moved, token="")
        assert await positions(metastore) == {"shard-1": (padded(1), "open")}

    async def test_a_missing_shard(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", token="other")
        before = await all_rows(metastore)
        moved = {"shard-1": ("", padded(1)), "missing": ("", padded(1))}
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, uid, checkpoint=deltas("source", moved), token=TOKEN)
        assert caught.value.entity == errors.shard(f"{index_uid_text(uid)}/source")
        assert await all_rows(metastore) == before

    async def test_the_token_comes_before_the_position(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1", padded(5), token="other")
        moved = deltas("source", {"shard-1": ("", padded(1))})
        with pytest.raises(errors.InvalidPublishToken):
            await publish(metastore, uid, "missing", checkpoint=moved, token=TOKEN)

    async def test_missing_splits_leave_the_shards(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1")
        before = await all_rows(metastore)
        moved = deltas("source", {"shard-1": ("", padded(1))})
        with pytest.raises(errors.NotFound) as caught:
            await publish(metastore, uid, "missing", checkpoint=moved, token=TOKEN)
        assert caught.value.entity == errors.splits(["missing"])
        assert await all_rows(metastore) == before

    async def test_a_replay_is_refused(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1")
        moved = deltas("source", {"shard-1": ("", padded(1))})
        await publish(metastore, uid, checkpoint=moved, token=TOKEN)
        with pytest.raises(errors.InvalidArgument, match="incompatible checkpoint delta"):
            await publish(metastore, uid, checkpoint=moved, token=TOKEN)


async def outcomes(*calls: Any) -> list[errors.MetastoreError | None]:
    """Run calls at once; return the error of each, or None."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        assert result is None or isinstance(result, errors.MetastoreError)
    return list(results)


class TestRaces:
    async def test_ten_publishes_of_distinct_partitions_all_survive(
        self, metastore: Metastore
    ) -> None:
        uid = await with_source(metastore)
        ids = [f"split-{number}" for number in range(10)]
        await stage(metastore, uid, *ids)
        await asyncio.gather(
            *(
                publish(metastore, uid, name, checkpoint=delta("source", **{name: ("", "1")}))
                for name in ids
            )
        )
        assert await stored_checkpoint(metastore) == {"source": dict.fromkeys(ids, "1")}
        assert await states(metastore) == dict.fromkeys(ids, "Published")

    async def test_one_of_many_publishers_of_a_split_wins(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        await stage(metastore, uid, "split-1")
        results = await outcomes(
            *(
                publish(metastore, uid, "split-1", checkpoint=delta("source", **{p: ("", "1")}))
                for p in "abcdef"
            )
        )
        assert results.count(None) == 1
        for error in filter(None, results):
            assert isinstance(error, errors.FailedPrecondition)
            assert error.message == "splits are not staged"
        assert await stored_checkpoint(metastore) == {
            "source": {"abcdef"[results.index(None)]: "1"}
        }

    async def test_one_of_many_publishers_of_an_interval_wins(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        ids = [f"split-{number}" for number in range(6)]
        await stage(metastore, uid, *ids)
        results = await outcomes(
            *(
                publish(metastore, uid, name, checkpoint=delta("source", a=("", padded(1))))
                for name in ids
            )
        )
        assert results.count(None) == 1
        winner = ids[results.index(None)]
        expected = {name: "Published" if name == winner else "Staged" for name in ids}
        assert await states(metastore) == expected

    async def test_one_of_many_publishers_of_a_shard_wins(self, metastore: Metastore) -> None:
        uid = await with_source(metastore, "ingest")
        await add_shard(metastore, uid, "shard-1")
        calls = [
            publish(
                metastore,
                uid,
                checkpoint=deltas("source", {"shard-1": ("", padded(end))}),
                token=TOKEN,
            )
            for end in range(1, 7)
        ]
        results = await outcomes(*calls)
        assert results.count(None) == 1
        assert await positions(metastore) == {"shard-1": (padded(results.index(None) + 1), "open")}

    async def test_one_of_many_merges_of_a_split_wins(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "old")
        ids = [f"merged-{number}" for number in range(5)]
        await stage(metastore, uid, *ids)
        results = await outcomes(*(publish(metastore, uid, name, replaced=["old"]) for name in ids))
        assert results.count(None) == 1
        winner = ids[results.index(None)]
        expected = {name: "Published" if name == winner else "Staged" for name in ids}
        assert await states(metastore) == {**expected, "old": "MarkedForDeletion"}

    async def test_publishing_and_marking_the_same_splits(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        ids = [f"split-{number:02}" for number in range(30)]
        await stage(metastore, uid, *ids)
        results = await outcomes(publish(metastore, uid, *ids), mark(metastore, uid, *ids[::-1]))
        assert results[1] is None
        # Whoever was first, the splits end marked; a late publish is refused whole.
        assert await states(metastore) == dict.fromkeys(ids, "MarkedForDeletion")
        rows = await metastore.sql.fetch("SELECT publish_timestamp FROM splits")
        is_published = results[0] is None
        assert {row["publish_timestamp"] is not None for row in rows} == {is_published}

    async def test_a_waiting_publish_sees_the_mark_it_waited_for(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1", "split-2")
        async with metastore.sql.transaction():
            await metastore.sql.execute(
                "UPDATE splits SET split_state = 'MarkedForDeletion' WHERE split_id = 'split-2'"
            )
            waiting = asyncio.create_task(publish(metastore, uid, "split-1", "split-2"))
            await until_blocked(metastore)
        with pytest.raises(errors.FailedPrecondition) as caught:
            await waiting
        assert caught.value.entity == errors.splits(["split-2"])
        assert (await states(metastore))["split-1"] == "Staged"

    async def test_a_waiting_mark_sees_the_publish_it_waited_for(
        self, metastore: Metastore
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        async with metastore.sql.transaction():
            await metastore.sql.execute("UPDATE splits SET split_state = 'Published'")
            waiting = asyncio.create_task(mark(metastore, uid, "split-1"))
            await until_blocked(metastore)
        await waiting
        assert await states(metastore) == {"split-1": "MarkedForDeletion"}

    async def test_a_cancelled_publish_leaves_nothing(self, metastore: Metastore) -> None:
        uid = await with_source(metastore)
        await stage(metastore, uid, "split-1")
        before = await all_rows(metastore)
        async with metastore.sql.transaction():
            await metastore.sql.execute("SELECT 1 FROM splits FOR UPDATE")
            checkpoint = delta("source", a=("", "1"))
            waiting = asyncio.create_task(publish(metastore, uid, "split-1", checkpoint=checkpoint))
            await until_blocked(metastore)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until_blocked(metastore, count=0)
        assert await all_rows(metastore) == before
        await publish(metastore, uid, "split-1", checkpoint=delta("source", a=("", "1")))

    async def test_publishing_and_staging_do_not_deadlock(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        ids = [f"split-{number:02}" for number in range(20)]
        for turn in range(5):
            await stage(metastore, uid, *(f"{turn}-{name}" for name in ids[::2]))
            results = await outcomes(
                publish(metastore, uid, *(f"{turn}-{name}" for name in ids[::2])),
                stage(metastore, uid, *(f"{turn}-{name}" for name in ids[::-1])),
            )
            for error in filter(None, results):
                assert isinstance(error, errors.FailedPrecondition)


async def until_blocked(metastore: Metastore, count: int = 1) -> None:
    """Wait until so many statements wait for a lock."""
    async with asyncio.timeout(10):
        while True:
            blocked = await metastore.sql.fetchval(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if blocked == count:
                return
            await asyncio.sleep(0.01)
