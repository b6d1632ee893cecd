"""So many work at once, and a slow one holds up the others no longer than the bound."""

from __future__ import annotations

import asyncio

import pytest

from proxy.store.slots import Slots
from proxy.store.turns import places
from tests.support.waiting import until


class Work:
    """Takes a slot until it is told to end; `began` has the numbers in the order they began."""

    def __init__(self, slots: Slots) -> None:
        self.began: list[int] = []
        self._slots = slots
        self._ends = [asyncio.Event() for _ in range(4)]
        self.tasks = [asyncio.create_task(self._do(number)) for number in range(4)]

    async def _do(self, number: int) -> None:
        async with self._slots.taken():
            self.began.append(number)
            await self._ends[number].wait()

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self._ends[number].set()
            await self.tasks[number]


async def test_so_many_work_at_once_in_the_order_they_came() -> None:
    work = Work(Slots(2, bound=60.0))
    await until(lambda: len(work.began) == 2)
    assert work.began == [0, 1]
    await work.end(1)
    await until(lambda: len(work.began) == 3)
    assert work.began == [0, 1, 2]
    await work.end(0, 2)
    await until(lambda: work.began == [0, 1, 2, 3])
    await work.end(3)


async def test_a_slow_one_stops_counting_and_gives_its_slot_back_once() -> None:
    slots = Slots(1, bound=0.01)
    work = Work(slots)
    await until(lambda: work.began == [0, 1, 2, 3])
    await work.end(0, 1, 2, 3)
    # Given back twice, more than one would have a slot now.
    assert slots._free == 1


async def test_one_that_waits_may_be_cancelled() -> None:
    slots = Slots(1, bound=60.0)
    work = Work(slots)
    await until(lambda: work.began == [0])
    work.tasks[1].cancel()
    await work.end(0)
    await until(lambda: work.began == [0, 2])
    await work.end(2, 3)
    assert work.began == [0, 2, 3]
    assert slots._free == 1


@pytest.mark.parametrize("is_let_in_first", [True, False])
@pytest.mark.parametrize("patience", [None, 60.0])
async def test_one_that_is_let_in_and_cancelled_at_once_gives_its_slot_on(
    patience: float | None, is_let_in_first: bool
) -> None:
    slots = Slots(1, bound=None, patience=patience)
    first = slots.taken()
    assert slots.try_enter(first)
    work = Work(slots)
    await until(lambda: len(slots._queue) == 4)
    if is_let_in_first:
        # The slot is its own already when it is cancelled, but it has not run since.
        slots.leave(first)
        work.tasks[0].cancel()
    else:
        # Nor has it run when it is its turn, which it has given up.
        work.tasks[0].cancel()
        slots.leave(first)
    await until(lambda: work.began == [1])
    await work.end(1, 2, 3)
    assert work.began == [1, 2, 3]
    assert slots._free == 1
    assert not slots._working


async def test_patience_ends_when_nobody_is_let_in() -> None:
    slots = Slots(1, bound=None, patience=0.05)
    async with slots.taken():
        with pytest.raises(TimeoutError):
            async with slots.taken():
                raise AssertionError("let in")
    async with slots.taken():
        pass


async def test_patience_begins_anew_with_each_who_is_let_in() -> None:
    loop = asyncio.get_running_loop()
    slots = Slots(1, bound=None, patience=0.5)
    began = loop.time()

    async def work() -> float:
        async with slots.taken():
            await asyncio.sleep(0.2)
        return loop.time() - began

    # The last one waits for longer than that.
    assert max(await asyncio.gather(*(work() for _ in range(5)))) >= 1.0


async def test_several_that_are_slow_stop_counting_one_after_the_other() -> None:
    work = Work(Slots(2, bound=0.05))
    await until(lambda: len(work.began) == 4)
    assert work.began == [0, 1, 2, 3]
    await work.end(0, 1, 2, 3)
    assert not work._slots._working


@pytest.mark.parametrize(
    ("sessions", "of_lists"), [(1, 1), (2, 1), (3, 2), (5, 4), (10, 8), (20, 16), (80, 64)]
)
def test_a_fifth_of_the_sessions_is_left_to_others(sessions: int, of_lists: int) -> None:
    assert places(sessions) == of_lists
