"""The member as a running thing: one UDP socket in a thread of its own.

A thread, because a member that is silent for some seconds is dead to the others: whatever holds up
the event loop must not make the node flap. The thread alone touches the state machine; what others
want of it is put in a queue.
"""

from __future__ import annotations

import asyncio
import logging
import math
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Final, TypeVar

from proxy import errors
from proxy.gossip.cluster import GossipCluster, GossipSettings, MemberRecord, Outgoing
from proxy.gossip.identity import Endpoint, IpAddress, MemberId
from proxy.gossip.limits import Event, EventKind
from proxy.gossip.seeds import Seed, Seeds, text_of
from proxy.gossip.view import ClusterView
from proxy.routing.targets import join_address

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DATAGRAM: Final = 65_507
# Datagrams taken in before it is looked whether a tick is due.
_BATCH: Final = 64
_RECEIVE_BUFFER: Final = 1 << 20
# A change of our own keys is gossiped at once, but no sooner after a tick than this part of the
# interval: peers judge by the rhythm.
_HURRY: Final = 0.1
_JOIN_BOUND: Final = 5.0
# After an error that nobody expected, so that one that stays does not burn the processor.
_PAUSE: Final = 0.1
# Seconds that the thread sleeps at most: a selector takes 24 days, an interval may be 49.
_LONGEST_SLEEP: Final = 3600.0
# Peers whose trouble is remembered, so that it is logged once.
_TROUBLED: Final = 1_000

_MESSAGES: Final = {
    EventKind.WRONG_CLUSTER: "a node of another cluster gossips with this one: it is refused",
    EventKind.OWN_ID: "a peer knows another state of this very node than there is",
    EventKind.DIGEST_CUT: "too many members for one datagram: some are left out",
}


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Who the member is, where it listens, and whom it asks first.

    `generation` must be larger than that of any earlier run. `port` 0 lets the system choose.
    `seeds` are items of `peer_seeds`.
    """

    node_id: str
    generation: int
    listen: IpAddress
    port: int
    advertise: IpAddress
    gossip: GossipSettings = field(default_factory=GossipSettings)
    seeds: tuple[str, ...] = ()


class GossipAgent:
    """Gossips from `open` to `close`.

    `on_view` and `on_event` are called on the event loop that opened the agent; the first only when
    the view has changed. `view` may be read by any thread.
    """

    def __init__(
        self,
        settings: AgentSettings,
        keys: Mapping[str, str],
        on_view: Callable[[ClusterView], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._settings = settings
        self._first_keys = dict(keys)
        self._on_view = on_view
        self._on_event = on_event
        self._errors: Counter[str] = Counter()
        self._wishes: deque[Callable[[GossipCluster], None]] = deque()
        self._targets: Collection[Seed] = ()
        self._troubled: set[Endpoint] = set()
        self._view: ClusterView | None = None
        self._shown: ClusterView | None = None
        self._ending = threading.Event()
        self._cluster: GossipCluster
        self._loop: asyncio.AbstractEventLoop
        self._socket: socket.socket
        self._wake: tuple[socket.socket, socket.socket]
        self._seeds: Seeds
        self._thread: threading.Thread | None = None
        self._last_tick = self._due = 0.0
        self._heard: float | None = None
        self.port = 0

    @property
    def view(self) -> ClusterView:
        """What is known of the cluster now. RuntimeError before `open`."""
        if self._view is None:
            raise RuntimeError("the gossip agent is not open")
        return self._view

    @property
    def counters(self) -> Mapping[str, int]:
        """Datagrams in and out, what was dropped and why, errors of the socket and of the loop."""
        # One step of the interpreter, so that the thread cannot add a name half-way.
        told = dict.copy(self._cluster.counters) if self._view is not None else {}
        return {str(name): count for name, count in told.items()} | dict.copy(self._errors)

    @property
    def silence(self) -> float:
        """Seconds since the last datagram, infinite before the first."""
        return math.inf if self._heard is None else time.monotonic() - self._heard

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    async def open(self) -> None:
        """Bind and begin to gossip. Idempotent.

        `Io` when the port cannot be bound, or a key or an address cannot be told.
        """
        if self._thread is not None:
            return
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        self._socket = _bind(settings.listen, settings.port)
        self.port = self._socket.getsockname()[1]
        try:
            self._cluster = self._begin()
            self._seeds = Seeds(settings.seeds, self.port, self._take_seeds)
        except ValueError as error:
            self._socket.close()
            raise errors.Io(f"what the node tells its cluster does not fit: {error}") from error
        self._view = self._cluster.view()
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._seeds.open()
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)
        self._thread.start()

    def _begin(self) -> GossipCluster:
        who = self._settings
        me = MemberId(who.node_id, who.generation, who.advertise, self.port)
        now = time.monotonic()
        return GossipCluster(me, who.gossip, now=now, rng=SystemRandom(), keys=self._first_keys)

    def set_keys(self, keys: Mapping[str, str]) -> None:
        """Write keys of this node; what changes is gossiped at once. For any thread."""

        def write(cluster: GossipCluster) -> None:
            for key, value in keys.items():
                cluster.set(key, value)

        self._wish(write)

    async def snapshot(self) -> list[MemberRecord]:
        """Return the state of all members, tombstones included. `Unavailable` once closed."""
        answer: Future[list[MemberRecord]] = Future()

        def take(cluster: GossipCluster) -> None:
            if answer.set_running_or_notify_cancel():
                answer.set_result(cluster.snapshot())

        if not self.is_alive:
            raise errors.Unavailable("the node has left its cluster")
        self._wish(take)
        try:
            async with asyncio.timeout(_JOIN_BOUND):
                return await asyncio.wrap_future(answer)
        except (TimeoutError, CancelledError) as error:
            raise errors.Unavailable("gossip does not answer") from error

    async def close(self) -> None:
        """End the thread within 5 seconds and close the socket. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        await self._seeds.close()
        self._ending.set()
        self._nudge()
        await asyncio.to_thread(thread.join, _JOIN_BOUND)
        if thread.is_alive():
            log.error("the gossip thread did not end", extra={"seconds": _JOIN_BOUND})
            return
        for end in (self._socket, *self._wake):
            end.close()

    # Called by other threads

    def _wish(self, wish: Callable[[GossipCluster], None]) -> None:
        self._wishes.append(wish)
        self._nudge()

    def _nudge(self) -> None:
        # Full means that the thread is awake already; closed, that it needs no more.
        with suppress(OSError):
            self._wake[1].send(b"\0")

    def _take_seeds(self, seeds: Collection[Seed]) -> None:
        is_ipv4 = self._socket.family == socket.AF_INET
        found = frozenset(seed for seed in seeds if not (is_ipv4 and ":" in seed[0]))
        if seeds and not found:
            log.warning(
                "all seeds known so far have IPv6 addresses, and this node listens on IPv4 alone: "
                "set `listen_address` to `::`",
                extra={"seeds": sorted(map(text_of, seeds))},
            )
        if found != self._targets:
            self._targets = found
            # A seed that is new is asked at once.
            self._wish(lambda _cluster: self._hurry())

    def _deliver(self) -> None:
        view = self._view
        if view is not None and view is not self._shown:
            self._shown = view
            if self._on_view is not None:
                self._on_view(view)

    # The thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake[0], selectors.EVENT_READ)
            while not self._ending.is_set():
                try:
                    self._turn(selector)
                except Exception:
                    # Whatever it is: a member that stops gossiping is dead to all the others.
                    self._errors["loop_errors"] += 1
                    log.exception("gossip goes on after an error")
                    self._ending.wait(_PAUSE)

    def _turn(self, selector: selectors.BaseSelector) -> None:
        while self._wishes:
            before = self._cluster.view()
            self._wishes.popleft()(self._cluster)
            if self._cluster.view() is not before:
                self._hurry()
        now = time.monotonic()
        if now >= self._due:
            # Before the tick, so that one that fails is not repeated without a pause.
            self._last_tick, self._due = now, now + self._settings.gossip.interval
            self._send(self._cluster.tick(now, self._targets))
        self._tell()
        selector.select(min(max(0.0, self._due - time.monotonic()), _LONGEST_SLEEP))
        with suppress(BlockingIOError):
            self._wake[0].recv(4096)
        self._receive()

    def _hurry(self) -> None:
        soon = self._last_tick + _HURRY * self._settings.gossip.interval
        self._due = min(self._due, soon)

    def _receive(self) -> None:
        for _ in range(_BATCH):
            try:
                data, source = self._socket.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                # Such as what an earlier datagram met on its way: nothing is wrong with the socket.
                self._errors["receive_errors"] += 1
                log.debug("receiving gossip failed", extra={"reason": error.strerror})
                return
            self._heard = now = time.monotonic()
            self._send(self._cluster.receive(now, data, source))

    def _send(self, datagrams: list[Outgoing]) -> None:
        for to, data in datagrams:
            try:
                self._socket.sendto(data, self._reachable(to))
            except OSError as error:
                self._errors["send_errors"] += 1
                if to not in self._troubled and len(self._troubled) < _TROUBLED:
                    self._troubled.add(to)
                    log.warning(
                        "gossip cannot be sent to a peer",
                        extra={"peer": text_of(to), "reason": error.strerror or str(error)},
                    )
            else:
                self._troubled.discard(to)

    def _reachable(self, to: Endpoint) -> Endpoint:
        """Return an endpoint as the socket's family writes it. `OSError` when it has no form."""
        is_ipv6 = ":" in to[0]
        if self._socket.family == socket.AF_INET6:
            return to if is_ipv6 else (f"::ffff:{to[0]}", to[1])
        if is_ipv6:
            raise OSError("this node listens on IPv4 alone: set `listen_address` to `::`")
        return to

    def _tell(self) -> None:
        """Hand what is new to the event loop."""
        view = self._cluster.view()
        events = self._cluster.events()
        for event in events:
            self._log(event)
        # The loop may have ended without closing the agent.
        with suppress(RuntimeError):
            if view is not self._view:
                self._view = view
                self._loop.call_soon_threadsafe(self._deliver)
            if self._on_event is not None:
                for event in events:
                    self._loop.call_soon_threadsafe(self._on_event, event)

    def _log(self, event: Event) -> None:
        if event.kind in _MESSAGES:
            peer = None if event.peer is None else text_of(event.peer)
            log.warning(_MESSAGES[event.kind], extra={"peer": peer, "detail": event.detail})


def _bind(ip: IpAddress, port: int) -> socket.socket:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            # As the other ports do: `::` is IPv4 as well.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        bound.setblocking(False)
        bound.bind((str(ip), port))
    except OSError as error:
        bound.close()
        raise errors.Io(
            f"cannot listen on {join_address(str(ip), port)} (UDP) for gossip ({error.strerror}): "
            "is another process using `gossip_listen_port`, and is `listen_address` one of this "
            "host; `proxy.gossip: false` starts a node that is in no cluster"
        ) from error
    return bound
