"""Names that resolve to several addresses, to others later, or not at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from proxy import errors
from proxy.client import ClientOptions, Event, ResolveFailed, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.members import BackendRole
from tests.support.fake_node import FakeNode
from tests.support.waiting import until

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")
OPTIONS = ClientOptions(resolve_interval=0.05)


class Names:
    """A resolver that answers from a table; every address has the same port, as with pods."""

    def __init__(self, **hosts: Sequence[str]) -> None:
        self.hosts: dict[str, Sequence[str]] = dict(hosts)
        self.asked = 0

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked += 1
        if host not in self.hosts:
            raise socket.gaierror(-2, "Name or service not known")
        return self.hosts[host]


@pytest.fixture
async def pods() -> AsyncIterator[list[FakeNode]]:
    # All on one port, as the pods behind a headless service are.
    async with FakeNode("a") as first:
        second = FakeNode("b", host="127.0.0.2", port=first.port)
        third = FakeNode("c", host="127.0.0.3", port=first.port)
        async with second, third:
            yield [first, second, third]


def addresses(client: RoutingClient) -> set[str]:
    return {backend.address for backend in client.backends().backends}


async def test_every_address_of_a_name_is_a_backend(pods: list[FakeNode]) -> None:
    names = Names(replicas=["127.0.0.1", "127.0.0.2", "127.0.0.1"])
    target = f"dns:///replicas:{pods[0].port}"
    async with RoutingClient([], [target], options=OPTIONS, resolve=names) as client:
        await client.wait_until(lambda now: len(now.serving_replicas) == 2)
        assert addresses(client) == {pods[0].address, pods[1].address}
        served = {(await client.index_metadata(REQUEST)).served_by for _ in range(40)}
    assert served == {"a", "b"}


async def test_addresses_come_and_go(pods: list[FakeNode]) -> None:
    names = Names(replicas=["127.0.0.1", "127.0.0.2"])
    target = f"dns:///replicas:{pods[0].port}"
    async with RoutingClient([], [target], options=OPTIONS, resolve=names) as client:
        await client.wait_until(lambda now: len(now.serving_replicas) == 2)
        names.hosts["replicas"] = ["127.0.0.2", "127.0.0.3"]
        await client.wait_until(
            lambda now: (
                {b.address for b in now.serving_replicas} == {pods[1].address, pods[2].address}
            )
        )
        served = {(await client.index_metadata(REQUEST)).served_by for _ in range(40)}
    assert served == {"b", "c"}


async def test_a_call_on_an_address_that_vanished_may_end(pods: list[FakeNode]) -> None:
    gate = asyncio.Event()

    async def slow(_name: str, _raw: bytes, _context: Any) -> bytes:
        await gate.wait()
        return b""

    pods[0].unary = slow
    names = Names(replicas=["127.0.0.1"])
    target = f"dns:///replicas:{pods[0].port}"
    async with RoutingClient([], [target], options=OPTIONS, resolve=names) as client:
        await client.wait_ready()
        call = asyncio.create_task(_read(client))
        await until(lambda: pods[0].calls.total() == 1)
        names.hosts["replicas"] = ["127.0.0.2"]
        await client.wait_until(lambda now: now.get(pods[0].address) is None)
        gate.set()
        assert await call == "a"


async def test_a_call_that_outlasts_the_drain_is_repeated_elsewhere(pods: list[FakeNode]) -> None:
    async def hanging(_name: str, _raw: bytes, _context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    pods[0].unary = hanging
    names = Names(replicas=["127.0.0.1"])
    target = f"dns:///replicas:{pods[0].port}"
    options = ClientOptions(resolve_interval=0.05, drain_timeout=0.05)
    async with RoutingClient([], [target], options=options, resolve=names) as client:
        await client.wait_ready()
        call = asyncio.create_task(_read(client))
        await until(lambda: pods[0].calls.total() == 1)
        names.hosts["replicas"] = ["127.0.0.2"]
        assert await call == "b"


async def test_a_name_that_stops_to_resolve_keeps_its_addresses(pods: list[FakeNode]) -> None:
    names = Names(replicas=["127.0.0.1"])
    events: list[Event] = []
    target = f"dns:///replicas:{pods[0].port}"
    async with RoutingClient(
        [], [target], options=OPTIONS, resolve=names, listener=events.append
    ) as client:
        await client.wait_ready()
        for hosts in (None, []):
            events.clear()
            if hosts is None:
                del names.hosts["replicas"]
            else:
                names.hosts["replicas"] = hosts
            await until(lambda: any(isinstance(event, ResolveFailed) for event in events))
            assert await _read(client) == "a"


async def test_a_name_that_resolves_late_is_not_fatal(pods: list[FakeNode]) -> None:
    names = Names()
    target = f"dns:///primary:{pods[0].port}"
    async with RoutingClient([target], options=OPTIONS, resolve=names) as client:
        with pytest.raises(errors.Unavailable, match=r"dns:///primary:.* not known"):
            await client.wait_ready(timeout=0.1)
        with pytest.raises(errors.Unavailable, match="no backend is known"):
            await client.index_metadata(REQUEST)
        names.hosts["primary"] = ["127.0.0.1"]
        await client.wait_ready()
        assert await _read(client) == "a"


async def test_a_primary_is_no_replica_of_itself(pods: list[FakeNode]) -> None:
    names = Names(all=["127.0.0.1", "127.0.0.2"])
    target = f"dns:///all:{pods[0].port}"
    async with RoutingClient([pods[0].address], [target], options=OPTIONS, resolve=names) as client:
        await client.wait_until(lambda now: len(now.backends) == 2)
        found = client.backends().get(pods[0].address)
        assert found is not None
        assert found.role is BackendRole.PRIMARY


async def test_a_failure_has_the_name_looked_up_at_once(pods: list[FakeNode]) -> None:
    names = Names(replicas=["127.0.0.1"])
    target = f"dns:///replicas:{pods[0].port}"
    options = ClientOptions(resolve_interval=3600.0)
    async with RoutingClient([], [target], options=options, resolve=names) as client:
        await client.wait_ready()
        names.hosts["replicas"] = ["127.0.0.2"]
        await pods[0].stop()
        await client.wait_until(
            lambda now: {b.address for b in now.serving_replicas} == {pods[1].address}
        )


async def test_the_system_resolves_localhost(pods: list[FakeNode]) -> None:
    async with RoutingClient([], [f"dns:///localhost:{pods[0].port}"]) as client:
        await client.wait_until(lambda now: now.get(pods[0].address) in now.serving_replicas)
        assert await _read(client) == "a"


async def test_a_plain_host_name_is_one_backend(pods: list[FakeNode]) -> None:
    async with RoutingClient([], [f"localhost:{pods[0].port}"]) as client:
        await client.wait_ready()
        assert addresses(client) == {f"localhost:{pods[0].port}"}
        assert await _read(client) == "a"


async def _read(client: RoutingClient) -> str:
    return (await client.index_metadata(REQUEST)).served_by


async def test_close_does_not_wait_for_the_drain_of_an_address(pods: list[FakeNode]) -> None:
    before = asyncio.all_tasks()

    async def hanging(_name: str, _raw: bytes, _context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    pods[0].unary = hanging
    names = Names(replicas=["127.0.0.1"])
    target = f"dns:///replicas:{pods[0].port}"
    async with RoutingClient([], [target], options=OPTIONS, resolve=names) as client:
        await client.wait_ready()
        call = asyncio.create_task(_read(client))
        await until(lambda: pods[0].calls.total() == 1)
        names.hosts["replicas"] = ["127.0.0.2"]
        await client.wait_until(lambda now: now.get(pods[0].address) is None)
        async with asyncio.timeout(10):
            await client.close(timeout=0.05)
        with pytest.raises(errors.Unavailable, match="closed"):
            await call
    await until(lambda: not [t for t in asyncio.all_tasks() - before if "client" in t.get_name()])


async def test_an_open_that_is_cancelled_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    asked = asyncio.Event()

    async def never(_host: str, _port: int) -> Sequence[str]:
        asked.set()
        await asyncio.Event().wait()
        return []

    options = ClientOptions(settle_timeout=60.0)
    client = RoutingClient(["127.0.0.1:1"], ["dns:///replicas:1"], options=options, resolve=never)
    opening = asyncio.create_task(client.open())
    await asked.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert client.backends().backends == ()
    await until(lambda: not [t for t in asyncio.all_tasks() - before if "client" in t.get_name()])
