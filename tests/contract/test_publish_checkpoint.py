"""PublishSplits: the checkpoint in the index."""

from __future__ import annotations

import pytest

from proxy import errors
from tests.support.access import Metastore
from tests.support.making import unknown_index
from tests.support.publishing import padded, with_source
from tests.support.splitting import all_rows, delta, deltas, publish, stage, stored_checkpoint

DELTA = "quickwit_metastore::checkpoint::IndexCheckpointDelta"


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
