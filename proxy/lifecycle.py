"""What every node does, whatever it serves from: bind, publish its readiness, drain on a signal."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import grpc

from proxy.client.options import ClientOptions
from proxy.client.raw import RawRoutingClient
from proxy.config import NodeConfig
from proxy.metrics import NodeMetrics
from proxy.metrics.loop import watch_loop
from proxy.routing.figures import Figures
from proxy.server.cluster_service import CLUSTER_SERVICE, cluster_service
from proxy.server.control import ControlSocket
from proxy.server.drain import Bounds, Drain
from proxy.server.grpc_server import GrpcServer
from proxy.server.health import Vector
from proxy.server.http_server import HttpServer
from proxy.server.node_tls import NodeTls
from proxy.server.observing import CallObserver
from proxy.server.proxy_service import PROXY_SERVICE
from proxy.server.readiness import Readiness
from proxy.server.reload import Load, Reloader
from proxy.server.status.board import Sources, StatusBoard
from proxy.server.status.http import StatusPages
from proxy.server.status.service import status_service
from proxy.signals import Signals
from proxy.tls.source import Reload
from proxy.workers.crew import crew_of

log = logging.getLogger(__name__)


class NodeLifecycle(ABC):
    """The ports, the health vector and the tasks of one node.

    A subclass says what is served (`handlers`), what must be watched for it (`watch`), and what it
    can serve at the moment (`vector`); it calls `publish` when that may have changed.
    """

    def __init__(self, config: NodeConfig, readiness: Readiness) -> None:
        self.config = config
        self.metrics = NodeMetrics(config.role, config.metrics_labels)
        self.readiness = readiness
        self._crew = crew_of(config)
        self.membership = self._crew.membership(config)
        if self.membership.is_on:
            self.metrics.watch_gossip(lambda: self.membership.counters)
            self.metrics.watch_members(self.membership.count)
        self._grpc: GrpcServer | None = None
        self.tls = NodeTls(config, self.metrics)
        self.status = StatusBoard(self._crew.look_together(self._status_sources()))
        self._crew.answer_status(self.status)
        pages = StatusPages(self.status)
        self._http = HttpServer(config, readiness, self.metrics, tls=self.tls.rest, pages=pages)
        self._crew.join(readiness, self.metrics, self.membership)
        self._health_task: asyncio.Task[None] | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._loop_watch: asyncio.Task[None] | None = None
        self._health_changed = asyncio.Event()
        self.observer = CallObserver.of(config)
        self.drain = Drain(
            readiness,
            self.observer,
            lambda: self.in_flight + self._crew.busy_elsewhere,
            self._drain_bounds,
        )
        self._crew.drain_together(readiness, self.drain)
        self._was_ready = False
        self._is_open = False

    @abstractmethod
    def handlers(self) -> Sequence[tuple[str, grpc.GenericRpcHandler]]:
        """Return the gRPC services by their full names."""

    @abstractmethod
    async def watch(self) -> None:
        """Watch what the node serves from; returns only by an error that ends the node."""

    @abstractmethod
    def vector(self) -> Vector:
        """Return what the node can serve now."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Calls under way."""

    def own_lag(self) -> float | None:
        """Return how old the data of the node's own database may be; None where it is unknown."""
        return None

    @property
    def is_promoted(self) -> bool:
        """Whether a replica's database is none any more."""
        return False

    def _status_sources(self) -> Sources:
        def figures() -> Figures | None:
            return next((client.figures() for client in self.clients()), None)

        return Sources(
            config=lambda: self.config,
            readiness=self.readiness,
            tally=self.metrics.tally,
            is_gossiping=self.membership.is_on,
            view=lambda: self.membership.view,
            alarms=lambda: self.membership.alarms,
            figures=figures,
            lag=self.own_lag,
            is_promoted=lambda: self.is_promoted,
        )

    @abstractmethod
    async def start(self) -> None:
        """Start what must run before the first call. Waits for nothing."""

    @abstractmethod
    async def stop(self) -> None:
        """End what `start` and `watch` began, once no call is under way. Idempotent."""

    async def reload_tls(self) -> tuple[Reload, ...]:
        """Look at all TLS files of the node now. What cannot be used changes nothing but the log.

        Connections that are open keep their certificates, or are made anew without a failed call.
        """
        return (*await self.tls.reload(), *[await client.reload_tls() for client in self.clients()])

    async def prepare(self, config: NodeConfig) -> Callable[[], None]:
        """Do all that may fail before another configuration is in force; return what does the rest.

        It differs from the present one in what can be reloaded, and no call fails by it. `TlsError`
        when files that it names cannot be used: then nothing has changed.
        """
        steps = [await self.tls.stage(config)]
        proxy, options = config.proxy, ClientOptions.from_config(config)
        for client in self.clients():
            steps.append(await client.prepare(proxy.primary, proxy.replicas, options))

        def commit() -> None:
            for step in steps:
                step()
            self.take_up(config)

        return commit

    def take_up(self, config: NodeConfig) -> None:
        """Go by the settings that may change while the node runs."""
        self.config = config
        self.observer.slow_after = config.proxy.slow_query_threshold
        self._crew.take_up(config)
        self.publish()

    def clients(self) -> Sequence[RawRoutingClient]:
        """Return the clients that the node sends calls to others with."""
        return ()

    async def open(self) -> None:
        """Bind the ports and start to bring up what the node serves from. Idempotent."""
        if self._is_open:
            return
        self._is_open = True
        for warning in self.config.warnings:
            log.warning(warning)
        self.readiness.on_change(self._on_readiness)
        await self._crew.open()
        await self.tls.open()
        if self._crew.is_first:
            await self._http.open()
        status = (PROXY_SERVICE, status_service(partial(self._crew.status, self.status)))
        handlers = [*self.handlers(), status, *self._cluster_handlers()]
        self._grpc = GrpcServer(self.config, handlers, tls=self.tls.grpc)
        await self._crew.listen(self._grpc, self.readiness)
        grpc_port = self._grpc.port or self.config.grpc_listen_port
        await self.membership.open(grpc_port=grpc_port, rest_port=self._http.port)
        await self.start()
        self.status.open()
        self._health_task = asyncio.create_task(self._publish_health(), name="health")
        self._supervision = asyncio.create_task(self.watch(), name="supervision")
        watching = watch_loop(self.metrics.loop_lagged)
        self._loop_watch = asyncio.create_task(watching, name="event-loop lag")
        endpoints = self.membership.endpoints
        log.info(
            "node is listening",
            extra={
                "role": self.config.role.value,
                "node_id": self.config.node_id,
                "grpc_port": self.config.grpc_listen_port,
                "rest_port": self.config.rest_listen_port,
                "gossip": "" if endpoints is None else endpoints.gossip,
            },
        )

    def _cluster_handlers(self) -> Sequence[tuple[str, grpc.GenericRpcHandler]]:
        if not self.membership.is_on:
            return ()
        config = self.config
        service = cluster_service(
            config.cluster_id,
            self.membership.snapshot,
            max_message_size=config.grpc.max_message_size,
        )
        return ((CLUSTER_SERVICE, service),)

    async def run(self, load: Load | None = None) -> None:
        """Open, serve until SIGTERM or SIGINT, then drain and close.

        A second one cuts the drain short. On SIGHUP the configuration is taken from `load` again.
        Raises the `MetastoreError` that ended the node, if it was not a signal.
        """
        config, signals = self.config, Signals()
        control = ControlSocket(config.data_dir, config.node_id, config.role.value, self.drain)
        reloader = Reloader(self, load or (lambda: self.config))
        signals.install()
        hurrying = asyncio.create_task(self._hurry(signals.hurry), name="hurry")
        reloading: asyncio.Task[None] | None = None
        try:
            await self.open()
            if self._crew.is_first:
                await control.open()
            reloading = asyncio.create_task(reloader.run(signals.reload), name="reload")
            await self._until_stopped(signals.stopping)
        finally:
            await _end(reloading)
            await self.close()
            await control.close()
            await _end(hurrying)
            signals.remove()

    async def _hurry(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        self.drain.hurry()

    async def _until_stopped(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait(), name="signal")
        if self._supervision is None:
            raise RuntimeError("the node is not open")
        try:
            done, _ = await asyncio.wait(
                {stop, self._supervision}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stop.cancel()
        if self._supervision in done:
            self._supervision.result()

    async def close(self) -> None:
        """Drain: not ready, NOT_SERVING, calls in flight finish within the bound; then stop.

        Idempotent.
        """
        started = time.monotonic()
        if self._health_task is None:
            self.readiness.drain()
        else:
            log.info("draining", extra={"in_flight": self.in_flight})
            self.drain.begin()
            await self.drain.before_stop()
        if self._grpc is not None:
            await self._grpc.close(self.drain.time_left, hurry=self.drain.hurried)
        await self.drain.close(is_done=self.in_flight == 0 and not self.drain.hurried.is_set())
        await _end(self._supervision)
        await _end(self._health_task)
        await _end(self._loop_watch)
        self._supervision = self._health_task = self._loop_watch = None
        await self._crew.others_ended()
        await self._http.close()
        await self.status.close()
        await self.stop()
        await self.tls.close()
        # Last: the others should know of a node that drains what it says, not that it is gone.
        await self.membership.close()
        await self._crew.close()
        log.info("node is closed", extra={"seconds": round(time.monotonic() - started, 3)})

    def _drain_bounds(self) -> Bounds:
        if self._was_ready:
            return Bounds.of(self.config, self.membership.farewell)
        # Nobody was ever told to send calls here.
        return Bounds(0.0, self.config.proxy.drain_timeout, 0.0)

    def publish(self) -> None:
        """Have the health vector published anew."""
        self._health_changed.set()

    def _on_readiness(self, readiness: Readiness) -> None:
        self._was_ready = self._was_ready or readiness.is_ready
        self.metrics.set_ready(readiness.is_ready)
        self.membership.set_ready(readiness.is_ready)
        self.publish()

    async def _publish_health(self) -> None:
        shown: bool | None = None
        while True:
            self._health_changed.clear()
            ready = self.readiness.is_ready
            if self._grpc is not None:
                await self._grpc.show(self.vector())
            if ready != shown:
                log.info("node is ready" if ready else "node is not ready")
                shown = ready
            await self._health_changed.wait()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is None:
        return
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("task ended with an error", extra={"task": task.get_name(), "reason": str(error)})
