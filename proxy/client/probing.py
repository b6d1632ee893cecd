"""Looking at why a backend cannot be reached, with a connection of one's own.

A channel knows that TLS failed, and not what the server objects to, nor what it presents.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from proxy.client.tls import ClientTls, host_of
from proxy.tls import Material, Peer, client_sees, read_certificate
from proxy.tls.handshake import handshake, ready

# Seconds for one look.
_TIMEOUT: Final = 2.0
# How long a server has to say what it holds against a client's certificate.
_VERDICT_TIMEOUT: Final = 1.0
# What an HTTP/2 client says that leaves at once, so that the server does not wonder: the preface,
# its settings, and GOAWAY.
_FAREWELL: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0"
)
# What TLS begins its records with: an alert, or a handshake.
_TLS_RECORDS: Final = (0x15, 0x16)
_CLOSE_NOTIFY: Final = b"\x15\x03\x03\0\x02\x01\0"


async def examine(address: str, authority: str | None, tls: ClientTls, material: Material) -> str:
    """Connect as a channel does, and tell what either side objects to; "" when neither does."""
    if material.client is None or material.onlooker is None:
        raise RuntimeError(f"`{tls.section}` trusts nobody")
    own = material.certificate
    name = tls.name_of(address, authority)
    peer = Peer(address, name, tls.section, tls.hint, own_expiry="" if own is None else own.expiry)
    # Whatever else keeps a backend from being reached is not a matter of TLS.
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_TIMEOUT):
            try:
                async with _connected(address, material.client, name) as connection:
                    await _hear_verdict(connection)
            except ssl.SSLCertVerificationError as error:
                return client_sees(error, await _with_certificate(peer, material.onlooker))
            except ssl.SSLError as error:
                return client_sees(error, peer)
    return ""


async def speaks_tls(address: str) -> str:
    """Tell for a client in plain text whether a backend speaks TLS, and "" if not.

    Only the first words of a handshake are exchanged, so that no certificate is judged.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    hello = context.wrap_bio(incoming, outgoing, server_hostname=host_of(address))
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_TIMEOUT), _socket(address) as plain:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(plain, outgoing.read())
            answer = await loop.sock_recv(plain, 1)
            plain.send(_CLOSE_NOTIFY)
            if answer and answer[0] in _TLS_RECORDS:
                return (
                    f"{address} speaks TLS, and this side plain text: set `grpc.tls`, or `tls` of "
                    "the client's options, here as well"
                )
    return ""


@asynccontextmanager
async def _socket(address: str) -> AsyncIterator[socket.socket]:
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    family, _, _, _, where = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.setblocking(False)
        await loop.sock_connect(made, where)
        yield made


@asynccontextmanager
async def _connected(
    address: str, context: ssl.SSLContext, name: str
) -> AsyncIterator[ssl.SSLSocket]:
    """Connect, do the handshake and say goodbye."""
    async with _socket(address) as plain:
        with context.wrap_socket(
            plain, server_hostname=name, do_handshake_on_connect=False
        ) as connection:
            await handshake(connection)
            connection.send(_FAREWELL)
            yield connection


async def _hear_verdict(connection: ssl.SSLSocket) -> None:
    """Wait for the server's first words: in TLS 1.3 it judges the client only now."""
    async with asyncio.timeout(_VERDICT_TIMEOUT):
        while True:
            try:
                connection.recv(1)
            except ssl.SSLWantReadError:
                await ready(connection)
            else:
                return


async def _with_certificate(peer: Peer, onlooker: ssl.SSLContext) -> Peer:
    """Return what is known of a server with what its certificate says, however bad that is."""
    with suppress(OSError, ValueError):
        async with _connected(peer.address, onlooker, peer.name) as connection:
            shown = read_certificate(connection.getpeercert(binary_form=True) or b"")
            return replace(peer, shown_names=shown.names_text, shown_expiry=shown.expiry)
    return peer
