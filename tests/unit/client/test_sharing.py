"""Callers that share one call: who leaves, who comes late, and what an error does."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from proxy import errors
from proxy.client.sharing import SharedCalls


class Upstream:
    """Calls that end when the test says so."""

    def __init__(self) -> None:
        self.made = 0
        self.cancelled = 0
        self.joined = 0
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.shared: SharedCalls[str] = SharedCalls()

    async def make(self) -> str:
        self.made += 1
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def _note(self) -> None:
        self.joined += 1

    def call(self, timeout: float = 60.0, key: str = "one") -> asyncio.Task[str]:
        return asyncio.create_task(
            self.shared.call(key, self.make, on_join=self._note, what="Read", timeout=timeout)
        )


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_call_answers_all() -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(5)]
    other = upstream.call(key="other")
    await turns()
    upstream.answer.set_result("found")
    assert [await call for call in (*calls, other)] == ["found"] * 6
    assert (upstream.made, upstream.joined) == (2, 4)


async def test_callers_are_woken_in_the_turn_after_the_call_ends() -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(3)]
    await turns()
    upstream.answer.set_result("found")
    # The shield, the call, its callers.
    await turns(4)
    assert all(call.done() for call in calls)


@pytest.mark.parametrize("leaving", [(0,), (1,), (0, 1), (1, 2)])
async def test_who_leaves_leaves_the_others_their_call(leaving: tuple[int, ...]) -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(3)]
    await turns()
    for number in leaving:
        calls[number].cancel()
    await turns()
    upstream.answer.set_result("found")
    left = [call for number, call in enumerate(calls) if number not in leaving]
    assert [await call for call in left] == ["found"] * len(left)
    assert all(calls[number].cancelled() for number in leaving)
    assert (upstream.made, upstream.cancelled) == (1, 0)


async def test_the_last_to_leave_cancels_and_nobody_joins_what_is_cancelled() -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(3)]
    await turns()
    for call in calls:
        call.cancel()
    late = upstream.call()
    await turns()
    assert (upstream.made, upstream.cancelled) == (2, 1)
    upstream.answer.set_result("found")
    assert await late == "found"


async def test_a_caller_that_leaves_as_the_call_begins_leaves_nothing_unawaited() -> None:
    upstream = Upstream()
    call = upstream.call()
    # The task of the call is made, and has not run yet.
    await asyncio.sleep(0)
    call.cancel()
    await turns()
    assert call.cancelled()
    assert upstream.made == upstream.cancelled
    # A coroutine that was never awaited warns here, and a warning is an error.
    del call
    gc.collect()


async def test_who_is_cancelled_in_the_turn_of_the_answer_is_cancelled() -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(2)]
    await turns()
    upstream.answer.set_result("found")
    await turns(2)
    calls[0].cancel()
    assert await calls[1] == "found"
    await asyncio.wait(calls[:1])
    assert calls[0].cancelled() or calls[0].result() == "found"


@pytest.mark.parametrize("error", [errors.NotFound(errors.index("i")), ValueError("a defect")])
async def test_an_error_is_raised_in_each_of_them(error: Exception) -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(3)]
    await turns()
    upstream.answer.set_exception(error)
    found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert found == [error] * 3
    # What failed is over, and not shared with who comes next.
    upstream.answer = asyncio.get_running_loop().create_future()
    upstream.answer.set_result("found")
    assert await upstream.call() == "found"
    assert upstream.made == 2


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", reported.append)

    class Stubborn(Upstream):
        async def make(self) -> str:
            try:
                return await super().make()
            except asyncio.CancelledError:
                raise errors.Unavailable("cancelled") from None

    upstream = Stubborn()
    call = upstream.call()
    await turns()
    call.cancel()
    await turns()
    del call, upstream
    gc.collect()
    await turns()
    assert reported == []


async def test_who_joins_with_less_time_times_out_alone() -> None:
    upstream = Upstream()
    first = upstream.call()
    await turns()
    hasty = upstream.call(timeout=0.01)
    with pytest.raises(errors.Timeout, match=r"Read got no answer within 0\.01 s"):
        await hasty
    assert not first.done()
    upstream.answer.set_result("found")
    assert await first == "found"
    assert (upstream.made, upstream.cancelled) == (1, 0)


async def test_a_call_that_takes_long_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = Upstream()
    loop = asyncio.get_running_loop()
    began = loop.time()
    first = upstream.call()
    await turns()
    monkeypatch.setattr(loop, "time", lambda: began + 1.0)
    second = upstream.call()
    await turns()
    monkeypatch.undo()
    assert (upstream.made, upstream.joined) == (2, 0)
    # The end of the first does not take the second from those who join it.
    first.cancel()
    await turns()
    third = upstream.call()
    await turns()
    upstream.answer.set_result("found")
    assert [await second, await third] == ["found"] * 2


async def test_a_call_that_is_cancelled_from_outside_ends_its_callers() -> None:
    upstream = Upstream()
    calls = [upstream.call() for _ in range(2)]
    await turns()
    (task,) = [t for t in asyncio.all_tasks() if t.get_name() == "metastore-client shared read"]
    task.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
