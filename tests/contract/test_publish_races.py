"""PublishSplits: several at once, and beside other calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy import errors
from tests.support.access import Metastore
from tests.support.making import make_index
from tests.support.publishing import TOKEN, add_shard, padded, positions, with_source
from tests.support.splitting import (
    all_rows,
    delta,
    deltas,
    mark,
    publish,
    published,
    stage,
    states,
    stored_checkpoint,
)


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
