"""Composition root of a node: opens and closes everything, and drains on a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import time

from proxy import errors
from proxy.config import NodeConfig
from proxy.metrics import NodeMetrics
from proxy.server.dispatch import Dispatcher, Metadata, Metastore, node_metadata
from proxy.server.grpc_server import GrpcServer
from proxy.server.http_server import HttpServer
from proxy.server.readiness import Readiness
from proxy.server.shedding import Shedder
from proxy.server.supervisor import DatabaseSupervisor, initial_conditions
from proxy.store.metastore import PostgresMetastore
from proxy.store.pool import Database

log = logging.getLogger(__name__)


class Node:
    """One running process: a metastore on the primary, or on a replica.

    `open` binds both ports at once and returns; the node becomes ready when its database is. Calls
    that arrive before are answered `Unavailable` with the reason.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.metrics = NodeMetrics(config.role)
        self.readiness = Readiness(initial_conditions())
        self.database = Database(
            config.database_uri,
            config.pool,
            read_only=config.is_database_read_only,
        )
        self._metastore = PostgresMetastore(
            self.database, max_message_size=config.grpc.max_message_size
        )
        self._supervisor = DatabaseSupervisor(config, self.database, self.readiness, self.metrics)
        self._shedder = Shedder(2 * config.pool.max_connections)
        dispatcher = Dispatcher(
            self._serving_metastore,
            self._answer_metadata,
            shedder=self._shedder,
            metrics=self.metrics,
            max_message_size=config.grpc.max_message_size,
        )
        self._grpc = GrpcServer(config, dispatcher.generic_handler())
        self._http = HttpServer(config, self.readiness, self.metrics)
        self._health_task: asyncio.Task[None] | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._health_changed = asyncio.Event()
        self._hurry = asyncio.Event()

    async def open(self) -> None:
        """Bind the ports and start to bring the database up. Idempotent."""
        if self._supervision is not None:
            return
        for warning in self.config.warnings:
            log.warning(warning)
        self.metrics.watch_pool(self.database.stats)
        self.metrics.watch_lag(lambda: self._supervisor.lag)
        self.readiness.on_change(self._on_readiness)
        await self._http.open()
        await self._grpc.open()
        self._health_task = asyncio.create_task(self._publish_health(), name="health")
        self._supervision = asyncio.create_task(self._supervisor.run(), name="database-supervisor")
        log.info(
            "node is listening",
            extra={
                "role": self.config.role.value,
                "node_id": self.config.node_id,
                "grpc_port": self.config.grpc_listen_port,
                "rest_port": self.config.rest_listen_port,
            },
        )

    async def run(self) -> None:
        """Open, serve until SIGTERM, SIGINT or SIGHUP, then drain and close.

        A second signal cuts the drain short. Raises the `MetastoreError` that ended the node, if
        it was not a signal.
        """
        stopping = asyncio.Event()

        def stop() -> None:
            if stopping.is_set():
                self._hurry.set()
            stopping.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Ignored on purpose by whoever started it, as `nohup` does with SIGHUP.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stop)
        try:
            await self.open()
            await self._until_stopped(stopping)
        finally:
            await self.close()

    async def _until_stopped(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait(), name="signal")
        if self._supervision is None:
            raise RuntimeError("the node is not open")
        done, _ = await asyncio.wait({stop, self._supervision}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._supervision in done:
            self._supervision.result()

    async def close(self) -> None:
        """Drain: not ready, NOT_SERVING, calls in flight finish within the bound; then stop.

        Idempotent.
        """
        started = time.monotonic()
        self.readiness.drain()
        if self._health_task is not None:
            log.info("draining", extra={"in_flight": self._shedder.in_flight})
            # Watchers of the health service need a moment to turn away before calls are refused.
            await asyncio.sleep(self.config.proxy.shutdown_delay)
        await self._grpc.close(self.config.proxy.drain_timeout, hurry=self._hurry)
        await _end(self._supervision)
        await _end(self._health_task)
        self._supervision = self._health_task = None
        await self._http.close()
        await self.database.close()
        log.info("node is closed", extra={"seconds": round(time.monotonic() - started, 3)})

    def _serving_metastore(self) -> Metastore:
        if not self.database.is_open or self.readiness.conditions["schema_complete"] is not None:
            reasons = "; ".join(self.readiness.failures.values())
            raise errors.Unavailable(f"node {self.config.node_id} is not ready: {reasons}")
        return self._metastore

    def _answer_metadata(self) -> Metadata:
        config = self.config
        return node_metadata(config.node_id, config.role.value, self._supervisor.lag)

    def _on_readiness(self, readiness: Readiness) -> None:
        self.metrics.set_ready(readiness.is_ready)
        self._health_changed.set()

    async def _publish_health(self) -> None:
        shown: bool | None = None
        while True:
            ready = self.readiness.is_ready
            is_fresh = self._supervisor.lag is not None
            await self._grpc.show(self.readiness, fresh=is_fresh)
            if ready != shown:
                log.info("node is ready" if ready else "node is not ready")
                shown = ready
            await self._health_changed.wait()
            self._health_changed.clear()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is None:
        return
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("task ended with an error", extra={"task": task.get_name(), "reason": str(error)})
