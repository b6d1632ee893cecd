"""The addresses of `peer_seeds`, names looked up again and again.

Facts: Quickwit's nodes look names up every 60 seconds; a name that fails contributes nothing until
it succeeds, and a seed without a port is at the node's own gossip port.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Final

from proxy.gossip.addresses import resolve
from proxy.routing.targets import Target, join_address, parse_seed

log = logging.getLogger(__name__)

REFRESH: Final = 60.0
# A name may become known late, as that of a service without a single pod does.
RETRY: Final = 5.0

Seed = tuple[str, int]


class Seeds:
    """Tells `found` of the seeds as (ip, port), whenever they may have changed.

    Look-ups run on the event loop's threads: the gossip thread never waits for one.
    """

    def __init__(
        self, seeds: Sequence[str], own_port: int, found: Callable[[Collection[Seed]], None]
    ) -> None:
        """Raise ValueError for a seed that is none."""
        targets = [parse_seed(seed, own_port) for seed in seeds]
        self._literal = {(one.host, one.port) for one in targets if _is_literal(one)}
        self._names = [one for one in targets if not _is_literal(one)]
        self._found = found
        self._failing: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Tell the literal addresses at once, those of names as soon as they are known."""
        self._found(self._literal)
        if self._names and self._task is None:
            self._task = asyncio.create_task(self._refresh(), name="gossip-seeds")

    async def close(self) -> None:
        """End the look-ups. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _refresh(self) -> None:
        while True:
            answers = await asyncio.gather(*(self._look_up(name) for name in self._names))
            self._found(self._literal.union(*answers))
            await asyncio.sleep(RETRY if self._failing else REFRESH)

    async def _look_up(self, name: Target) -> set[Seed]:
        try:
            found = await resolve(name.host, name.port)
        except OSError as error:
            if name.host not in self._failing:
                self._failing.add(name.host)
                log.warning(
                    "a name in `peer_seeds` cannot be resolved: it is tried again",
                    extra={"seed": name.address, "reason": error.strerror or str(error)},
                )
            return set()
        if name.host in self._failing:
            self._failing.discard(name.host)
            log.info("a name in `peer_seeds` is resolved", extra={"seed": name.address})
        return {(str(ip), name.port) for ip in found}


def _is_literal(target: Target) -> bool:
    try:
        ip_address(target.host)
    except ValueError:
        return False
    return True


def text_of(endpoint: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Return an endpoint as `ip:port`; an IPv4 address in the form of IPv6 as IPv4."""
    return join_address(endpoint[0].removeprefix("::ffff:"), endpoint[1])
