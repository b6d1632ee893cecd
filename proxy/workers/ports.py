"""The gRPC port that the workers share.

Facts: with SO_REUSEPORT the kernel gives each new connection to one of the sockets that listen, by
a hash of both ends' addresses; sockets of one user may join at any time, also those of another
program. A socket that is bound and does not listen gets none.
"""

from __future__ import annotations

import socket
from contextlib import closing

from proxy import errors


def reserve(host: str, port: int) -> tuple[socket.socket, ...]:
    """Return sockets that hold the port on all addresses of `host`; close them at the end.

    A port of 0 lets the system choose. `Io` when it cannot be had, as where another node listens:
    its workers would share the connections with ours.
    """
    held: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            where = (str(address[0]), port)
            if port:
                # Without SO_REUSEPORT, which would not mind who else listens.
                with closing(socket.create_server(where, family=family)):
                    pass
            one = socket.socket(family, socket.SOCK_STREAM)
            held.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            one.bind(where)
            port = one.getsockname()[1]
    except OSError as error:
        for one in held:
            one.close()
        # The library adds the address to the system's words.
        reason = (error.strerror or type(error).__name__).partition(" (")[0]
        raise errors.Io(
            f"cannot listen on {host}:{port} for gRPC ({reason}): is another process using "
            "`grpc_listen_port`, and is `listen_address` one of this host"
        ) from error
    return tuple(held)
