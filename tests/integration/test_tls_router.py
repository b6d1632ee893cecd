"""Mutual TLS through a router whose files, and those of the node behind it, change under load."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest

from proxy.client import ClientTls, RoutingClient
from proxy.config import NodeConfig
from proxy.demo.postgres_host import free_port
from proxy.router_node import RouterNode
from proxy.routing.catalogue import SERVICE
from tests.support.certificates import Authority, Issued, tls_settings
from tests.support.log_lines import written
from tests.support.nodes import address
from tests.support.routers import router_config, routing
from tests.support.tls_node import TlsNode, ask, tls_client, tls_node, under_load
from tests.support.waiting import until

POLL = 0.02
NOT_RELOADED = "TLS files not reloaded: what was loaded before stays in use"


class Rig:
    """Files of a router and of a node, which both look at them all the time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.files = {name: self.authority.issue(name) for name in ("node", "router", "client")}
        self.tls = {
            name: replace(tls_settings(own, self.authority.ca), cert_poll_interval=POLL)
            for name, own in self.files.items()
        }

    def router(self, node: TlsNode) -> NodeConfig:
        config = router_config([node.address])
        return replace(config, grpc=replace(config.grpc, tls=self.tls["router"]))

    def client(self, router: RouterNode) -> RoutingClient:
        own = self.files["client"]
        tls = ClientTls(
            ca_path=str(self.authority.ca), cert_path=str(own.cert), key_path=str(own.key)
        )
        return tls_client(address(router), tls)

    def newer(self, name: str) -> tuple[bytes, bytes]:
        """Return another certificate and its key for a file name, unwritten."""
        apart = self.directory / "newer"
        apart.mkdir(exist_ok=True)
        made = Authority.issue(_at(self.authority, apart), name)
        return made.cert.read_bytes(), made.key.read_bytes()


def _at(authority: Authority, directory: Path) -> Authority:
    """Return the same authority, writing elsewhere."""
    other = object.__new__(Authority)
    other.__dict__.update(authority.__dict__, _directory=directory)
    return other


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def steps(own: Issued, cert: bytes, key: bytes) -> list[Callable[[], object]]:
    """Return a rotation by a tool that writes in place, a part of a file at a time."""
    return [
        lambda: own.cert.write_bytes(b""),
        lambda: own.cert.write_bytes(cert[: len(cert) // 2]),
        # Whole, and of another key than the one beside it.
        lambda: own.cert.write_bytes(cert),
        lambda: own.key.write_bytes(key[: len(key) // 2]),
    ]


@pytest.mark.parametrize("name", ["node", "router"])
async def test_half_written_files_fail_no_call(rig: Rig, name: str) -> None:
    cert, key = rig.newer(name)
    async with AsyncExitStack() as stack:
        lines = stack.enter_context(written())
        node = await stack.enter_async_context(tls_node(rig.tls["node"]))
        router = await stack.enter_async_context(routing(rig.router(node)))
        client = await stack.enter_async_context(rig.client(router))
        await client.wait_ready()
        side = node if name == "node" else router
        front = side.tls.grpc
        assert front is not None
        before = front._source.material.chain

        def failures() -> float:
            labels = {"result": "failure"}
            name = "quickwit_tls_cert_reloads_total"
            return side.metrics.registry.get_sample_value(name, labels) or 0.0

        async with under_load(client) as made:
            for step in steps(rig.files[name], cert, key):
                step()
                # The first may be of a look that began before.
                seen, enough = failures() + 2, made() + 20
                await until(lambda seen=seen: failures() >= seen)
                await until(lambda enough=enough: made() >= enough)
                assert front._source.material.chain == before
            rig.files[name].key.write_bytes(key)
            await until(lambda: front._source.material.chain == cert)
            enough = made() + 40
            await until(lambda: made() >= enough)
    assert lines.of(NOT_RELOADED)
    assert "PRIVATE KEY" not in lines.stream.getvalue()


async def test_a_router_that_cannot_trust_its_node_says_why_it_is_not_ready(rig: Rig) -> None:
    expired = rig.authority.issue_expired("old")
    async with AsyncExitStack() as stack:
        settings = tls_settings(expired, rig.authority.ca)
        node = await stack.enter_async_context(tls_node(settings))
        router = await stack.enter_async_context(routing(rig.router(node), wait=False))
        reason = f"the certificate of {node.address} has expired"
        await until(lambda: reason in str(router.readiness.failures))


async def test_many_slow_and_huge_handshakes_hold_up_no_good_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than there is room for: they are ended in time, and cost no more than their socket."""
    monkeypatch.setattr("proxy.server.tls_front.HANDSHAKES", 4)
    monkeypatch.setattr("proxy.server.tls_front.HANDSHAKE_TIMEOUT", 0.5)
    beginnings = [
        b"",
        # The beginning of a record, and one of the largest size that never ends.
        b"\x16\x03\x01",
        b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff\x03\x03" + b"a" * 16_000,
        # A hello that says it has 16 MiB, in many records.
        b"\x16\x03\x01\x00\x40\x01\xff\xff\xff" + b"a" * 60,
    ]
    async with AsyncExitStack() as stack:
        stack.enter_context(written())
        node = await stack.enter_async_context(tls_node(rig.tls["node"]))
        front = node.tls.grpc
        assert front is not None
        host, _, port = node.address.rpartition(":")
        for number in range(40):
            one = stack.enter_context(socket.create_connection((host, int(port))))
            one.sendall(beginnings[number % len(beginnings)])
        own = rig.files["client"]
        tls = ClientTls(
            ca_path=str(rig.authority.ca), cert_path=str(own.cert), key_path=str(own.key)
        )
        client = await stack.enter_async_context(tls_client(node.address, tls))
        assert await ask(client) == node.address
        await until(lambda: front.connections <= 2, lambda: front.connections)


async def get(url: str, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(url, ssl=context or True) as response:
        return response.status, await response.json()


async def test_a_routers_health_is_told_in_plain_text_and_by_tls(rig: Rig) -> None:
    """Probes use the port for health alone, which stays in plain text; the vector is by gRPC."""
    own = rig.files["client"]
    read = [path.read_bytes() for path in (rig.authority.ca, own.key, own.cert)]
    credentials = grpc.ssl_channel_credentials(*read)
    context = ssl.create_default_context(cafile=str(rig.authority.ca))
    context.load_cert_chain(own.cert, own.key)
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(tls_node(rig.tls["node"]))
        config = replace(
            rig.router(node), rest_tls=rig.tls["router"], health_listen_port=free_port()
        )
        router = await stack.enter_async_context(routing(config))
        plain = f"http://127.0.0.1:{config.health_listen_port}/health"
        by_tls = f"https://127.0.0.1:{config.rest_listen_port}/health"
        channel = await stack.enter_async_context(
            grpc.aio.secure_channel(address(router), credentials)
        )
        health = health_pb2_grpc.HealthStub(channel)

        async def serving() -> set[str]:
            asked = ("", SERVICE, "read.stale", "read.fresh", "write")
            answers = {one: await health.Check(HealthCheckRequest(service=one)) for one in asked}
            return {one for one, answer in answers.items() if answer.status == 1}

        assert await get(f"{plain}/livez") == (200, True)
        assert await get(f"{plain}/readyz") == (200, True)
        assert await get(f"{by_tls}/readyz", context) == (200, True)
        assert await serving() == {"", SERVICE, "read.stale", "read.fresh", "write"}
        router.readiness.fail("backend_serves", "no backend serves")
        assert await get(f"{plain}/livez") == (200, True)
        told = {
            "ready": False,
            "failures": {"backend_serves": "no backend serves"},
            "conditions": {"backend_serves": "no backend serves"},
        }
        assert await get(f"{plain}/readyz") == (503, told)
        assert await get(f"{by_tls}/readyz", context) == (503, told)

        async def serves_nothing() -> bool:
            return not await serving()

        await until(serves_nothing)
