"""What a call's metadata asks of the data it reads, held against this node's database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from proxy import errors
from proxy.config import NodeConfig
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.routing import consistency
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import Wishes
from proxy.store.observer import Look, Observer

# What part of the caller's time a look may take, so that "not reachable" still arrives.
_SHARE: Final = 0.7


class Freshness:
    """Holds reads to what their callers ask for, and tells how fresh the data is.

    A read that this node cannot serve as asked is `Unavailable`: it is certain that nothing
    happened, and another node may serve it.
    """

    def __init__(
        self, config: NodeConfig, observer: Observer, lag: Callable[[], float | None]
    ) -> None:
        self.min_lsn_wait = config.proxy.min_lsn_wait
        self._config = config
        self._observer = observer
        self._lag = lag

    async def admit(self, rpc: Rpc, metadata: Iterable[tuple[str, str | bytes]]) -> Wishes:
        """Return what the caller asks for, once this node can serve it.

        Waits up to `min_lsn_wait` seconds for a position. `Unavailable` when the data is too old;
        `InvalidArgument` for metadata that does not parse. Writes have nothing to wait for.
        """
        wishes = consistency.read_wishes(metadata)
        if not rpc.is_read:
            return wishes
        if self._config.role.is_read_only and wishes.consistency is consistency.Consistency.PRIMARY:
            raise errors.Unavailable(
                f"node {self._config.node_id} serves a replica and `{consistency.CONSISTENCY}` "
                "asks for the primary: only a `metastore` node takes the call"
            )
        if wishes.max_lag is not None:
            self._check_lag(wishes.max_lag)
        if wishes.min_lsn is not None:
            await self._check_position(wishes.min_lsn)
        return wishes

    def _check_lag(self, bound: float) -> None:
        lag = self._lag()
        if lag is None or lag > bound:
            age = "of unknown age" if lag is None else f"up to {lag:.3f} s old"
            raise errors.Unavailable(
                f"the data of node {self._config.node_id} is {age} and "
                f"`{consistency.MAX_LAG}` allows {bound:g} s: try another node"
            )

    async def _check_position(self, lsn: int) -> None:
        bound = self.min_lsn_wait
        try:
            has_reached = await self._observer.reach(lsn, bound)
        except errors.MetastoreError as error:
            raise errors.Unavailable(
                f"node {self._config.node_id} cannot tell its position: {error}"
            ) from error
        if not has_reached:
            raise errors.Unavailable(
                f"the data of node {self._config.node_id} has not reached "
                f"`{consistency.MIN_LSN}` {consistency.format_lsn(lsn)} within {bound:g} s: "
                "try another node"
            )

    async def position(self) -> str | None:
        """Return a position at or after everything that is committed or was seen until now.

        None when the database does not tell: the caller then has no token.
        """
        try:
            look = await self._observer.look()
        except errors.MetastoreError:
            return None
        return None if look.lsn is None else consistency.format_lsn(look.lsn)

    async def report(self, time_left: float | None) -> proxy_pb2.GetReplicationResponse:
        """Answer `GetReplication`, within the caller's time even when the database hangs."""
        look = await self._look(time_left)
        config = self._config
        answer = proxy_pb2.GetReplicationResponse(
            node_id=config.node_id,
            role=config.role.value,
            lag=self._lag(),
            availability_zone=config.availability_zone or "",
            worker=0 if config.worker is None else config.worker.number,
            workers=0 if config.worker is None else config.worker.count,
        )
        if look is not None:
            answer.database_reachable = True
            answer.in_recovery = look.in_recovery
            answer.lsn = "" if look.lsn is None else consistency.format_lsn(look.lsn)
            answer.timeline = look.timeline
            answer.cluster_identity = look.identity
        return answer

    async def _look(self, time_left: float | None) -> Look | None:
        bound = None if time_left is None else max(0.0, time_left * _SHARE)
        try:
            async with asyncio.timeout(bound):
                return await self._observer.look()
        except (TimeoutError, errors.MetastoreError):
            return None
