"""The primary's cap, shared reads, hedging, breakers and the retry budget, on real servers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from proxy import errors
from proxy.client import (
    BackendEjected,
    CallHedged,
    CallRouted,
    CallShared,
    CallShed,
    ClientOptions,
    Event,
    RetryDenied,
    RoutingClient,
)
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import FakeNode, Tunnel, Unary, at, fail
from tests.support.waiting import until

WRITE = pb.CreateIndexRequest(index_config_json="{}")


def request(number: int = 0) -> pb.IndexMetadataRequest:
    return pb.IndexMetadataRequest(index_id=f"index-{number}")


@dataclass
class Pair:
    primary: FakeNode
    replica: FakeNode
    events: list[Event]

    def client(self, **options: Any) -> RoutingClient:
        return RoutingClient(
            [self.primary.address],
            [self.replica.address],
            allow_writes=True,
            options=ClientOptions(**options),
            listener=self.events.append,
        )

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with FakeNode("p", role="metastore") as primary, FakeNode("r") as replica:
        yield Pair(primary, replica, [])


async def settled(client: RoutingClient) -> None:
    await client.wait_until(lambda now: all(b.is_serving for b in now.backends))


class Gate:
    """Holds calls until it is opened, and counts the most that were in at once."""

    def __init__(self, answer: bytes = b"") -> None:
        self._open = asyncio.Event()
        self._answer = answer
        self.inside = self.most = 0

    def open(self) -> None:
        self._open.set()

    async def __call__(self, _name: str, _raw: bytes, _context: Any) -> bytes:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._open.wait()
        finally:
            self.inside -= 1
        return self._answer


def raising(error: errors.MetastoreError) -> Unary:
    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, error)
        return b""

    return unary


# The primary's cap


async def test_the_primary_takes_no_more_fallbacks_than_its_cap(pair: Pair) -> None:
    gate = Gate()
    pair.primary.unary = gate
    await pair.replica.stop()
    async with pair.client(fallback_concurrency=4) as client:
        await client.wait_until(lambda now: bool(now.serving_primaries))
        calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(20)]
        await until(lambda: gate.inside == 4 and pair.count(CallShed) == 16)
        # Neither writes nor reads outside the six are held back.
        write = asyncio.create_task(client.create_index(WRITE))
        shards = asyncio.create_task(client.list_shards(pb.ListShardsRequest()))
        await until(lambda: gate.inside == 6)
        gate.open()
        await asyncio.gather(write, shards)
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert (await client.index_metadata(request())).route == "fallback"
    routes = Counter(getattr(one, "route", type(one).__name__) for one in found)
    assert routes == {"fallback": 4, "TooManyRequests": 16}


async def test_past_the_cap_a_replica_over_its_bound_answers_with_a_label(pair: Pair) -> None:
    gate = Gate()
    pair.primary.unary = gate
    async with pair.client(fallback_concurrency=2, max_lag=1.0) as client:
        await settled(client)
        calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(10)]
        await until(lambda: gate.inside == 2 and pair.replica.calls.total() == 8)
        gate.open()
        found = [await call for call in calls]
    assert Counter(answer.route for answer in found) == {"fallback": 2, "stale": 8}


async def test_without_replicas_the_primary_has_no_cap() -> None:
    gate = Gate()
    async with FakeNode("p") as primary:
        primary.unary = gate
        options = ClientOptions(fallback_concurrency=2)
        async with RoutingClient([primary.address], options=options) as client:
            calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(9)]
            await until(lambda: gate.inside == 9)
            gate.open()
            await asyncio.gather(*calls)


async def test_streams_count_towards_the_cap(pair: Pair) -> None:
    async def hang(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield pb.ListSplitsResponse(splits_serialized_json="x" * 100).SerializeToString()
        await asyncio.Event().wait()

    pair.primary.stream = hang
    await pair.replica.stop()
    async with pair.client(fallback_concurrency=1, hold_bytes=10) as client:
        await client.wait_until(lambda now: bool(now.serving_primaries))
        async with client.list_splits(pb.ListSplitsRequest(query_json="{}")) as stream:
            await anext(stream)
            with pytest.raises(errors.TooManyRequests):
                await client.index_metadata(request())
        await client.index_metadata(request())


async def test_a_returning_replica_fills_up_slowly(pair: Pair) -> None:
    gate = Gate()
    async with pair.client(slow_start=600.0) as client:
        await settled(client)
        await pair.replica.stop()
        await client.wait_until(lambda now: not now.serving_replicas)
        pair.primary.unary = pair.replica.unary = gate
        await pair.replica.start()
        await client.wait_until(lambda now: bool(now.serving_replicas))
        calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(12)]
        await until(lambda: gate.inside == 12)
        assert pair.replica.calls.total() in (2, 3)
        gate.open()
        await asyncio.gather(*calls)


# Shared reads


async def test_identical_reads_in_flight_share_one_call(pair: Pair) -> None:
    answer = pb.IndexMetadataResponse(index_metadata_serialized_json="{}")
    gate = Gate(answer.SerializeToString())
    pair.replica.unary = gate
    async with pair.client() as client:
        await settled(client)
        same = [asyncio.create_task(client.index_metadata(request())) for _ in range(10)]
        other = asyncio.create_task(client.index_metadata(request(1)))
        await until(lambda: gate.inside == 2 and pair.count(CallShared) == 9)
        gate.open()
        answers = [await call for call in same]
        await other
        assert pair.replica.calls.total() == 2
        # Each caller has a message of its own.
        answers[0].response.index_metadata_serialized_json = "changed"
        assert all(a.response == answer for a in answers[1:])
        # What is over is not shared.
        await client.index_metadata(request())
        assert pair.replica.calls.total() == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"metadata": [("x-metastore-max-lag", "9")]},
        {"metadata": [("x-user", "somebody")]},
        {"min_lsn": "0/0"},
    ],
    ids=["bound", "metadata", "token"],
)
async def test_reads_that_ask_for_more_are_not_shared(pair: Pair, arguments: Any) -> None:
    pair.replica.position = at("0/10")
    pair.primary.position = at("0/10", in_recovery=False)
    gate = Gate()
    pair.replica.unary = gate
    async with pair.client(freshness_interval=0.02) as client:
        await settled(client)
        await until(lambda: client.lag(pair.replica.address) is not None)
        first = asyncio.create_task(client.index_metadata(request()))
        await until(lambda: gate.inside == 1)
        second = asyncio.create_task(client.index_metadata(request(), **arguments))
        await until(lambda: gate.inside == 2)
        gate.open()
        await asyncio.gather(first, second)


async def test_a_trace_does_not_keep_reads_apart(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    async with pair.client() as client:
        await settled(client)
        traces = [[("traceparent", str(n))] for n in range(3)]
        calls = [
            asyncio.create_task(client.index_metadata(request(), metadata=trace))
            for trace in traces
        ]
        await until(lambda: pair.count(CallShared) == 2)
        gate.open()
        await asyncio.gather(*calls)
    assert pair.replica.calls.total() == 1


async def test_a_caller_that_leaves_leaves_the_others_their_call(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    async with pair.client() as client:
        await settled(client)
        calls = [asyncio.create_task(client.index_metadata(request())) for _ in range(3)]
        await until(lambda: gate.inside == 1 and pair.count(CallShared) == 2)
        calls[0].cancel()
        calls[1].cancel()
        await asyncio.wait(calls[:2])
        assert gate.inside == 1
        gate.open()
        assert (await calls[2]).served_by == "r"
    assert pair.replica.calls.total() == 1


async def test_the_last_caller_to_leave_cancels_the_call(pair: Pair) -> None:
    pair.replica.unary = Gate()
    async with pair.client() as client:
        await settled(client)
        calls = [asyncio.create_task(client.index_metadata(request())) for _ in range(3)]
        await until(lambda: pair.count(CallShared) == 2)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: pair.replica.cancelled == 1)


async def test_an_error_goes_to_all_who_share(pair: Pair) -> None:
    pair.replica.unary = raising(errors.NotFound(errors.index("index-0")))
    async with pair.client() as client:
        await settled(client)
        calls = [client.index_metadata(request()) for _ in range(5)]
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in found] == [errors.NotFound] * 5


async def test_who_has_more_time_asks_again_and_who_has_less_does_not_wait(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    pair.primary.unary = gate
    async with pair.client() as client:
        await settled(client)
        short = asyncio.create_task(client.index_metadata(request(), timeout=0.3))
        long = asyncio.create_task(client.index_metadata(request(), timeout=20.0))
        tiny = asyncio.create_task(client.index_metadata(request(), timeout=0.1))
        await until(lambda: pair.count(CallShared) == 2)
        with pytest.raises(errors.Timeout, match=r"0\.1 s"):
            await tiny
        with pytest.raises(errors.Timeout, match=r"0\.3 s"):
            await short
        gate.open()
        await long


async def test_who_has_more_time_does_not_share_an_error_that_came_of_haste(pair: Pair) -> None:
    async def late(_name: str, _raw: bytes, context: Any) -> bytes:
        if pair.replica.calls.total() + pair.primary.calls.total() > 1:
            return b""
        await asyncio.sleep(context.time_remaining() - 0.004)
        await fail(context, errors.Unavailable("from the test"))
        return b""

    pair.replica.unary = pair.primary.unary = late
    async with pair.client() as client:
        await settled(client)
        short = asyncio.create_task(client.index_metadata(request(), timeout=0.3))
        long = asyncio.create_task(client.index_metadata(request(), timeout=20.0))
        with pytest.raises((errors.Unavailable, errors.Timeout)):
            await short
        await long
        assert pair.count(CallShared) == 1


# Hedging


async def test_a_slow_read_is_hedged_and_the_loser_is_cancelled(pair: Pair) -> None:
    pair.replica.unary = Gate()
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        answer = await client.index_metadata(request())
        assert answer.served_by == "p"
        await until(lambda: pair.replica.cancelled == 1)
        assert pair.count(CallHedged) == 1
        board = client._pool.board if client._pool is not None else None
        assert board is not None
        assert (board.in_flight, board.budget.spent) == (0, 1)


async def test_a_fast_read_is_not_hedged(pair: Pair) -> None:
    async with pair.client(hedge_delay=5.0) as client:
        await settled(client)
        for number in range(10):
            assert (await client.index_metadata(request(number))).served_by == "r"
    assert pair.count(CallHedged) == 0
    assert pair.primary.calls.total() == 0


async def test_a_hedge_that_fails_leaves_the_first_attempt(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    pair.primary.unary = raising(errors.Db("of the primary"))
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        call = asyncio.create_task(client.index_metadata(request()))
        await until(lambda: pair.primary.calls.total() == 1)
        gate.open()
        assert (await call).served_by == "r"


async def test_an_answer_that_is_an_error_ends_the_race(pair: Pair) -> None:
    pair.replica.unary = Gate()
    pair.primary.unary = raising(errors.NotFound(errors.index("x")))
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        with pytest.raises(errors.NotFound):
            await client.index_metadata(request())
        await until(lambda: pair.replica.cancelled == 1)


async def test_cancelling_a_hedged_call_cancels_both(pair: Pair) -> None:
    pair.replica.unary = pair.primary.unary = Gate()
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        call = asyncio.create_task(client.index_metadata(request()))
        await until(lambda: pair.primary.calls.total() == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: pair.replica.cancelled == pair.primary.cancelled == 1)


async def test_writes_are_never_hedged(pair: Pair) -> None:
    gate = Gate()
    async with FakeNode("q") as other:
        pair.primary.unary = other.unary = gate
        options = ClientOptions(hedge_delay=0.01)
        primaries = [pair.primary.address, other.address]
        async with RoutingClient(primaries, allow_writes=True, options=options) as client:
            await settled(client)
            call = asyncio.create_task(client.create_index(WRITE))
            await until(lambda: gate.inside == 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(call), 0.2)
            assert gate.most == 1
            gate.open()
            await call


# Breakers and the budget


async def test_a_replica_that_keeps_failing_is_ejected_and_comes_back(pair: Pair) -> None:
    pair.replica.unary = raising(errors.Db("canceling statement due to conflict with recovery"))
    async with pair.client() as client:
        await settled(client)
        for number in range(40):
            assert (await client.index_metadata(request(number))).served_by == "p"
        assert pair.count(BackendEjected) >= 1
        # Three, and perhaps a trial or two.
        assert pair.replica.calls.total() < 10
        pair.replica.unary = FakeNode("").unary

        async with asyncio.timeout(20):
            while (await client.index_metadata(request())).served_by != "r":
                pass


async def test_a_replica_that_alone_fails_inside_is_ejected(pair: Pair) -> None:
    pair.replica.unary = raising(errors.Internal("from the test"))
    async with pair.client() as client:
        await settled(client)
        for number in range(10):
            assert (await client.index_metadata(request(number))).served_by == "p"
        assert pair.count(BackendEjected) >= 1


async def test_a_request_that_every_backend_fails_ejects_none(pair: Pair) -> None:
    poison = request(-1).SerializeToString()

    async def failing(_name: str, raw: bytes, context: Any) -> bytes:
        if raw == poison:
            await fail(context, errors.Internal("the index ID pattern is none"))
        return b""

    pair.replica.unary = pair.primary.unary = failing
    async with pair.client() as client:
        await settled(client)
        for number in range(10):
            with pytest.raises(errors.Internal):
                await client.index_metadata(request(-1))
            assert (await client.index_metadata(request(number))).served_by == "r"
        assert pair.count(BackendEjected) == 0


async def test_short_deadlines_of_callers_do_not_eject_a_backend(pair: Pair) -> None:
    pair.replica.unary = pair.primary.unary = Gate()
    async with pair.client() as client:
        await settled(client)
        for number in range(10):
            with pytest.raises(errors.Timeout):
                await client.index_metadata(request(number), timeout=0.01)
        assert pair.count(BackendEjected) == 0


async def test_when_everything_fails_retries_stop_at_the_budget(pair: Pair) -> None:
    pair.replica.unary = pair.primary.unary = raising(errors.Internal("from the test"))
    async with pair.client() as client:
        await settled(client)
        for number in range(600):
            with pytest.raises(errors.Internal):
                await client.index_metadata(request(number))
        attempts = pair.count(CallRouted)
        assert 600 <= attempts <= 600 * 1.2
        assert pair.count(RetryDenied) > 0


async def test_a_black_hole_is_left_within_two_seconds() -> None:
    async with (
        FakeNode("p", position=at("0/1", in_recovery=False)) as primary,
        FakeNode("r", position=at("0/1")) as replica,
        FakeNode("s", position=at("0/1")) as other,
        Tunnel(replica) as tunnel,
        RoutingClient([primary.address], [tunnel.address, other.address]) as client,
    ):
        await settled(client)
        tunnel.freeze()
        began, worst = time.monotonic(), 0.0

        async def reading(caller: int) -> None:
            nonlocal worst
            number = 0
            while len(client.backends().serving_replicas) == 2:
                number += 1
                started = time.monotonic()
                await client.index_metadata(request(caller * 100_000 + number))
                worst = max(worst, time.monotonic() - started)

        await asyncio.gather(*(reading(caller) for caller in range(4)))
        assert time.monotonic() - began < 3.5
        assert worst < 3.5


async def test_reads_on_a_backend_found_hung_go_elsewhere_and_what_cannot_is_left(
    pair: Pair,
) -> None:
    pair.replica.position = at("0/1")
    pair.primary.position = at("0/1", in_recovery=False)
    gate = Gate()
    pair.replica.unary = gate
    # Nothing else would end the calls in time.
    slow = {"keepalive_interval": 60.0, "attempt_timeout": 60.0, "freshness_timeout": 0.2}
    async with pair.client(**slow) as client:
        await settled(client)
        reads = [
            asyncio.create_task(client.index_metadata(request(n), timeout=60.0)) for n in range(4)
        ]
        await until(lambda: gate.inside == 4)

        async def hang() -> Any:
            await asyncio.Event().wait()

        pair.replica.position = hang
        answers = await asyncio.gather(*reads)
        assert {answer.served_by for answer in answers} == {"p"}
        pair.primary.unary = gate
        write = asyncio.create_task(client.create_index(WRITE, timeout=60.0))
        await until(lambda: pair.primary.calls["CreateIndex"] == 1)
        # No replica serves any more: a node that is slow to answer is better than an error.
        read = asyncio.create_task(client.index_metadata(request(9), timeout=60.0))
        await until(lambda: pair.primary.calls["IndexMetadata"] == 5)
        pair.primary.position = hang
        await client.wait_until(lambda now: not now.serving_primaries)
        gate.open()
        assert {(await write).served_by, (await read).served_by} == {"p"}
