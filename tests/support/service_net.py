"""How callers reach the pods of a Service: by its names in DNS, or by its one address.

A server answers DNS for headless Services with the addresses of the moment. A relay stands for the
address of an ordinary one: it connects each new connection to one pod, and leaves those that are
open alone, as a node's packet filter does.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address
from typing import cast

from tests.support.servers import end_server

Endpoints = Callable[[str], Sequence[str]]
_A = 1
_TTL = 5
_NO_SUCH_NAME = 3


class _Names(asyncio.DatagramProtocol):
    """Answers one question a datagram; knows a Service by the first label of a name."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, end = [], 12
        while length := data[end]:
            labels.append(data[end + 1 : end + 1 + length].decode())
            end += 1 + length
        end += 1
        kind = struct.unpack_from("!H", data, end)[0]
        question = data[12 : end + 4]
        try:
            found = self._endpoints(labels[0])
        except KeyError:
            found, code = (), _NO_SUCH_NAME
        else:
            code = 0
        addresses = found if kind == _A else ()
        header = data[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(addresses), 0, 0)
        records = [
            struct.pack("!HHHIH", 0xC00C, _A, 1, _TTL, 4) + IPv4Address(address).packed
            for address in addresses
        ]
        self._transport.sendto(header + question + b"".join(records), addr)


@asynccontextmanager
async def name_server(endpoints: Endpoints) -> AsyncIterator[str]:
    """Serve DNS; lend the address, as `dns://<address>/<name>:<port>` takes it."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Names(endpoints), local_addr=("127.0.0.1", 0)
    )
    try:
        host, port = transport.get_extra_info("sockname")
        yield f"{host}:{port}"
    finally:
        transport.close()


@asynccontextmanager
async def service_address(service: str, port: int, endpoints: Endpoints) -> AsyncIterator[str]:
    """Relay connections to the pods of a Service; lend the address."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as stack:
            stack.callback(writer.close)
            with suppress(OSError):
                # Whoever has no pod is refused, as there.
                pod = random.choice(list(endpoints(service)) or ["0.0.0.0"])
                inner_reader, inner_writer = await asyncio.open_connection(pod, port)
                stack.callback(inner_writer.close)
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await end_server(server)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()
