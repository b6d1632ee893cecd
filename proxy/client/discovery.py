"""From targets to addresses: fixed ones at once, names by resolving them again and again.

gRPC's own resolver looks a name up again only after a disconnect, so it never learns of a pod that
was added. Here every name is looked up each `resolve_interval` seconds and after a failure.

Besides the targets, a `MemberSource` may know of backends, such as the members of a cluster.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from proxy.client.events import Emitter, ResolveFailed
from proxy.client.options import ClientOptions
from proxy.routing.members import BackendRole
from proxy.routing.targets import Target, join_address

log = logging.getLogger(__name__)

# A name is never looked up more often than this (seconds), however many backends fail.
_MIN_PAUSE: Final = 0.2
_FAILURE_PAUSE: Final = 0.5

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the IP addresses of a host name; the port is a hint. `OSError` when there are none."""


async def resolve_with_system(host: str, port: int) -> Sequence[str]:
    """Resolve with `getaddrinfo`, in the event loop's executor."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


@dataclass(frozen=True, slots=True)
class Member:
    """An address in use: its role, and the authority to present when it came from a name.

    `incarnation` tells a process from an earlier one at the same address: when it changes, the
    backend gets a new connection, and nothing that was learned of the old one counts. `node_id` and
    `zone` hold until the backend itself says more.
    """

    role: BackendRole
    authority: str | None = None
    incarnation: int = 0
    node_id: str = ""
    zone: str = ""


Targets = Mapping[BackendRole, Sequence[Target]]
MembersListener = Callable[[Mapping[str, Member]], None]


class MemberSource(Protocol):
    """Whoever knows of backends that no target names. To be used by one client at a time."""

    async def open(self, on_members: MembersListener, /) -> None:
        """Tell `on_members` all backends known, by address, soon and after each change.

        May give the first ones a moment; `on_members` runs in the event loop of this call.
        """

    async def close(self) -> None:
        """Tell no more. Idempotent."""


class Discovery:
    """Keeps the addresses of all targets and tells the listener the whole set when it changes.

    A name that does not resolve keeps the addresses it had. An address that is both a primary's
    and a replica's is a primary; what `source` says of an address goes before the targets.
    """

    def __init__(
        self,
        targets: Targets,
        on_members: MembersListener,
        *,
        resolve: Resolve,
        options: ClientOptions,
        rng: Random,
        emit: Emitter,
        source: MemberSource | None = None,
    ) -> None:
        self._targets = targets
        self._on_members = on_members
        self._resolve = resolve
        self._options = options
        self._rng = rng
        self._emit = emit
        self._source = source
        self._sourced: Mapping[str, Member] = {}
        self._found: dict[Target, tuple[str, ...]] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._pending: set[Target] = set()
        self._settled = asyncio.Event()
        self._nudged: dict[Target, asyncio.Event] = {}
        self._problems: dict[Target, str] = {}

    @property
    def problems(self) -> Mapping[Target, str]:
        """The names that do not resolve at present, with the reason."""
        return self._problems

    async def open(self) -> None:
        """Publish the fixed addresses; give names `settle_timeout` seconds to resolve."""
        names = _names(self._targets)
        self._pending = set(names)
        self._publish()
        if self._source is not None:
            await self._source.open(self._on_sourced)
        for target in sorted(names, key=str):
            self._start(target)
        if names:
            try:
                await asyncio.wait_for(self._settled.wait(), self._options.settle_timeout)
            except TimeoutError:
                log.info(
                    "some names are not resolved yet", extra={"names": sorted(map(str, names))}
                )

    async def close(self) -> None:
        """End the look-ups. Idempotent."""
        if self._source is not None:
            await self._source.close()
        for target in tuple(self._tasks):
            self._end(target)
        if self._ending:
            await asyncio.wait(self._ending)

    async def look_ahead(self, targets: Targets) -> Mapping[Target, tuple[str, ...]]:
        """Return the addresses of names that are not followed yet, for `reconfigure`.

        Takes `settle_timeout` seconds at most; a name that does not resolve by then is left out.
        """
        new = _names(targets) - set(self._tasks)
        tasks = {asyncio.create_task(self._addresses(target)): target for target in new}
        if not tasks:
            return {}
        try:
            await asyncio.wait(tasks, timeout=self._options.settle_timeout)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return {
            target: task.result()
            for task, target in tasks.items()
            if not task.cancelled() and task.exception() is None
        }

    def reconfigure(
        self,
        targets: Targets,
        options: ClientOptions,
        found: Mapping[Target, tuple[str, ...]],
    ) -> None:
        """Follow these targets and no others from now on; the listener is told before it returns.

        `found` are the addresses of new names, so that there is no moment without them.
        """
        self._targets, self._options = targets, options
        names = _names(targets)
        for target in set(self._tasks) - names:
            self._end(target)
            for known in (self._found, self._nudged, self._problems):
                known.pop(target, None)
        self._found.update(found)
        self._publish()
        for target in sorted(names - set(self._tasks), key=str):
            self._start(target)

    def _start(self, target: Target) -> None:
        self._tasks[target] = asyncio.create_task(
            self._follow(target), name=f"metastore-client {target}"
        )

    def _end(self, target: Target) -> None:
        task = self._tasks.pop(target)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    def nudge(self) -> None:
        """Have the names looked up soon, because a backend failed."""
        for nudged in self._nudged.values():
            nudged.set()

    def _publish(self) -> None:
        members: dict[str, Member] = {}
        # Primaries last, so that they win.
        for role in (BackendRole.REPLICA, BackendRole.PRIMARY):
            for target in self._targets.get(role, ()):
                if target.is_name:
                    for address in self._found.get(target, ()):
                        members[address] = Member(role, target.address)
                else:
                    members[target.address] = Member(role)
        self._on_members({**members, **self._sourced})

    def _on_sourced(self, members: Mapping[str, Member]) -> None:
        self._sourced = members
        self._publish()

    async def _follow(self, target: Target) -> None:
        nudged = self._nudged[target] = asyncio.Event()
        failures = 0
        while True:
            nudged.clear()
            if await self._look_up(target):
                failures, pause = 0, self._options.resolve_interval
            else:
                failures += 1
                backed_off = _FAILURE_PAUSE * 2.0 ** min(failures - 1, 8)
                pause = min(backed_off, self._options.resolve_interval)
            self._pending.discard(target)
            if not self._pending:
                self._settled.set()
            await _pause(nudged, pause * self._rng.uniform(0.8, 1.2))

    async def _addresses(self, target: Target) -> tuple[str, ...]:
        hosts = await self._resolve(target.host, target.port)
        if not hosts:
            raise OSError("the name has no address")
        return tuple(sorted({join_address(host, target.port) for host in hosts}))

    async def _look_up(self, target: Target) -> bool:
        try:
            found = await self._addresses(target)
        # A label that is too long for DNS raises UnicodeError.
        except (OSError, UnicodeError) as error:
            if target not in self._problems:
                log.warning(
                    "name not resolved", extra={"dns_name": str(target), "error": str(error)}
                )
            self._problems[target] = str(error)
            self._emit(ResolveFailed(str(target), str(error)))
            return False
        self._problems.pop(target, None)
        if found != self._found.get(target):
            self._found[target] = found
            self._publish()
        return True


def _names(targets: Targets) -> set[Target]:
    return {target for each in targets.values() for target in each if target.is_name}


async def _pause(nudged: asyncio.Event, seconds: float) -> None:
    await asyncio.sleep(_MIN_PAUSE)
    try:
        await asyncio.wait_for(nudged.wait(), max(0.0, seconds - _MIN_PAUSE))
    except TimeoutError:
        return
