"""The gRPC server of a node: the metastore, health, reflection, and limits that suit its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from proxy import errors
from proxy.config import GrpcSettings, NodeConfig
from proxy.http2.server import Server, ServerLimits
from proxy.routing.targets import join_address
from proxy.server.health import NodeHealth, Vector
from proxy.server.listening import listening_sockets, local_listener
from proxy.server.tls_front import TlsFront

REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"


def limits(settings: GrpcSettings) -> ServerLimits:
    """Return what the server lets callers do.

    Requests up to twice the limit are read, so that one just over it gets an error of ours that
    says so; larger ones are refused before they are read.
    """
    return ServerLimits(
        message=2 * settings.max_message_size,
        keep_alive_interval=settings.keep_alive_interval,
        keep_alive_timeout=settings.keep_alive_timeout,
        max_age=settings.max_connection_age,
        max_age_grace=settings.max_connection_age_grace,
    )


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
        self._server: Server | None = None
        self._health = NodeHealth()
        self._vector = Vector()
        self.port = 0

    async def open(self) -> None:
        """Listen. `Io` when the address cannot be bound."""
        if self._server is not None:
            return
        is_shared = self._config.worker is not None
        server = Server(limits(self._config.grpc))
        server.add_generic_rpc_handlers(tuple(handler for _, handler in self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, cast("Any", server))
        _add_reflection(server, list(dict.fromkeys(name for name, _ in self._services)))
        host, port = self._config.listen_address, self._config.grpc_listen_port
        try:
            if self._tls is None:
                sockets = listening_sockets(host, port, is_shared=is_shared)
                self.port = int(sockets[0].getsockname()[1])
            else:
                self.port, inner_path = self._tls.bind(host, port, is_shared=is_shared)
                sockets = (local_listener(inner_path),)
        except OSError as error:
            raise errors.Io(
                f"cannot listen on {join_address(host, port)} for gRPC: is another process using "
                "`grpc_listen_port`, and is `listen_address` one of this host"
            ) from error
        await self._health.show(self._vector)
        await server.open(sockets)
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


def _add_reflection(server: Server, services: Sequence[str]) -> None:
    names = [*services, health.SERVICE_NAME, REFLECTION_V1, reflection.SERVICE_NAME]
    # The v1 protocol is v1alpha under another name.
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers(
        grpc.method_handlers_generic_handler(name, methods)
        for name in (REFLECTION_V1, reflection.SERVICE_NAME)
    )
