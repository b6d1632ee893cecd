"""One backend's connection: what its health watch says, and who may overrule it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc
import pytest

from proxy.client.connection import Connection
from proxy.client.options import ClientOptions
from proxy.routing.freshness import Report
from proxy.routing.members import BackendState
from tests.support.fake_node import SERVER_OPTIONS, FakeNode, at
from tests.support.waiting import until

SERVING, NOT_SERVING, DOWN = BackendState.SERVING, BackendState.NOT_SERVING, BackendState.DOWN


class States(list[BackendState]):
    """Records what a connection tells, without repeats."""

    def __call__(self, _address: str, state: BackendState, _reason: str) -> None:
        if not self or self[-1] is not state:
            self.append(state)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], tuple[Connection, States]]]:
    made: list[Connection] = []

    def make(address: str) -> tuple[Connection, States]:
        states = States()
        connection = Connection(address, states, options=ClientOptions(), rng=Random(1))
        connection.open()
        made.append(connection)
        return connection, states

    yield make
    for connection in made:
        await connection.close()


Connect = Callable[[str], tuple[Connection, States]]


async def test_states_follow_the_health_service(connect: Connect) -> None:
    async with FakeNode("n") as node:
        _, states = connect(node.address)
        await until(lambda: states == [SERVING])
        await node.show(False)
        await until(lambda: states == [SERVING, NOT_SERVING])
        await node.stop()
        await until(lambda: states == [SERVING, NOT_SERVING, DOWN])
        node.is_serving = True
        await node.start()
        await until(lambda: states == [SERVING, NOT_SERVING, DOWN, SERVING])


async def test_a_refused_connection_is_down_at_once_and_found_later(connect: Connect) -> None:
    async with FakeNode("n") as node:
        await node.stop()
        connection, states = connect(node.address)
        await until(lambda: states == [DOWN])
        assert connection.epoch == 0
        await node.start()
        await until(lambda: states == [DOWN, SERVING])
        assert connection.epoch == 1


async def test_a_dead_backend_is_down_until_the_watch_starts_anew(connect: Connect) -> None:
    async with FakeNode("n") as node:
        connection, states = connect(node.address)
        await until(lambda: states == [SERVING])
        connection.report_dead(connection.epoch, "a call found it dead")
        assert states == [SERVING, DOWN]
        connection.report_dead(connection.epoch, "another call did")
        await until(lambda: states == [SERVING, DOWN, SERVING])
        assert connection.epoch == 2


async def test_a_late_failure_says_nothing_about_a_new_connection(connect: Connect) -> None:
    async with FakeNode("n") as node:
        connection, states = connect(node.address)
        await until(lambda: states == [SERVING])
        early = connection.epoch
        await node.stop()
        await node.start()
        await until(lambda: states == [SERVING, DOWN, SERVING])
        connection.report_dead(early, "a call from before the restart")
        assert states == [SERVING, DOWN, SERVING]


@pytest.mark.parametrize("raw", [b"\xff\xff", b"\x08\x00", b"\x08\x03", b"\x08\x63"])
async def test_a_health_answer_that_is_not_serving_is_not_serving(
    connect: Connect, raw: bytes
) -> None:
    async def watch(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield raw
        await asyncio.Event().wait()

    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_stream_rpc_method_handler(watch)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _, states = connect(f"127.0.0.1:{port}")
    await until(lambda: states == [NOT_SERVING])
    await server.stop(None)


async def test_a_watch_that_ends_again_and_again_is_not_a_busy_loop(connect: Connect) -> None:
    watched = 0

    async def watch(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        nonlocal watched
        watched += 1
        yield b"\x08\x01"

    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_stream_rpc_method_handler(watch)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    started = asyncio.get_running_loop().time()
    _, states = connect(f"127.0.0.1:{port}")
    await until(lambda: states[:4] == [SERVING, DOWN, SERVING, DOWN] and watched >= 4)
    # The waits before the second to fourth watch are at least half of 0.1, 0.2 and 0.4 s.
    assert asyncio.get_running_loop().time() - started > 0.3
    await server.stop(None)


# Replication


async def test_a_backend_is_asked_for_its_position_before_it_serves() -> None:
    order: list[str] = []

    def on_state(_address: str, state: BackendState, _reason: str) -> None:
        order.append(state.value)

    def on_report(_address: str, report: Report) -> None:
        order.append(f"{report.lsn} on {report.timeline} of {report.identity}")

    async with FakeNode("n", position=at("0/FF", timeline=3)) as node:
        options = ClientOptions(freshness_interval=60.0)
        connection = Connection(
            node.address, on_state, options=options, rng=Random(1), on_report=on_report
        )
        connection.open()
        await until(lambda: len(order) == 2)
        await connection.close()
    assert order == ["255 on 3 of ours", "serving"]


async def test_a_database_out_of_reach_is_no_news() -> None:
    reports: list[Report] = []
    async with FakeNode("n", position=at("0/FF", database_reachable=False)) as node:
        connection = Connection(
            node.address,
            lambda *_: None,
            options=ClientOptions(freshness_interval=0.01),
            rng=Random(1),
            on_report=lambda _address, report: reports.append(report),
        )
        connection.open()
        await until(lambda: len(reports) > 2)
        await connection.close()
    assert {(r.is_reachable, r.lsn, r.timeline) for r in reports} == {(False, None, 0)}


async def test_a_backend_that_never_answers_the_question_does_not_serve() -> None:
    states = States()

    async def hang() -> Any:
        await asyncio.Event().wait()

    async with FakeNode("n", position=hang) as node:
        connection = Connection(
            node.address,
            states,
            options=ClientOptions(freshness_timeout=0.05),
            rng=Random(1),
            on_report=lambda *_: None,
        )
        connection.open()
        await until(lambda: node.asked >= 3)
        assert states == [DOWN]
        node.position = at("0/1")
        await until(lambda: states == [DOWN, SERVING])
        await connection.close()


async def test_a_backend_that_answers_calls_is_not_taken_for_hung() -> None:
    states = States()
    asked = 0

    async def slow() -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.Event().wait()
        return await at("0/1")()

    async with FakeNode("n", position=slow) as node:
        options = ClientOptions(freshness_timeout=0.1, freshness_interval=0.01)
        connection = Connection(
            node.address, states, options=options, rng=Random(1), on_report=lambda *_: None
        )
        connection.open()
        while asked < 5:
            connection.heard()
            await asyncio.sleep(0.001)
        assert states == [SERVING]
        await until(lambda: DOWN in states)
        await connection.close()
