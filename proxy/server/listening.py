"""Sockets that listen: on the addresses of a host, or at a path of this machine."""

from __future__ import annotations

import socket

from proxy.http2.sockets import BACKLOG


def listening_sockets(
    host: str, port: int, *, is_shared: bool = False
) -> tuple[socket.socket, ...]:
    """Return sockets that listen on all addresses of `host`, on one port. `OSError` if not.

    `::` takes IPv4 as well; a port of 0 lets the system choose; `is_shared` lets other processes of
    this user listen beside.
    """
    if host == "::" and socket.has_dualstack_ipv6():
        both = socket.create_server(
            (host, port),
            family=socket.AF_INET6,
            dualstack_ipv6=True,
            backlog=BACKLOG,
            reuse_port=is_shared,
        )
        both.setblocking(False)
        return (both,)
    made: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            where = (str(address[0]), port)
            one = socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=is_shared)
            one.setblocking(False)
            made.append(one)
            port = one.getsockname()[1]
    except BaseException:
        for one in made:
            one.close()
        raise
    return tuple(made)


def local_listener(path: str) -> socket.socket:
    """Return a socket that listens at a path. `OSError` if it cannot be made there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
