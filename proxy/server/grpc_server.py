"""The gRPC server of a node: the metastore, health, reflection, and limits that suit its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from proxy import errors
from proxy.config import GrpcSettings, NodeConfig
from proxy.routing.targets import join_address
from proxy.server.health import NodeHealth, Vector
from proxy.server.tls_front import TlsFront

REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"


# What a request's metadata may take, as in Quickwit; the library would refuse half of it at random.
_MAX_METADATA: Final = 16 * 1024
# The library's limits are 32-bit numbers.
_MAX_INT: Final = 0x7FFFFFFF


def channel_options(settings: GrpcSettings, *, is_shared: bool = False) -> list[tuple[str, Any]]:
    """Return the server's channel options.

    Requests up to twice the limit are read, so that one just over it gets an error of ours that
    says so; the library refuses larger ones. Pings are permitted at any rate: clients with
    keep-alive would otherwise be cut off. `is_shared`: several processes listen on the port.
    """
    # `grpc.keepalive_timeout_ms` has no effect: the timeout is that of a ping.
    durations = {
        "grpc.max_connection_age_ms": settings.max_connection_age,
        "grpc.max_connection_age_grace_ms": settings.max_connection_age_grace,
        "grpc.keepalive_time_ms": settings.keep_alive_interval,
        "grpc.http2.ping_timeout_ms": settings.keep_alive_timeout,
    }
    return [
        ("grpc.max_receive_message_length", min(2 * settings.max_message_size, _MAX_INT)),
        ("grpc.max_send_message_length", min(settings.max_message_size + 1024, _MAX_INT)),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
        ("grpc.so_reuseport", int(is_shared)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ("grpc.http2.max_ping_strikes", 0),
        *(
            (name, int(seconds * 1000))
            for name, seconds in durations.items()
            if seconds is not None
        ),
    ]


class GrpcServer:
    """Binds in `open`; answers until `close`. `services` are handlers by full service name.

    With `tls` the port speaks TLS, which ends there: the server itself listens behind it.
    """

    def __init__(
        self,
        config: NodeConfig,
        services: Sequence[tuple[str, grpc.GenericRpcHandler]],
        *,
        tls: TlsFront | None = None,
    ) -> None:
        self._config = config
        self._tls = tls
        self._services = tuple(services)
        self._server: grpc.aio.Server | None = None
        self._health = NodeHealth()
        self._vector = Vector()
        self.port = 0

    async def open(self) -> None:
        """Listen. `Io` when the address cannot be bound."""
        if self._server is not None:
            return
        is_shared = self._config.worker is not None
        options = channel_options(self._config.grpc, is_shared=is_shared)
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers(tuple(handler for _, handler in self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        _add_reflection(server, list(dict.fromkeys(name for name, _ in self._services)))
        host, port = self._config.listen_address, self._config.grpc_listen_port
        address = join_address(host, port)
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port, inner_path = self._tls.bind(host, port, is_shared=is_shared)
                server.add_insecure_port(f"unix:{inner_path}")
        except (RuntimeError, OSError) as error:
            raise errors.Io(
                f"cannot listen on {address} for gRPC: is another process using "
                "`grpc_listen_port`, and is `listen_address` one of this host"
            ) from error
        await self._health.show(self._vector)
        await server.start()
        if self._tls is not None:
            self._tls.open()
        self._server = server

    async def show(self, vector: Vector) -> None:
        """Publish the health vector, if the server is not open yet as soon as it is."""
        self._vector = vector
        await self._health.show(vector)

    async def close(self, timeout: float, *, hurry: asyncio.Event | None = None) -> None:
        """Refuse new calls, let those in flight finish within `timeout` seconds. Idempotent.

        `hurry` ends those calls as soon as it is set.

        Facts: of two stops at once the library crashes (SIGSEGV) when one of them has just ended
        while the other, with a time of 0, gives up waiting; one without a time does not wait.
        """
        server, self._server = self._server, None
        if server is None:
            return
        if self._tls is not None:
            self._tls.refuse()
        self._health.end_watches()
        hurry = hurry or asyncio.Event()
        grace = timeout if timeout > 0 and not hurry.is_set() else None
        stopped = asyncio.create_task(server.stop(grace), name="grpc-drain")
        hurried = asyncio.create_task(hurry.wait(), name="hurry")
        try:
            await asyncio.wait({stopped, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if grace is not None and not stopped.done():
                await server.stop(None)
        finally:
            hurried.cancel()
        await stopped
        if self._tls is not None:
            await self._tls.close()


def _add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    names = [*services, health.SERVICE_NAME, REFLECTION_V1, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    # The v1 protocol is v1alpha under another name; the library only mounts v1alpha.
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler}),)
    )
