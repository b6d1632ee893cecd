"""Reads that arrive while one is under way share a statement, and nothing else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence

import pytest

from proxy.calls import CallRecord, current_call
from proxy.store import gathering
from proxy.store.gathering import Gathering
from tests.support.waiting import until


class RowFaultError(Exception):
    """What one row is to blame for."""


class Table:
    """Rows by key, read by statements that are let go one by one; `asked` are their keys."""

    def __init__(self, **rows: int) -> None:
        self.rows = rows
        self.asked: list[tuple[str, ...]] = []
        self.cancelled = 0
        self._going: list[asyncio.Future[None]] = []
        self.reads = Gathering(self._fetch, sql="SELECT rows", blaming=(RowFaultError,))

    async def _fetch(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(tuple(keys))
        going = asyncio.get_running_loop().create_future()
        self._going.append(going)
        # What a statement sees is what there is when it is sent.
        found = {key: self.rows[key] for key in keys if key in self.rows}
        try:
            await going
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return found

    def read(self, key: str) -> asyncio.Task[int | None]:
        return asyncio.create_task(self.reads.read(key))

    async def let_go(self, error: Exception | None = None) -> None:
        """End the statement sent first, and give those who wait for it their turn."""
        going = self._going.pop(0)
        if error is None:
            going.set_result(None)
        else:
            going.set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "AT_ONCE", 1)
    monkeypatch.setattr(gathering, "BOUND", 600.0)


async def test_the_first_read_goes_out_alone_and_those_behind_it_as_one() -> None:
    table = Table(a=1, b=2, c=3)
    first = table.read("a")
    await settle()
    others = [table.read(key) for key in ("b", "c", "b", "missing")]
    await settle()
    assert table.asked == [("a",)]
    await table.let_go()
    assert first.result() == 1
    assert table.asked == [("a",), ("b", "c", "missing")]
    await table.let_go()
    assert [task.result() for task in others] == [2, 3, 2, None]
    # Nothing is under way any more.
    assert not (last := table.read("c")).done()
    await settle()
    await table.let_go()
    assert (last.result(), table.asked[-1]) == (3, ("c",))


async def test_some_go_out_alone_before_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "AT_ONCE", 2)
    table = Table(a=1, b=2, c=3, d=4)
    tasks = [table.read(key) for key in "abcd"]
    await settle()
    assert table.asked == [("a",), ("b",)]
    await table.let_go()
    assert table.asked == [("a",), ("b",), ("c", "d")]
    await table.let_go()
    await table.let_go()
    assert [task.result() for task in tasks] == [1, 2, 3, 4]


async def test_a_read_never_gets_what_was_read_before_it_came() -> None:
    table = Table(a=1)
    before = table.read("a")
    await settle()
    table.rows["a"] = 2
    after = table.read("a")
    await settle()
    await table.let_go()
    await table.let_go()
    assert (before.result(), after.result()) == (1, 2)


async def test_a_statement_has_a_limit_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST", 2)
    table = Table(a=1, b=2, c=3, d=4)
    tasks = [table.read(key) for key in "abcd"]
    await settle()
    for _ in range(3):
        await table.let_go()
    assert table.asked == [("a",), ("b", "c"), ("d",)]
    assert [task.result() for task in tasks] == [1, 2, 3, 4]


async def test_a_slow_statement_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "BOUND", 0.01)
    table = Table(a=1, b=2, c=3)
    slow = table.read("a")
    await settle()
    waiting = table.read("b")
    await until(lambda: len(table.asked) == 2)
    assert table.asked == [("a",), ("b",)]
    await table.let_go()
    await table.let_go()
    assert (slow.result(), waiting.result()) == (1, 2)


class TestCancellation:
    async def test_a_cancelled_reader_leaves_the_others_their_statement(self) -> None:
        table = Table(a=1, b=2, c=3)
        table.read("a")
        await settle()
        early, stays, late = (table.read(key) for key in "bbc")
        await settle()
        early.cancel()
        await settle()
        await table.let_go()
        late.cancel()
        await settle()
        await table.let_go()
        assert (early.cancelled(), late.cancelled(), stays.result()) == (True, True, 2)
        assert (table.asked, table.cancelled) == ([("a",), ("b", "c")], 0)

    async def test_the_last_reader_to_leave_cancels_the_statement(self) -> None:
        table = Table(a=1, b=2)
        table.read("a")
        await settle()
        tasks = [table.read("b"), table.read("b")]
        await settle()
        await table.let_go()
        tasks[0].cancel()
        await settle()
        assert table.cancelled == 0
        tasks[1].cancel()
        await settle()
        assert table.cancelled == 1
        # Whoever comes next does not wait for it.
        table.read("a")
        await settle()
        assert table.asked[-1] == ("a",)

    async def test_what_nobody_waits_for_is_not_sent(self) -> None:
        table = Table(a=1, b=2)
        table.read("a")
        await settle()
        waiting = table.read("b")
        await settle()
        waiting.cancel()
        await settle()
        await table.let_go()
        assert table.asked == [("a",)]

    async def test_the_end_of_one_that_went_alone_lets_the_others_go(self) -> None:
        table = Table(a=1, b=2)
        alone = table.read("a")
        await settle()
        waiting = table.read("b")
        await settle()
        alone.cancel()
        await settle()
        assert table.asked == [("a",), ("b",)]
        table._going.pop(0)
        await table.let_go()
        assert waiting.result() == 2

    async def test_an_error_that_comes_with_the_cancellation_is_not_lost(self) -> None:
        table = Table(a=1, b=2)
        table.read("a")
        await settle()
        waiting = table.read("b")
        await settle()
        answer = table.reads._waiting[0].readers[0][1]
        await table.let_go()
        table._going[0].set_exception(ValueError("too late"))
        for _ in range(5):
            await asyncio.sleep(0)
            if answer.done():
                # The answer is there, and its reader has not woken up.
                break
        waiting.cancel()
        told: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        await settle()
        assert waiting.cancelled()
        del waiting, answer
        gc.collect()
        loop.set_exception_handler(None)
        assert told == []


class TestErrors:
    async def test_an_error_is_that_of_all_who_share_the_statement(self) -> None:
        table = Table(a=1, b=2, c=3)
        first = table.read("a")
        await settle()
        sharing = [table.read("b"), table.read("c")]
        await settle()
        await table.let_go()
        later = table.read("a")
        await settle()
        await table.let_go(ConnectionResetError("gone"))
        await table.let_go()
        assert (first.result(), later.result()) == (1, 1)
        for task in sharing:
            with pytest.raises(ConnectionResetError, match="gone"):
                task.result()

    async def test_the_error_of_one_that_went_alone_is_its_own(self) -> None:
        table = Table(a=1, b=2)
        first, second = table.read("a"), table.read("b")
        await settle()
        await table.let_go(ConnectionResetError("gone"))
        await table.let_go()
        with pytest.raises(ConnectionResetError, match="gone"):
            first.result()
        assert second.result() == 2

    async def test_what_one_row_is_to_blame_for_has_each_read_its_own(self) -> None:
        table = Table(a=1, b=2, c=3)
        table.read("a")
        await settle()
        broken, sound = table.read("b"), table.read("c")
        await settle()
        await table.let_go()
        await table.let_go(RowFaultError())
        assert table.asked == [("a",), ("b", "c"), ("b",), ("c",)]
        await table.let_go(RowFaultError())
        await table.let_go()
        assert sound.result() == 3
        with pytest.raises(RowFaultError):
            broken.result()


async def test_each_call_is_told_its_own_share() -> None:
    """The statement runs for no call in particular; each call has one statement and its row."""
    table = Table(a=1, b=2)
    seen: list[CallRecord | None] = []
    records = {key: CallRecord("IndexMetadata") for key in ("a", "b", "missing")}

    async def serve(key: str) -> int | None:
        current_call.set(records[key])
        return await table.reads.read(key)

    async def fetch(keys: Sequence[str]) -> Mapping[str, int]:
        seen.append(current_call.get())
        return await Table._fetch(table, keys)

    table.reads = Gathering(fetch, sql="SELECT rows")
    tasks = []
    for key in records:
        tasks.append(asyncio.create_task(serve(key)))
        await settle()
    await table.let_go()
    await table.let_go()
    assert [task.result() for task in tasks] == [1, 2, None]
    assert seen == [records["a"], None]
    # The one that goes alone is measured by its session.
    assert [(one.statements, one.rows) for one in records.values()] == [(0, 0), (1, 1), (1, 0)]
