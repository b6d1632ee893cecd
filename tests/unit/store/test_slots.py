"""So many work at once, and a slow one holds up the others no longer than the bound."""

from __future__ import annotations

import asyncio

from proxy.store.slots import Slots
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
    assert slots._free._value == 1


async def test_one_that_waits_may_be_cancelled() -> None:
    slots = Slots(1, bound=60.0)
    work = Work(slots)
    await until(lambda: work.began == [0])
    work.tasks[1].cancel()
    await work.end(0)
    await until(lambda: work.began == [0, 2])
    await work.end(2, 3)
    assert work.began == [0, 2, 3]
    assert slots._free._value == 1
