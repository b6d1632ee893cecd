"""Composition root of a node with a database: opens and closes everything it serves from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc

from proxy import errors
from proxy.client.raw import RawRoutingClient
from proxy.config import NodeConfig
from proxy.lifecycle import NodeLifecycle
from proxy.onward import follow, routing_client
from proxy.primaries import cluster_info
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.catalogue import SERVICE
from proxy.routing.members import Snapshot
from proxy.server.dispatch import Dispatcher, Metadata, Metastore, node_metadata
from proxy.server.explaining import explain_node, explain_relay
from proxy.server.forwarding import Forwarder
from proxy.server.freshness import Freshness
from proxy.server.health import Vector
from proxy.server.proxy_service import PROXY_SERVICE, proxy_service
from proxy.server.readiness import Readiness
from proxy.server.referral import Referral
from proxy.server.relay import Relay
from proxy.server.shedding import Shedder
from proxy.server.supervisor import DatabaseSupervisor, initial_conditions
from proxy.store.metastore import PostgresMetastore
from proxy.store.pool import Database
from proxy.store.servers import Wanted, wanted_by


class Node(NodeLifecycle):
    """One running process: a metastore on the primary, or on a replica.

    `open` binds both ports at once and returns; the node becomes ready when its database is. Calls
    that arrive before are answered `Unavailable` with the reason.
    """

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config, Readiness(initial_conditions()))
        self.database = Database(
            config.database_uri,
            config.pool,
            read_only=config.is_database_read_only,
            wanted=wanted_server(config),
        )
        self._metastore = PostgresMetastore(
            self.database, max_message_size=config.grpc.max_message_size
        )
        self._supervisor = DatabaseSupervisor(
            config,
            self.database,
            self.readiness,
            self.metrics,
            writer=lambda: self.membership.writer,
            on_probe=self._on_probe,
            on_heartbeat=self.membership.note_heartbeat,
        )
        self._freshness = Freshness(config, self._supervisor.observer, lambda: self._supervisor.lag)
        self._was_fresh = False
        self._onward = (
            routing_client(config, self.membership, self.metrics) if config.routes else None
        )
        self._cluster_info = cluster_info(
            config, self.membership, self._onward, lambda: self.config.proxy.primary
        )
        self._relay = None if self._onward is None else self._make_relay(self._onward)
        self._following: asyncio.Task[None] | None = None
        self._shedder = Shedder(2 * most_connections(config))
        self._dispatcher = Dispatcher(
            self._serving_metastore,
            self._answer_metadata,
            shedder=self._shedder,
            metrics=self.metrics,
            max_message_size=config.grpc.max_message_size,
            gate=self._freshness,
            observer=self.observer,
            relay=self._relay,
            referral=Referral(self._cluster_info.primary_address),
            stall_bound=config.proxy.stalled_stream_timeout,
        )
        self.metrics.watch_pool(self.database.stats)
        self.database.on_wait = self.metrics.pool_waited

    def handlers(self) -> Sequence[tuple[str, grpc.GenericRpcHandler]]:
        """Return the metastore's service and the proxy's own."""
        return [
            (SERVICE, self._dispatcher.generic_handler()),
            (
                PROXY_SERVICE,
                proxy_service(self._freshness.report, self._explain, self._cluster_info.answer),
            ),
        ]

    def _make_relay(self, onward: RawRoutingClient) -> Relay:
        config = self.config
        forwarder = Forwarder(
            onward,
            node_id=config.node_id,
            metrics=self.metrics,
            max_message_size=config.grpc.max_message_size,
            run="" if config.worker is None else config.worker.run,
        )
        return Relay(
            forwarder,
            is_up=lambda: self.readiness.serves_itself,
            is_too_old=lambda: self.config.proxy.max_lag is not None and not self._is_fresh,
            serve_stale=config.proxy.serve_stale,
            patience=onward.options.attempt_timeout,
        )

    def _explain(self, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
        node_id, role = self.config.node_id, self.config.role
        if self._onward is None or self._relay is None:
            return explain_node(node_id, role, request)
        return explain_relay(self._onward, self._relay.passes_on, node_id, role, request)

    def clients(self) -> Sequence[RawRoutingClient]:
        """Return the client that calls are passed on with, if there is one."""
        return () if self._onward is None else (self._onward,)

    def take_up(self, config: NodeConfig) -> None:
        """Go by the settings that may change while the node runs."""
        super().take_up(config)
        self._freshness.min_lsn_wait = config.proxy.min_lsn_wait
        if self._relay is not None:
            self._relay.serve_stale = config.proxy.serve_stale
        self._was_fresh = self._is_fresh

    async def start(self) -> None:
        """Start to connect to the nodes that calls are passed on to."""
        if self._onward is not None:
            await self._onward.open()
            self._following = asyncio.create_task(follow(self._onward, self._note), name="onward")

    async def watch(self) -> None:
        """Bring the database up and watch it."""
        await self._supervisor.run()

    def _note(self, snapshot: Snapshot) -> None:
        serving = bool(snapshot.serving_primaries or snapshot.serving_replicas)
        self.readiness.stand_in(serving)

    async def stop(self) -> None:
        """Close the database's pool and the connections to other nodes."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        if self._onward is not None:
            await self._onward.close(0.0)
        await self.database.close()

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self._shedder.in_flight

    def own_lag(self) -> float | None:
        """Return how old the data of the node's database may be; None while unknown."""
        return self._supervisor.lag

    @property
    def is_promoted(self) -> bool:
        """Whether the read replica's URI names a database that is not in recovery."""
        return self._supervisor.is_promoted

    def vector(self) -> Vector:
        """Return what the node can serve now."""
        own = self.readiness.serves_itself
        return Vector(
            ready=self.readiness.is_ready,
            stale=own,
            fresh=own and self._is_fresh,
            write=own and not self.config.role.is_read_only,
        )

    @property
    def _is_fresh(self) -> bool:
        """Whether the age of the data is known, and within `proxy.max_lag` where that is set."""
        lag, bound = self._supervisor.lag, self.config.proxy.max_lag
        return lag is not None and (bound is None or lag <= bound)

    def _on_probe(self) -> None:
        if self.config.role.is_read_only:
            self.membership.note_lag(self._supervisor.lag)
        if self._is_fresh != self._was_fresh:
            self._was_fresh = self._is_fresh
            self.publish()

    def _serving_metastore(self) -> Metastore:
        if not self.database.is_open or not self.readiness.holds("schema_complete"):
            reasons = "; ".join(self.readiness.failures.values())
            raise errors.Unavailable(f"node {self.config.node_id} is not ready: {reasons}")
        return self._metastore

    def _answer_metadata(self) -> Callable[[], Metadata]:
        config, lag = self.config, self._supervisor.lag_from_now()
        return lambda: node_metadata(config.node_id, config.role.value, lag())


def most_connections(config: NodeConfig) -> int:
    """Return the size of the node's pool, all workers together.

    Connections of callers are not spread evenly: a worker may have most of the node's calls, and
    must not refuse what the node would have taken.
    """
    worker = config.worker
    return config.pool.max_connections * (1 if worker is None else worker.count)


def wanted_server(config: NodeConfig) -> Wanted:
    """Return what a node's pool needs of its server, where the URI names several."""
    if config.role.is_read_only:
        return wanted_by(config.database_uri, Wanted.PREFER_STANDBY)
    return Wanted.ANY if config.is_database_read_only else Wanted.PRIMARY
