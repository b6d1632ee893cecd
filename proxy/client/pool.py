"""The backends as they are now: what is known of them, and their connections.

The board's snapshot is swapped whole, in one step without an await, so that whoever reads it sees
one state of the world. All of this runs in one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from random import Random

from proxy import errors
from proxy.client.channels import Channels
from proxy.client.connection import Connection
from proxy.client.discovery import Member
from proxy.client.events import BackendChanged, BackendEjected, BackendRefused, Emitter
from proxy.client.options import ClientOptions
from proxy.routing.board import Board, Outcome
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import Need
from proxy.routing.freshness import UNKNOWN, Report
from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load, Snapshot
from proxy.routing.selection import Choice
from proxy.tls.source import Staged

log = logging.getLogger(__name__)


class BackendPool:
    """Opens a connection for each member and closes those that left, after their calls ended.

    Without `has_replicas` primaries take reads without a cap until the first replica joins.
    """

    def __init__(
        self, *, options: ClientOptions, rng: Random, emit: Emitter, has_replicas: bool
    ) -> None:
        self.board = Board(options.board_policy(has_replicas=has_replicas), rng=rng)
        self.is_closed = False
        self.on_failure: Callable[[], None] = lambda: None
        self._options = options
        self.channels = Channels(options)
        self.channels.on_change = self._renew
        self.rng = rng
        self._emit = emit
        self._connections: dict[str, Connection] = {}
        self._incarnations: dict[str, int] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """All backends at this moment."""
        return self.board.snapshot

    @property
    def loads(self) -> Mapping[str, Load]:
        """Calls in flight and latencies, by address."""
        return self.board.loads

    def connection(self, address: str) -> Connection:
        """Return the connection of a backend that is in the present snapshot."""
        return self._connections[address]

    def authority(self, address: str) -> str | None:
        """Return the name that a backend's address came from, if it came from one."""
        connection = self._connections.get(address)
        return None if connection is None else connection.authority

    def set_members(self, members: Mapping[str, Member]) -> None:
        """Make the members exactly these.

        One whose role or incarnation changed gets a new connection, and begins with a clean slate.
        """
        if self.is_closed:
            return
        now = time.monotonic()
        roles = {address: member.role for address, member in members.items()}
        before = self.snapshot.backends
        stay = {b.address: b.role for b in before if self._stays(b, members)}
        # In two steps, so that the board forgets those that were replaced at their address.
        self.board.set_members(stay, now)
        for backend in before:
            if backend.address not in stay:
                self._leave(backend)
        self.board.set_members(roles, now)
        if BackendRole.REPLICA in roles.values():
            self.board.fallback_cap = self._options.fallback_concurrency
        for backend in self.snapshot.backends:
            if backend.address not in self._connections:
                self._join(backend, members[backend.address])
        self._notify()

    def reconfigure(
        self, options: ClientOptions, staged: Staged | None, *, has_replicas: bool
    ) -> None:
        """Go by other options from now on. Calls under way keep those that they began with."""
        self._options = options
        self.board.reconfigure(options.board_policy(has_replicas=has_replicas))
        for connection in self._connections.values():
            connection.options = options
        self.channels.reconfigure(options, staged)

    def _stays(self, backend: Backend, members: Mapping[str, Member]) -> bool:
        member = members.get(backend.address)
        return (
            member is not None
            and member.role is backend.role
            and member.incarnation == self._incarnations[backend.address]
        )

    def _join(self, backend: Backend, member: Member) -> None:
        connection = Connection(
            backend.address,
            self._on_state,
            options=self._options,
            rng=self.rng,
            authority=member.authority,
            on_report=self._on_report,
            channels=self.channels,
        )
        self._connections[backend.address] = connection
        self._incarnations[backend.address] = member.incarnation
        if member.node_id or member.zone:
            self.board.introduce(backend.address, Facts(member.node_id, member.zone))
        connection.open()
        self._tell(backend, None, backend.state, "the address is new")

    def _leave(self, backend: Backend) -> None:
        connection = self._connections.pop(backend.address)
        del self._incarnations[backend.address]
        # Marked here and not in the task: a state that arrives before the task runs is stale.
        connection.is_closing = True
        task = asyncio.create_task(
            connection.close(self._options.drain_timeout),
            name=f"metastore-client {backend.address} leaving",
        )
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        self._tell(backend, backend.state, None, "the address is gone")

    def _renew(self) -> None:
        for connection in self._connections.values():
            connection.renew()

    def _on_state(self, address: str, state: BackendState, reason: str) -> None:
        old = self.snapshot.get(address)
        if old is None or self.is_closed:
            return
        before = self.snapshot
        connection = self._connections.get(address)
        trouble = "" if connection is None else connection.trouble
        if not self.board.set_state(address, state, time.monotonic(), trouble):
            if self.snapshot is not before:
                self._notify()
            return
        self._tell(old, old.state, state, reason)
        if state is BackendState.DOWN:
            self.on_failure()
        self._notify()

    def _on_report(self, address: str, report: Report) -> None:
        before = self.snapshot
        if self.is_closed:
            return
        for backend in self.board.heard(address, report):
            self._refuse(backend)
        if self.snapshot is not before:
            self._notify()

    def _refuse(self, backend: Backend) -> None:
        ledger = self.board.ledger
        given, expected = ledger.identity_of(backend.address), ledger.identity
        log.error(
            "backend refused: it serves another cluster's database",
            extra={
                "backend": backend.address,
                "backend_role": backend.role.value,
                "identity": given,
                "expected": expected,
            },
        )
        self._emit(BackendRefused(backend.address, backend.role, given, expected))

    def _tell(
        self, backend: Backend, before: BackendState | None, after: BackendState | None, reason: str
    ) -> None:
        log.info(
            "backend changed",
            extra={
                "backend": backend.address,
                "backend_role": backend.role.value,
                "state": after.value if after else "gone",
                "reason": reason,
            },
        )
        self._emit(BackendChanged(backend.address, backend.role, before, after, reason))

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_until(self, condition: Callable[[Snapshot], bool], timeout: float) -> bool:
        """Wait until the snapshot meets `condition`; False when `timeout` seconds pass first.

        `Unavailable` when the pool is closed meanwhile.
        """
        try:
            async with asyncio.timeout(timeout):
                while not condition(self.snapshot):
                    if self.is_closed:
                        raise closed()
                    # Taken before the wait: a change between check and wait is not missed, since
                    # both happen in one step of the loop.
                    await self._changed.wait()
        except TimeoutError:
            return condition(self.snapshot)
        return True

    # Calls

    def choose(self, rpc: Rpc, need: Need, tried: AbstractSet[str]) -> Choice | None:
        """Return the backend for a call now; see `selection.choose`."""
        return self.board.choose(rpc, time.monotonic(), need, tried)

    def lag(self, address: str) -> float | None:
        """Return how old a replica's data may be now, in seconds; None when unknown."""
        return self.board.ledger.freshness.get(address, UNKNOWN).lag(time.monotonic())

    def begin(self, choice: Choice) -> None:
        """Count an attempt as in flight."""
        self.board.begin(choice, time.monotonic())

    def end(self, choice: Choice, outcome: Outcome, seconds: float | None) -> None:
        """Count an attempt as ended; `seconds` is None where its latency says nothing."""
        openings = self.board.breaker(choice.backend.address).openings
        self.board.end(choice, outcome, time.monotonic(), seconds)
        self._tell_if_ejected(choice.backend, openings)

    def blame(self, choice: Choice) -> None:
        """Count an attempt that has ended as a failure of its backend after all."""
        openings = self.board.breaker(choice.backend.address).openings
        self.board.blame(choice, time.monotonic())
        self._tell_if_ejected(choice.backend, openings)

    def _tell_if_ejected(self, backend: Backend, openings: int) -> None:
        if self.board.breaker(backend.address).openings > openings:
            extra = {"backend": backend.address}
            log.warning("backend ejected: too many calls failed", extra=extra)
            self._emit(BackendEjected(backend.address, backend.role))

    async def close(self, timeout: float) -> None:
        """Give calls in flight `timeout` seconds, cancel what is left, close all. Idempotent."""
        self.is_closed = True
        self._notify()
        await self.channels.close()
        connections = tuple(self._connections.values())
        self._connections.clear()
        # Cancelling this cancels them all, and each still closes its channel.
        await asyncio.gather(
            self._end_leaving(timeout), *(connection.close(timeout) for connection in connections)
        )

    async def _end_leaving(self, timeout: float) -> None:
        # Those that are leaving have a longer bound of their own.
        if not self._leaving:
            return
        _, late = await asyncio.wait(self._leaving, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)


def closed() -> errors.Unavailable:
    """Return the error of a call on a client that is not open."""
    return errors.Unavailable("the client is closed: call `open` or use it in `async with`")
