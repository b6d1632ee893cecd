"""Composition root of a router: the routing client as a process, without a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc

from proxy.client.raw import RawRoutingClient
from proxy.config import NodeConfig
from proxy.lifecycle import NodeLifecycle
from proxy.onward import follow, routing_client
from proxy.primaries import cluster_info
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.catalogue import SERVICE
from proxy.routing.members import Snapshot
from proxy.server.explaining import explain_route
from proxy.server.forwarding import Forwarder
from proxy.server.health import Vector
from proxy.server.proxy_service import PROXY_SERVICE, proxy_service
from proxy.server.readiness import Readiness
from proxy.server.referral import Referral

BACKENDS: Final = "backend_serves"


class RouterNode(NodeLifecycle):
    """A `metastore_router`: serves all RPCs by passing them on.

    Ready while at least one backend serves reads; it says that it serves writes while a primary
    does.
    """

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config, Readiness({BACKENDS: "no backend has answered yet"}))
        self.client = routing_client(config, self.membership, self.metrics)
        self._cluster_info = cluster_info(
            config, self.membership, self.client, lambda: self.config.proxy.primary
        )
        self._forwarder = Forwarder(
            self.client,
            node_id=config.node_id,
            metrics=self.metrics,
            max_message_size=config.grpc.max_message_size,
            run="" if config.worker is None else config.worker.run,
            observer=self.observer,
            referral=Referral(self._cluster_info.primary_address),
        )

    def handlers(self) -> Sequence[tuple[str, grpc.GenericRpcHandler]]:
        """Return the metastore's service and our own."""
        return [
            (SERVICE, self._forwarder.generic_handler()),
            (
                PROXY_SERVICE,
                proxy_service(self._replication, self._explain, self._cluster_info.answer),
            ),
        ]

    async def _replication(self, _time_left: float | None) -> pb.GetReplicationResponse:
        """Say that there is no database here, so that nobody takes a router for fresh or old."""
        return pb.GetReplicationResponse(
            node_id=self.config.node_id,
            role=self.config.role.value,
            availability_zone=self.config.availability_zone or "",
            worker=0 if self.config.worker is None else self.config.worker.number,
            workers=0 if self.config.worker is None else self.config.worker.count,
        )

    def _explain(self, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
        return explain_route(self.client, request)

    def clients(self) -> Sequence[RawRoutingClient]:
        """Return the client that calls are passed on with."""
        return (self.client,)

    async def start(self) -> None:
        """Start to connect to the backends."""
        await self.client.open()

    async def watch(self) -> None:
        """Follow what the backends can serve."""
        await follow(self.client, self._note)

    def _note(self, snapshot: Snapshot) -> None:
        if snapshot.serving_primaries or snapshot.serving_replicas:
            self.readiness.hold(BACKENDS)
        else:
            states = ", ".join(one.description for one in snapshot.backends)
            self.readiness.fail(BACKENDS, f"no backend serves: {states or 'none is known'}")
        self.publish()

    async def stop(self) -> None:
        """Close the connections to the backends."""
        await self.client.close(0.0)

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self._forwarder.in_flight

    def vector(self) -> Vector:
        """Return what the backends can serve now."""
        ready = self.readiness.is_ready
        now = self.client.backends()
        writes = any(not primary.is_standby for primary in now.serving_primaries)
        return Vector(ready=ready, stale=ready, fresh=ready and writes, write=ready and writes)
