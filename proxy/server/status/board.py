"""The status of a node, looked at once a second for as long as it is open, however many ask."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.config import NodeConfig
from proxy.config.redact import redact
from proxy.config.render import render
from proxy.gossip.view import ClusterView
from proxy.metrics.tally import SERVED, Count, Counts
from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.roles import Role
from proxy.routing.figures import Figures
from proxy.server.readiness import Readiness
from proxy.server.status.cleaning import MOST_TEXT, clean
from proxy.server.status.document import as_json
from proxy.server.status.history import INTERVAL, History, Rates
from proxy.server.status.nodes import REPLICA, Myself, key_of, known_nodes
from proxy.server.status.words import Sides, as_message, findings, summary
from proxy.version import VERSION

log = logging.getLogger(__name__)

# As the routes are shown; what a node answers itself comes last.
_ROUTES: Final[Sequence[str]] = ("replica", "primary", "fallback", "stale", SERVED)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a status is made of; each is asked at each look.

    `figures` is None where the node passes no calls on, or not yet; `lag` is that of its own
    database, `workers_trouble` what is wrong with the other processes of the node, in words.
    """

    config: Callable[[], NodeConfig]
    readiness: Readiness
    tally: Counts
    is_gossiping: bool
    view: Callable[[], ClusterView | None]
    alarms: Callable[[], Sequence[str]]
    figures: Callable[[], Figures | None] = lambda: None
    lag: Callable[[], float | None] = lambda: None
    is_promoted: Callable[[], bool] = lambda: False
    workers_trouble: Callable[[], str] = lambda: ""


class StatusBoard:
    """Holds the status as of the last look."""

    def __init__(
        self,
        sources: Sources,
        clock: Callable[[], float] = time.time,
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._interval = interval
        self._started = clock()
        self._history = History()
        self._status: pb.GetStatusResponse | None = None
        self._whole: pb.GetStatusResponse | None = None
        self._json: bytes | None = None
        self._config: tuple[NodeConfig, str] | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="status")

    async def close(self) -> None:
        """Look no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        while True:
            try:
                self.look()
            # What is only there to be looked at must not end a node.
            except Exception:
                log.exception("the status could not be looked at")
            await asyncio.sleep(self._interval)

    def look(self) -> pb.GetStatusResponse:
        """Look at everything now, and return what there is to see but for the histories."""
        now, sources = self._clock(), self._sources
        config = sources.config()
        status = self._head(config, now)
        figures = sources.figures()
        if figures is not None:
            status.protection.CopyFrom(_protection(figures, config))
        behind = now - time.monotonic()
        me = Myself(config.node_id, config.role, sources.readiness.is_ready, sources.lag())
        view = sources.view()
        nodes, left_out = known_nodes(me, view, figures, unix=lambda when: round(when + behind, 3))
        status.nodes_left_out = left_out
        if sources.is_gossiping and view is not None:
            status.members.CopyFrom(pb.MemberCounts(**view.counts()))
        self._date(now, nodes)
        self._note(now, nodes, routes=figures is not None, role=config.role)
        self._add_rates(status, nodes)
        status.nodes.extend(nodes)
        self._judge(status, config, now)
        self._status, self._whole, self._json = status, None, None
        return status

    def _head(self, config: NodeConfig, now: float) -> pb.GetStatusResponse:
        readiness = self._sources.readiness
        status = pb.GetStatusResponse(
            cluster_id=clean(config.cluster_id),
            node_id=clean(config.node_id),
            role=config.role.value,
            version=VERSION,
            time=round(now, 3),
            started=round(self._started, 3),
            ready=readiness.is_ready,
            draining=readiness.is_draining,
            conditions=[
                pb.Condition(name=name, reason=self._fit(reason or "", config))
                for name, reason in readiness.conditions.items()
            ],
            history_interval=self._interval,
            config=self._rendered(config),
        )
        if config.proxy.max_lag is not None:
            status.max_lag = config.proxy.max_lag
        return status

    def _rendered(self, config: NodeConfig) -> str:
        if self._config is None or self._config[0] is not config:
            # A variable of the environment need not be Unicode; a message must.
            shown = render(config).encode(errors="replace").decode()
            if config.worker is not None:
                shown = f"# limits are the part of one of {config.worker.count} workers\n{shown}"
            self._config = (config, shown)
        return self._config[1]

    @staticmethod
    def _fit(text: str, config: NodeConfig) -> str:
        return clean(redact(text, config.secrets), MOST_TEXT)

    def _date(self, now: float, nodes: Sequence[pb.StatusNode]) -> None:
        since = self._history.note_states(now, {key_of(node): node.state for node in nodes})
        for node in nodes:
            # Of a backend it is known better.
            node.since = node.since or round(since[key_of(node)], 3)

    def _note(
        self, now: float, nodes: Sequence[pb.StatusNode], *, routes: bool, role: Role
    ) -> None:
        self._history.note_lags(
            {
                key_of(node): node.lag if node.HasField("lag") else math.nan
                for node in nodes
                if node.kind == REPLICA
            }
        )
        tally = self._sources.tally
        shown = set(_ROUTES) if routes else {SERVED}
        if role is Role.ROUTER:
            # A router answers nothing itself: each call that it takes shows on a route.
            shown.discard(SERVED)
        counts = {name: tally.routes.get(name, Count()) for name in _ROUTES if name in shown}
        self._history.note_routes(now, _plain(counts))
        self._history.note_backends(now, _plain(tally.backends))

    def _add_rates(self, status: pb.GetStatusResponse, nodes: Sequence[pb.StatusNode]) -> None:
        for name, rates in self._history.routes.items():
            calls, failed = rates.now
            status.routes.append(
                pb.RouteCalls(
                    route=name, per_second=round(calls, 2), failed_per_second=round(failed, 2)
                )
            )
        for node in nodes:
            if node.HasField("eligible"):
                rates = self._history.backends.get(node.grpc_address) or Rates()
                node.calls_per_second = round(rates.now[0], 2)

    def _judge(self, status: pb.GetStatusResponse, config: NodeConfig, now: float) -> None:
        sources = self._sources
        alarms = [clean(alarm, MOST_TEXT) for alarm in sources.alarms()]
        warnings = [clean(text, MOST_TEXT) for text in sources.readiness.warnings.values()]
        sides = Sides(alarms, sources.is_promoted(), sources.workers_trouble(), warnings)
        found = findings(status, sides)
        since = self._history.note_troubles(now, [one.key for one in found])
        for one in as_message(found, since):
            one.text = self._fit(one.text, config)
            status.findings.append(one)
        for node in status.nodes:
            node.verdict = redact(node.verdict, config.secrets)
        status.summary = self._fit(summary(status), config)

    # Answers

    @property
    def current(self) -> pb.GetStatusResponse:
        """What was seen at the last look, without histories."""
        return self._status if self._status is not None else self.look()

    def status(self) -> pb.GetStatusResponse:
        """Return what was seen at the last look, with the histories. Not to be changed."""
        if self._whole is None:
            whole = pb.GetStatusResponse()
            whole.CopyFrom(self.current)
            for node in whole.nodes:
                node.lag_history.extend(self._history.lags(key_of(node)))
            for route in whole.routes:
                rates = self._history.routes.get(route.route) or Rates()
                route.history.extend(round(one, 2) for one in rates.history())
            self._whole = whole
        return self._whole

    def json(self) -> bytes:
        """Return `status` as JSON, made once per look; what is not known is null or left out."""
        if self._json is None or self._whole is None:
            self._json = json.dumps(as_json(self.status()), separators=(",", ":")).encode()
        return self._json


def _protection(figures: Figures, config: NodeConfig) -> pb.Protection:
    return pb.Protection(
        fallbacks=figures.fallbacks,
        fallback_limit=figures.fallback_limit,
        retry_budget=round(figures.retry_budget, 2),
        serve_stale=config.proxy.serve_stale,
    )


def _plain(counts: Mapping[str, Count]) -> dict[str, tuple[int, int]]:
    return {key: (count.calls, count.failed) for key, count in counts.items()}


def squeezed(body: bytes) -> bytes:
    """Return an answer with gzip, at the price of about a millisecond for 100 kB."""
    return gzip.compress(body, 1)
