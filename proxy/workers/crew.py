"""What a node's process has to do with the others of its node: nothing, or a worker's duties."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

from proxy import errors
from proxy.config import NodeConfig
from proxy.membership import Membership
from proxy.metrics import NodeMetrics
from proxy.metrics.exchange import families_of, told_families
from proxy.metrics.tally import Counts
from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.routing.figures import Figures
from proxy.server.control_protocol import DrainState
from proxy.server.drain import Drain
from proxy.server.grpc_server import GrpcServer
from proxy.server.readiness import Readiness
from proxy.server.status.board import Sources, StatusBoard
from proxy.server.status.history import INTERVAL
from proxy.workers.calls import NodeCalls, told_calls
from proxy.workers.dividing import drain_bound
from proxy.workers.hub import Hub
from proxy.workers.link import NoAnswerError
from proxy.workers.shared_membership import SharedMembership
from proxy.workers.views import encode_records, encode_view

log = logging.getLogger(__name__)

WORKERS: Final = "workers_serve"
# How often (seconds) a worker that drains looks how far it is.
_LOOK: Final = 0.1
_STATUSES: Final = ("serving", "not_ready", "starting", "ended")


class Alone:
    """A node that is one process."""

    is_first = True

    def membership(self, config: NodeConfig) -> Membership:
        """Return what the node is in its cluster."""
        return Membership(config)

    def join(self, readiness: Readiness, metrics: NodeMetrics, membership: Membership) -> None:
        """Take on what the others are told of, and what they tell."""

    def look_together(self, sources: Sources) -> Sources:
        """Return what a status is made of, of the whole node where this process can tell it."""
        return sources

    def answer_status(self, board: StatusBoard) -> None:
        """Answer the other processes of the node what is shown here."""

    async def status(self, board: StatusBoard) -> pb.GetStatusResponse:
        """Return the status of the whole node. Not to be changed."""
        return board.status()

    def take_up(self, config: NodeConfig) -> None:
        """Go by the settings that may change while the node runs."""

    @property
    def busy_elsewhere(self) -> int:
        """Calls in flight at other processes of the node that drain."""
        return 0

    def drain_together(self, readiness: Readiness, drain: Drain) -> None:
        """Have the whole node drain when one process does."""

    async def open(self) -> None:
        """Begin."""

    async def listen(self, server: GrpcServer, readiness: Readiness) -> None:
        """Open the gRPC port."""
        await server.open()

    async def others_ended(self) -> None:
        """Wait, within a bound, until the first worker is the last."""

    async def close(self) -> None:
        """End. Idempotent."""


class Crew(Alone):
    """A worker's part in its node.

    The first one is ready once every worker has been: from then on one that ended is mentioned, and
    the others serve.
    """

    def __init__(self, config: NodeConfig, hub: Hub) -> None:
        self.is_first = hub.worker.is_first
        self._config = config
        self._hub = hub
        self._told: tuple[bool, str] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._calls: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._telling: asyncio.Task[None] | None = None

    def membership(self, config: NodeConfig) -> Membership:
        """Return the membership; that of the first worker, as it tells it, for the others."""
        return Membership(config) if self.is_first else SharedMembership(config, self._hub)

    def join(self, readiness: Readiness, metrics: NodeMetrics, membership: Membership) -> None:
        """Answer for this worker's metrics; tell how it is."""

        async def own_metrics() -> Any:
            return told_families(metrics.registry.collect())

        self._hub.questions["metrics"] = own_metrics
        if self.is_first:
            self._join_first(readiness, metrics, membership)
        readiness.on_change(self._tell_state)

    def _join_first(
        self, readiness: Readiness, metrics: NodeMetrics, membership: Membership
    ) -> None:
        hub = self._hub

        async def cluster_state() -> Any:
            return encode_records(await membership.snapshot())

        async def node_metrics() -> Any:
            try:
                return families_of(await hub.node_metrics())
            except NoAnswerError as error:
                # Better those of one worker than none.
                log.warning("metrics of this worker only", extra={"reason": str(error)})
                return list(metrics.registry.collect())

        def heard_of_workers() -> None:
            problem = _starting(hub.workers, hub.worker.number)
            if problem:
                readiness.fail(WORKERS, problem)
            else:
                readiness.hold(WORKERS)
            readiness.notes[WORKERS] = describe_workers(hub.workers)

        readiness.require(WORKERS, "the other workers have not started yet")
        hub.questions["cluster state"] = cluster_state
        hub.on_workers = heard_of_workers
        metrics.watch_workers(lambda: _counts(hub.workers), lambda: _restarts(hub.workers))
        metrics.collect = node_metrics
        membership.on_view(lambda view: hub.tell("view", encode_view(view, membership.endpoints)))

    def _tell_state(self, readiness: Readiness) -> None:
        # What depends on the other workers is not this one's state.
        failures = {key: text for key, text in readiness.failures.items() if key != WORKERS}
        state = (readiness.is_ready or not failures, "; ".join(failures.values()))
        if state != self._told:
            self._told = state
            self._hub.tell("state", {"ready": state[0], "reason": state[1]})

    def look_together(self, sources: Sources) -> Sources:
        """Return the sources with the calls of all workers, at the first; tell it of this one's."""
        if not self.is_first:
            self._calls = partial(self._tell_calls, sources.tally, sources.figures)
            return sources
        calls = NodeCalls(sources.tally)

        def figures() -> Figures | None:
            for one in self._hub.workers:
                if one["status"] == "ended":
                    calls.ended(one["number"])
            return calls.figures(sources.figures())

        self._hub.notes["calls"] = calls.hear
        return replace(
            sources,
            tally=calls,
            figures=figures,
            workers_trouble=lambda: trouble_of(self._hub.workers),
        )

    async def _tell_calls(self, tally: Counts, figures: Callable[[], Figures | None]) -> None:
        while True:
            self._hub.tell("calls", told_calls(self._hub.worker.number, tally, figures()))
            await asyncio.sleep(INTERVAL)

    def answer_status(self, board: StatusBoard) -> None:
        """Answer the other workers what is shown here."""

        async def status() -> Any:
            return base64.b64encode(board.status().SerializeToString()).decode()

        if self.is_first:
            self._hub.questions["status"] = status

    async def status(self, board: StatusBoard) -> pb.GetStatusResponse:
        """Return what the first worker shows; without it, of this one, and that it is so."""
        if self.is_first:
            return board.status()
        try:
            return pb.GetStatusResponse.FromString(base64.b64decode(await self._hub.status()))
        except NoAnswerError:
            status = pb.GetStatusResponse()
            status.CopyFrom(board.status())
            status.findings.add(
                id="workers",
                severity="warning",
                text=f"worker {self._hub.worker.number} alone tells this, of its own calls: the "
                "first worker, which knows those of all, does not answer",
                advice="it is started again by itself when it has ended; the log says why",
                since=status.time,
            )
            return status

    def take_up(self, config: NodeConfig) -> None:
        """Go by the bounds of another configuration, and have the parent do so."""
        self._config = config
        self._hub.drain_bound = drain_bound(config)
        if self.is_first:
            self._hub.tell("drain bound", self._hub.drain_bound)

    @property
    def busy_elsewhere(self) -> int:
        """Calls in flight at the other workers, at least one for each that has not drained yet."""
        return sum(one["busy"] for one in self._hub.workers) if self.is_first else 0

    def drain_together(self, readiness: Readiness, drain: Drain) -> None:
        """Drain when another worker does, and have the others drain when this one does."""
        told: set[str] = set()

        def tell(now: Readiness) -> None:
            if now.is_draining and not told:
                told.add("drain")
                self._hub.tell("drain", None)

        async def follow() -> None:
            busy = -1
            while busy != 0:
                now = drain.progress
                before, busy = busy, 0
                if now.state is not DrainState.DRAINED:
                    busy = max(1, now.in_flight)
                if busy != before:
                    self._hub.tell("busy", busy)
                await drain.changed(_LOOK)

        def begin(_: Any) -> None:
            drain.begin()
            if not self.is_first and self._following is None:
                self._following = asyncio.create_task(follow(), name="follow drain")

        readiness.on_change(tell)
        self._hub.notes["drain"] = begin

    async def open(self) -> None:
        """Take up the link to the parent."""
        await self._hub.open()
        if self._told is not None:
            self._hub.tell("state", {"ready": self._told[0], "reason": self._told[1]})
        self.take_up(self._config)
        if self._calls is not None:
            self._telling = asyncio.create_task(self._calls(), name="tell calls")

    async def listen(self, server: GrpcServer, readiness: Readiness) -> None:
        """Open the gRPC port; that of a replacement once it is ready."""
        if not self._hub.worker.is_replacement:
            await server.open()
            return
        ready = asyncio.Event()
        readiness.on_change(lambda now: ready.set() if now.is_ready else None)

        async def listen() -> None:
            await ready.wait()
            try:
                await server.open()
            except errors.MetastoreError as error:
                log.error("the worker ends", extra={"reason": str(error)})
                os.kill(os.getpid(), signal.SIGTERM)

        self._listening = asyncio.create_task(listen(), name="listen once ready")

    async def others_ended(self) -> None:
        """Have the first worker, whom probes and the cluster ask, go last."""
        if not self.is_first:
            self._hub.tell("drained", None)
        else:
            await self._hub.others_ended(self._config.proxy.drain_timeout)

    async def close(self) -> None:
        """End the link to the parent."""
        for task in (self._listening, self._following, self._telling):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self._hub.close()


def crew_of(config: NodeConfig) -> Alone:
    """Return what a process with this configuration has to do with others of its node."""
    if config.worker is None:
        return Alone()
    return Crew(config, Hub(config.worker, drain_bound=drain_bound(config)))


def describe_workers(workers: list[dict[str, Any]]) -> str:
    """Return in words how many workers serve, and what is wrong with the others."""
    serving = sum(one["status"] == "serving" for one in workers)
    wrong = [
        f"worker {one['number']}: {one['reason']}" for one in workers if one["status"] != "serving"
    ]
    return "; ".join([f"{serving} of {len(workers)} workers serve", *wrong])


def trouble_of(workers: list[dict[str, Any]]) -> str:
    """Return what is wrong with other workers than the first; empty where it is so with the node.

    What keeps the first one from being ready is told as the node's own state.
    """
    first_serves = any(one["number"] == 1 and one["status"] == "serving" for one in workers)
    expected = {"serving"} if first_serves else {"serving", "not_ready"}
    well = all(one["number"] == 1 or one["status"] in expected for one in workers)
    return "" if well else describe_workers(workers)


def _starting(workers: list[dict[str, Any]], own: int) -> str:
    """Return which workers have never been ready; empty when all have."""
    return "; ".join(
        f"worker {one['number']} has not been ready yet: {one['reason']}"
        for one in workers
        if not one["has_served"] and one["number"] != own
    )


def _counts(workers: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(one["status"] == name for one in workers) for name in _STATUSES}


def _restarts(workers: list[dict[str, Any]]) -> dict[str, int]:
    return {str(one["number"]): int(one["restarts"]) for one in workers}
