"""What passes through a TLS port: any bytes in any pieces, under back-pressure, to its end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy import errors
from proxy.config import NodeConfig
from proxy.demo.postgres_host import free_port
from proxy.metrics import NodeMetrics
from proxy.roles import Role
from proxy.server.http_server import HttpServer
from proxy.server.listening import listening_sockets
from proxy.server.node_tls import NodeTls
from proxy.server.readiness import Readiness
from proxy.server.tls_front import LocalSocket, TlsFront
from proxy.tls import load
from proxy.tls.source import TlsSource
from tests.support.certificates import Authority, replace_file, tls_settings
from tests.support.tls_node import tls_node
from tests.support.waiting import until

# More than buffers of this size take on the way.
SIZE = 8_000_000
BUFFER = 65_536
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@asynccontextmanager
async def front_of(authority: Authority, serve: Serve) -> AsyncIterator[tuple[int, TlsFront]]:
    """Run a TLS port in front of a server."""
    own = authority.issue("port", "localhost", "127.0.0.1")
    source = TlsSource(tls_settings(own, mutual=False).files("grpc.tls"), poll_interval=60.0)
    await source.open()
    front = TlsFront("grpc", source, on_refusal=lambda _: None)
    port, path = front.bind("127.0.0.1", 0)
    server = await asyncio.start_unix_server(serve, path)
    front.open()
    try:
        yield port, front
    finally:
        await front.close(1.0)
        server.close()
        await source.close()


@asynccontextmanager
async def connected(
    authority: Authority, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = ssl.create_default_context(cafile=str(authority.ca))
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def narrow_sockets(host: str, port: int, *, is_shared: bool = False) -> tuple[socket.socket, ...]:
    made = listening_sockets(host, port, is_shared=is_shared)
    for one in made:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return made


async def test_much_passes_both_ways_at_once_through_a_slow_reader(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.server.tls_front.listening_sockets", narrow_sockets)
    sent, read_back = os.urandom(SIZE), asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Nothing is read until the peer's buffers are full: the port must hold it back.
        await read_back.wait()
        while data := await reader.read(70_001):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with (
        front_of(authority, echo) as (port, _),
        connected(authority, port) as (reader, writer),
    ):

        async def send() -> None:
            for place in range(0, SIZE, BUFFER):
                writer.write(sent[place : place + BUFFER])
                await writer.drain()

        sending = asyncio.create_task(send())
        done, _ = await asyncio.wait({sending}, timeout=0.2)
        assert not done
        read_back.set()
        received = await reader.readexactly(SIZE)
        await sending
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


async def test_what_a_server_says_last_is_read(authority: Authority) -> None:
    last = os.urandom(SIZE)

    async def speak_and_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(last)
        writer.close()

    async with front_of(authority, speak_and_close) as (port, front):
        async with connected(authority, port) as (reader, writer):
            # Never read by the server: a reset would take the answer with it.
            writer.write(b"unread")
            assert await reader.read(-1) == last
        await until(lambda: front.connections == 0)


async def test_a_client_that_vanishes_ends_its_connection_to_the_server(
    authority: Authority,
) -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.close()
        ended.set()

    async with front_of(authority, wait) as (port, front):
        async with connected(authority, port) as (_, writer):
            writer.write(b"hello")
            await until(lambda: front.connections == 1)
        await ended.wait()
        await until(lambda: front.connections == 0)


async def test_a_port_closes_with_connections_open(authority: Authority) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async with front_of(authority, wait) as (port, front):
        async with connected(authority, port) as (reader, _):
            await until(lambda: front.connections == 1)
            directory = Path(front.local_path).parent
            assert directory.stat().st_mode & 0o777 == 0o700
            await front.close(0.0)
            assert front.connections == 0
            assert not directory.exists()
            assert await reader.read(-1) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("host", ["::", "127.0.0.1", "localhost"])
async def test_a_port_listens_on_all_addresses_of_its_host(host: str) -> None:
    sockets = listening_sockets(host, 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        with socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1])):
            pass
    finally:
        for one in sockets:
            one.close()


async def test_a_port_that_is_taken_is_named(authority: Authority) -> None:
    settings = tls_settings(authority.issue("node"), mutual=False)
    async with tls_node(settings) as node:
        port = int(node.address.rpartition(":")[2])
        with pytest.raises(errors.Io, match="`grpc_listen_port`"):
            async with tls_node(settings, port=port):
                pass


def test_a_place_for_local_sockets_is_found_where_tmp_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tempfile.mkdtemp

    def refuse_default(prefix: str, dir: str | None) -> str:
        if dir is None:
            raise OSError(30, "Read-only file system")
        return made(prefix=prefix, dir=dir)

    monkeypatch.setattr("tempfile.mkdtemp", refuse_default)
    local = LocalSocket()
    assert local.path.startswith(("/dev/shm/", "/run/"))
    local.remove()
    monkeypatch.setattr("proxy.server.tls_front._PLACES", (None,))
    with pytest.raises(errors.Io, match=r"read-only file system.*set TMPDIR"):
        LocalSocket()


def test_a_place_for_local_sockets_is_found_where_the_path_of_tmp_is_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The system's own error names neither the path nor the port that it is for."""
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    local = LocalSocket()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(local.path)
    local.remove()
    assert list(long.iterdir()) == []
    monkeypatch.setattr("proxy.server.tls_front._PLACES", (None,))
    with pytest.raises(errors.Io, match=r"103 bytes.*set TMPDIR"):
        LocalSocket()


# The REST port


async def test_the_rest_port_speaks_tls_and_reloads(authority: Authority) -> None:
    own = authority.issue("rest")
    config = NodeConfig(
        role=Role.METASTORE,
        rest_listen_port=0,
        health_listen_port=free_port(),
        rest_tls=tls_settings(own, authority.ca),
    )
    metrics = NodeMetrics(config.role)
    tls = NodeTls(config, metrics)
    server = HttpServer(config, Readiness({}), metrics, tls=tls.rest)
    await tls.open()
    await server.open()
    url = f"https://127.0.0.1:{server.port}/health/livez"
    try:
        client = load(tls_settings(authority.issue("probe", "probe"), authority.ca).files("x"))
        assert client.client is not None
        async with aiohttp.ClientSession() as http:
            async with http.get(url, ssl=client.client) as response:
                assert (response.status, await response.json()) == (200, True)
            with pytest.raises(aiohttp.ClientError):
                await http.get(url, ssl=ssl.create_default_context(cafile=str(authority.ca)))
            with pytest.raises(aiohttp.ClientResponseError, match="400"):
                plain = url.replace("https:", "http:")
                await http.get(plain, raise_for_status=True)
            # Probes cannot show a certificate: their port is in plain text.
            probe = f"http://127.0.0.1:{config.health_listen_port}/health/livez"
            async with http.get(probe) as response:
                assert response.status == 200
        await reissue(authority, own.cert, tls)
        async with aiohttp.ClientSession() as http, http.get(url, ssl=client.client) as response:
            assert response.status == 200
    finally:
        await server.close()
        await tls.close()
    for reason in ("no_client_certificate", "plaintext"):
        name = "metastore_proxy_tls_refused_connections_total"
        assert metrics.registry.get_sample_value(name, {"port": "rest", "reason": reason})


async def reissue(authority: Authority, cert: Path, tls: NodeTls) -> None:
    authority.issue("rest")
    assert [(one.changed, one.error) for one in await tls.reload()] == [(True, "")]
    replace_file(cert, b"nonsense")
    (bad,) = await tls.reload()
    assert "no certificate in PEM form" in bad.error
