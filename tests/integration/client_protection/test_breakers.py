"""Backends that fail, or hang, are left; retries have a budget."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from proxy import errors
from proxy.client import BackendEjected, CallRouted, RetryDenied, RoutingClient
from tests.support.fake_node import FakeNode, Tunnel, at, fail
from tests.support.protected_pair import WRITE, Gate, Pair, raising, request, settled
from tests.support.waiting import until


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
