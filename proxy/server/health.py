"""The gRPC health vector of a node, and a watch that ends when the node drains.

Facts: `grpc.health.v1`; Quickwit publishes its readiness under the empty name. The library's
servicer starts as SERVING and never ends a watch, which would hold up a graceful stop for as long
as anybody watches: both are mended here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2

from proxy.routing.catalogue import SERVICE

READ_FRESH: Final = "read.fresh"
READ_STALE: Final = "read.stale"
WRITE: Final = "write"

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True)
class Vector:
    """What a node serves at the moment.

    `ready` is anything at all, `stale` reads of any age, `fresh` reads of a known age, `write`
    writes.
    """

    ready: bool = False
    stale: bool = False
    fresh: bool = False
    write: bool = False


class NodeHealth(health.aio.HealthServicer):
    """Answers `Check` and `Watch` for each service of the vector; NOT_SERVING until told."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def show(self, vector: Vector) -> None:
        """Publish the vector; watchers hear of changes at once."""
        services = {
            "": vector.ready,
            SERVICE: vector.ready,
            READ_STALE: vector.stale,
            READ_FRESH: vector.fresh,
            WRITE: vector.write,
        }
        for service, is_serving in services.items():
            await self.set(service, _SERVING if is_serving else _NOT_SERVING)

    def end_watches(self) -> None:
        """End every watch with UNAVAILABLE, now and from now on."""
        self._ended.set()

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Send the status of a service whenever it changes, until the node drains."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            ended.cancel()
            await asyncio.wait({watch, ended})
        if self._ended.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is shutting down")
        if not watch.cancelled() and (error := watch.exception()) is not None:
            raise error
