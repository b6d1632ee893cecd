"""What is not HTTP/1.1 at the REST port: one line in the log, without what was sent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.config import NodeConfig
from proxy.demo.postgres_host import HOST, free_port
from proxy.metrics import NodeMetrics
from proxy.roles import Role
from proxy.server.http_server import HttpServer
from proxy.server.node_tls import NodeTls
from proxy.server.readiness import Readiness
from tests.support.certificates import Authority, tls_settings
from tests.support.log_lines import written

HELLO = bytes.fromhex("16030100a5010000a10303") + b"x" * 160
HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9
SECRET = b"Bearer t0ken-of-the-caller"
CASES = {
    "TLS": (HELLO, "the client speaks TLS, and this port plain text: set `rest.tls` here"),
    "HTTP/2": (HTTP_2, "the client speaks HTTP/2, and this port HTTP/1.1"),
    "junk": (b"\0" + SECRET + b"\r\n\r\n", "the request is not HTTP/1.1"),
    "header": (b"GET / HTTP/1.1\r\nAuthorization " + SECRET + b"\r\n\r\n", "is not HTTP/1.1"),
    "URL": (b"GET http://[::" + SECRET[7:] + b" HTTP/1.1\r\n\r\n", "is not HTTP/1.1"),
    "long": (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "is too long"),
}


@asynccontextmanager
async def serving(authority: Authority | None) -> AsyncIterator[int]:
    """Serve HTTP, with TLS where there is an authority; yield the port."""
    tls = None if authority is None else tls_settings(authority.issue("node"), mutual=False)
    config = NodeConfig(role=Role.METASTORE, rest_listen_port=free_port(), rest_tls=tls)
    metrics = NodeMetrics(config.role)
    node_tls = NodeTls(config, metrics)
    await node_tls.open()
    server = HttpServer(config, Readiness({}), metrics, tls=node_tls.rest)
    await server.open()
    try:
        yield config.rest_listen_port
    finally:
        await server.close()
        await node_tls.close()


async def said_to(port: int, sent: bytes, context: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
async def test_what_is_not_http_is_one_line(
    tmp_path: Path, case: str, with_tls: bool, level: str
) -> None:
    sent, reason = CASES[case]
    authority = Authority(tmp_path) if with_tls else None
    context = None if authority is None else ssl.create_default_context(cafile=str(authority.ca))
    with written(level) as lines:
        async with serving(authority) as port:
            answer = await said_to(port, sent, context)
    assert answer.startswith(b"HTTP/1.0 400 ")
    (line,) = lines.of("HTTP request refused")
    assert line["level"] == "WARN"
    assert reason in line["reason"]
    assert "exception" not in line
    assert SECRET[7:].decode() not in lines.stream.getvalue()
