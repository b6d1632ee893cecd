"""The routing client for a process that passes calls on: messages are bytes and stay so."""

from __future__ import annotations

from dataclasses import replace

from proxy.client.answers import Answer, Metadata
from proxy.client.attempts import Call
from proxy.client.failover import Failover
from proxy.client.methods import RAW_METHODS
from proxy.client.routing import RoutingClient
from proxy.client.session import Terms
from proxy.client.streams import AnswerStream
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import WANT_LSN, Consistency


class RawRoutingClient(RoutingClient):
    """Makes calls for others, whose metadata says what each of them wants.

    It has no token of its own, and asks a node for its position only when the caller did. A failed
    call raises the `MetastoreError` that the node sent or that stands for its failure; the gRPC
    error, where there is one, is its `__cause__`.
    """

    async def call_raw(
        self, rpc: Rpc, request: bytes, *, timeout: float, metadata: Metadata
    ) -> Answer[bytes]:
        """Make a unary call; otherwise as `call`."""
        terms = self._terms(self._admitted(rpc), metadata)
        if self._may_share(rpc, terms):
            return await self._share(rpc, request, timeout, terms)
        return await self._unary(rpc, RAW_METHODS[rpc.name], request, timeout, terms)

    def stream_raw(
        self, rpc: Rpc, request: bytes, *, timeout: float, metadata: Metadata
    ) -> AnswerStream[bytes]:
        """Return the answer of a streaming RPC; otherwise as `stream`."""
        self._admitted(rpc)

        def begin() -> tuple[Failover, Call]:
            failover = self._failover()
            return failover, failover.plan(rpc, timeout, self._terms(rpc, metadata))

        return AnswerStream(begin, RAW_METHODS[rpc.name], request, len)

    def _terms(self, rpc: Rpc, metadata: Metadata) -> Terms:
        terms = self._session.terms(rpc, metadata, Consistency.EVENTUAL, None)
        if rpc.is_read or any(key == WANT_LSN for key, _ in metadata):
            return terms
        return replace(terms, wants_lsn=False)
