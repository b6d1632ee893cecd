"""The cluster as a worker that is not the first one knows it."""

from __future__ import annotations

from typing import Any

from proxy import errors
from proxy.config import NodeConfig
from proxy.gossip.state import MemberRecord
from proxy.gossip.view import ClusterView
from proxy.membership import FAREWELL, Membership
from proxy.workers.hub import Hub
from proxy.workers.link import NoAnswerError
from proxy.workers.views import decode_records, decode_view


class SharedMembership(Membership):
    """What a worker knows of the cluster from the first one: a copy of its view.

    While the first one is started again the last view stands.
    """

    def __init__(self, config: NodeConfig, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub
        self._copy: ClusterView | None = None
        hub.notes["view"] = self._take

    @property
    def view(self) -> ClusterView | None:
        """The cluster as the first worker sees it."""
        return self._copy

    @property
    def farewell(self) -> float:
        """Seconds to go on after NOT_READY, as the first worker does."""
        view = self._copy
        has_company = view is not None and any(
            member.is_live and not member.is_self for member in view.members
        )
        return FAREWELL * self._config.gossip_interval if self.is_on and has_company else 0.0

    async def open(self, *, grpc_port: int, rest_port: int) -> None:
        """Do nothing: the first worker joins."""

    async def close(self) -> None:
        """Do nothing: the first worker leaves."""

    async def snapshot(self) -> list[MemberRecord]:
        """Ask the first worker. `Unavailable` when it does not answer."""
        try:
            return decode_records(await self._hub.cluster_state())
        except NoAnswerError as error:
            raise errors.Unavailable(
                f"node {self._config.node_id} cannot tell the state of its cluster at the moment: "
                "its first worker is being started again"
            ) from error

    def _take(self, told: dict[str, Any]) -> None:
        view, self.endpoints = decode_view(told)
        self._copy = view
        self._heard(view)
