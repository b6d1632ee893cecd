"""A client that goes by other targets and options while it is open: all of them or none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import FakeNode
from tests.support.waiting import until

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")
OPTIONS = ClientOptions(resolve_interval=0.05, share_reads=False)


@pytest.fixture
async def nodes() -> AsyncIterator[list[FakeNode]]:
    async with FakeNode("a") as first:
        second = FakeNode("b", host="127.0.0.2", port=first.port)
        async with second, FakeNode("p", role="metastore", lag=None) as primary:
            yield [first, second, primary]


def addresses(client: RoutingClient) -> set[str]:
    return {backend.address for backend in client.backends().backends}


async def test_a_name_is_resolved_before_it_takes_the_place_of_another(
    nodes: list[FakeNode],
) -> None:
    first, second, primary = nodes
    asked = asyncio.Event()
    answer = asyncio.Event()

    async def resolve(host: str, _port: int) -> Sequence[str]:
        if host == "new":
            asked.set()
            await answer.wait()
        return {"old": ["127.0.0.1"], "new": ["127.0.0.2"]}[host]

    old, new = f"dns:///old:{first.port}", f"dns:///new:{first.port}"
    seen: list[set[str]] = []
    client = RoutingClient([primary.address], [old], options=OPTIONS, resolve=resolve)
    async with client:
        await client.wait_until(lambda now: len(now.serving_replicas) == 1)
        changing = asyncio.create_task(client.reconfigure([primary.address], [new]))
        await asked.wait()
        seen.append(addresses(client))
        answer.set()
        await changing
        seen.append(addresses(client))
        assert seen == [
            {primary.address, first.address},
            {primary.address, second.address},
        ]
        await client.wait_until(lambda now: len(now.serving_replicas) == 1)
        assert (await client.index_metadata(REQUEST)).served_by == "b"


async def test_a_name_that_does_not_resolve_keeps_nothing_waiting(nodes: list[FakeNode]) -> None:
    first, _, primary = nodes

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    client = RoutingClient([primary.address], [first.address], options=OPTIONS, resolve=resolve)
    async with client:
        await client.reconfigure([primary.address], [f"dns:///gone:{first.port}"])
        assert addresses(client) == {primary.address}
        assert client._discovery is not None
        discovery = client._discovery
        await until(lambda: discovery.problems)
        # And is forgotten with its target.
        await client.reconfigure([primary.address], [first.address])
        assert (addresses(client), dict(discovery.problems)) == (
            {primary.address, first.address},
            {},
        )


@pytest.mark.parametrize(
    ("primary", "replicas", "options", "said"),
    [
        (["a"], [], OPTIONS, "primary"),
        ([], [], OPTIONS, "name at least one target"),
        (["a:1"], ["b:1"], ClientOptions(tls=ClientTls(ca_path="/ca")), "option `tls` cannot come"),
    ],
)
async def test_what_cannot_be_changes_nothing(
    nodes: list[FakeNode],
    primary: list[str],
    replicas: list[str],
    options: ClientOptions,
    said: str,
) -> None:
    first = nodes[0]
    async with RoutingClient([], [first.address], options=OPTIONS) as client:
        with pytest.raises(ValueError, match=said):
            await client.reconfigure(primary, replicas, options=options)
        assert (addresses(client), client.options) == ({first.address}, OPTIONS)


async def test_a_bound_holds_from_the_next_call_on(nodes: list[FakeNode]) -> None:
    first, _, primary = nodes
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_name: str, _raw: bytes, _context: Any) -> bytes:
        begun.set()
        await go_on.wait()
        return b""

    async with RoutingClient([primary.address], [first.address], options=OPTIONS) as client:
        await client.wait_until(lambda now: len(now.backends) == len(now.serving_replicas) + 1)
        first.unary = hold
        under_way = asyncio.create_task(client.index_metadata(REQUEST))
        await begun.wait()
        # Nobody knows the lag of these replicas.
        bounded = ClientOptions(max_lag=1.0, share_reads=False)
        await client.reconfigure([primary.address], [first.address], options=bounded)
        assert (await client.index_metadata(REQUEST)).served_by == "p"
        go_on.set()
        assert (await under_way).served_by == "a"
        await client.reconfigure([primary.address], [first.address], options=OPTIONS)
        assert (await client.index_metadata(REQUEST)).served_by == "a"


async def test_a_client_that_is_closed_takes_it_up_when_it_opens(nodes: list[FakeNode]) -> None:
    first, second, _ = nodes
    client = RoutingClient([], [first.address], options=OPTIONS)
    await client.reconfigure([], [second.address])
    async with client:
        await client.wait_ready()
        assert addresses(client) == {second.address}


async def test_without_replicas_the_primary_is_not_capped(nodes: list[FakeNode]) -> None:
    first, _, primary = nodes
    async with RoutingClient([primary.address], [first.address], options=OPTIONS) as client:
        for replicas, limit in (([], None), ([first.address], 32)):
            await client.reconfigure([primary.address], replicas)
            figures = client.figures()
            assert figures is not None
            assert figures.fallback_limit == limit
