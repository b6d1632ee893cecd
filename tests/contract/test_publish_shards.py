"""PublishSplits: the checkpoint in shards."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import errors
from proxy.identifiers import index_uid_text
from tests.support.access import Metastore
from tests.support.publishing import TOKEN, add_shard, padded, positions, with_source
from tests.support.splitting import (
    all_rows,
    delta,
    deltas,
    publish,
    stage,
    states,
    stored_checkpoint,
)


async def shard(metastore: Metastore, shard_id: str) -> dict[str, Any]:
    row = await metastore.sql.fetchrow("SELECT * FROM shards WHERE shard_id = $1", shard_id)
    assert row is not None
    return dict(row)


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
