"""Passing calls on as bytes: one handler for each RPC, and neither message is ever decoded.

A call keeps its deadline, its metadata and, when it fails, the code, the text and the details of
the node that failed it; the end of the caller's call ends the call that was passed on.

Forwarding never loops: whoever passes a call on adds a name of its own to
`x-metastore-forwarded`, and refuses a call that bears this name already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from secrets import token_hex
from typing import Any, Final, NoReturn, cast

import grpc

from proxy import errors
from proxy.calls import CallRecord, this_call
from proxy.client import Served
from proxy.client.raw import RawRoutingClient
from proxy.http2.call import ServerCall
from proxy.metrics import NodeMetrics, Outcome
from proxy.routing import consistency
from proxy.routing.catalogue import RPCS, SERVICE, Rpc
from proxy.server.observing import CallObserver, named, send
from proxy.server.referral import Referral

log = logging.getLogger(__name__)

Context = ServerCall
Metadata = tuple[tuple[str, str | bytes], ...]

# A caller that sets no deadline waits for as long as its call takes: the end of its call ends ours.
NO_DEADLINE: Final = 86_400.0
# More hops than any sensible set-up has.
MAX_HOPS: Final = 4

_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
# Set anew by the transport for each hop, as is what begins with `grpc-`.
_OF_THE_HOP: Final = frozenset({"content-type", "te", "user-agent", "connection", "host"})
# But for the details of a status, which are the node's own.
_STATUS_DETAILS: Final = "grpc-status-details-bin"
# Known better here than where the call was served.
_TOLD: Final = frozenset(
    {consistency.SERVED_BY, consistency.ROLE, consistency.ROUTE, consistency.LAG}
)
# Said by the transport and not by a node: these get an error of ours, which says more.
_OF_THE_TRANSPORT: Final = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
)


class Hops:
    """The guard against loops. `name` is unique to this process, also where node IDs are not.

    Workers of one node have one name, that of their `run`.
    """

    def __init__(self, node_id: str, run: str = "") -> None:
        self.name = f"{node_id}/{run or token_hex(4)}"
        self._refusal = (
            f"node {node_id} has passed this call on already: see that `proxy.primary` and "
            "`proxy.replicas` of routers do not lead back to themselves"
        )

    def onward(self, metadata: Iterable[tuple[str, str | bytes]], request_id: str) -> Metadata:
        """Return the metadata to pass on. `Unavailable` for a call that has come round."""
        kept: list[tuple[str, str | bytes]] = []
        hops: list[str] = []
        for key, value in metadata:
            if key == consistency.FORWARDED:
                passed = value if isinstance(value, str) else value.decode("utf-8", "replace")
                hops += passed.split(",")
            elif key != consistency.REQUEST_ID and _goes_on(key):
                kept.append((key, value))
        if self.name in hops or len(hops) >= MAX_HOPS:
            raise errors.Unavailable(self._refusal)
        kept.append((consistency.FORWARDED, ",".join((*hops, self.name))))
        kept.append((consistency.REQUEST_ID, request_id))
        return tuple(kept)


def is_forwarded(context: Context) -> bool:
    """Tell whether another node passed a call on to this one."""
    return any(key == consistency.FORWARDED for key, _ in context.invocation_metadata() or ())


class Forwarder:
    """Passes every RPC on to `upstream`. Not thread-safe: for one event loop."""

    def __init__(
        self,
        upstream: RawRoutingClient,
        *,
        node_id: str,
        metrics: NodeMetrics,
        max_message_size: int,
        observer: CallObserver | None = None,
        referral: Referral | None = None,
        run: str = "",
    ) -> None:
        self._upstream = upstream
        self._observer = observer or CallObserver()
        self._referral = referral or Referral()
        self._hops = Hops(node_id, run)
        self._metrics = metrics
        self._max_message_size = max_message_size
        self.in_flight = 0

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all RPCs of the service."""
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: self._method_handler(rpc) for name, rpc in RPCS.items()}
        )

    def _method_handler(self, rpc: Rpc) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def unary(raw: bytes, context: Context) -> bytes:
            observed = self._observer.observe(rpc, raw, context)
            with observed as call, self._metrics.track(rpc) as outcome:
                try:
                    answer = await self.unary(rpc, raw, context)
                except BaseException as error:
                    await self._end(rpc, context, call, outcome, error)
                call.sent_bytes = len(answer)
                return answer

        async def stream(raw: bytes, context: Context) -> None:
            observed = self._observer.observe(rpc, raw, context)
            with observed as call, self._metrics.track(rpc) as outcome:
                try:
                    await self.stream(rpc, raw, context)
                except BaseException as error:
                    await self._end(rpc, context, call, outcome, error)

        if rpc.is_streaming:
            return grpc.unary_stream_rpc_method_handler(cast("Any", stream))
        return grpc.unary_unary_rpc_method_handler(cast("Any", unary))

    async def unary(self, rpc: Rpc, raw: bytes, context: Context) -> bytes:
        """Pass a unary call on and note who served it. `MetastoreError` when it fails."""
        self._check(raw)
        call = this_call()
        metadata = self._hops.onward(call.metadata, call.request_id)
        self.in_flight += 1
        try:
            answer = await self._upstream.call_raw(
                rpc, raw, timeout=time_left(context), metadata=metadata
            )
        finally:
            self.in_flight -= 1
        call.served_by, call.route = answer.served_by, answer.route
        await _send_headers(context, answer)
        context.set_trailing_metadata(_facts(answer))
        return answer.response

    async def stream(
        self, rpc: Rpc, raw: bytes, context: Context, on_first: Callable[[], None] = lambda: None
    ) -> None:
        """Pass a streaming call on; `on_first` is told before anything reaches the caller."""
        self._check(raw)
        call = this_call()
        metadata = self._hops.onward(call.metadata, call.request_id)
        self.in_flight += 1
        try:
            # Closed here and not by the garbage collector: the end of the caller's call must end
            # the one that was passed on.
            async with self._upstream.stream_raw(
                rpc, raw, timeout=time_left(context), metadata=metadata
            ) as answer:
                is_first = True
                async for message in answer:
                    on_first()
                    if is_first and answer.served is not None:
                        await _send_headers(context, answer.served)
                    is_first = False
                    await send(context, call, message)
        finally:
            self.in_flight -= 1
        if answer.served is not None:
            call.served_by, call.route = answer.served.served_by, answer.served.route
            context.set_trailing_metadata(_facts(answer.served))

    def _check(self, raw: bytes) -> None:
        if len(raw) > self._max_message_size:
            raise errors.InvalidArgument(
                f"the request has {len(raw)} bytes, more than `grpc.max_message_size` "
                f"({self._max_message_size}) allows"
            )

    async def _end(
        self,
        rpc: Rpc,
        context: Context,
        call: CallRecord,
        outcome: Outcome,
        error: BaseException,
    ) -> NoReturn:
        if isinstance(error, asyncio.CancelledError):
            outcome.is_cancelled = True
            outcome.code = errors.Code.CANCELLED
            raise error
        if not isinstance(error, errors.MetastoreError):
            if not isinstance(error, Exception):
                raise error
            log.error("unexpected error while passing a call on", exc_info=error)
            error = errors.Internal("unexpected error", type(error).__name__)

        def refer(error: errors.MetastoreError) -> tuple[errors.MetastoreError, Metadata]:
            return self._referral.refer(rpc, context.invocation_metadata() or (), error)

        code, text, metadata = failure_of(error, refer)
        outcome.code = errors.Code(code.value[0])
        call.code = code.name
        await context.abort(code, text, named(call, metadata))


def time_left(context: Context) -> float:
    """Return the seconds that a caller's deadline leaves; `NO_DEADLINE` without one."""
    left = context.time_remaining()
    return NO_DEADLINE if left is None else left


async def _send_headers(context: Context, served: Served) -> None:
    """Tell the caller at once what the node said before its answer."""
    headers = tuple(served.metadata[: served.headers])
    if kept := tuple(item for item in headers if item[0] not in _TOLD and _goes_on(item[0])):
        await context.send_initial_metadata(kept)


def _facts(served: Served) -> Metadata:
    """Return what a caller is told: what the node said, and what only this process knows."""
    told: list[tuple[str, str | bytes]] = [
        (consistency.SERVED_BY, served.served_by),
        (consistency.ROLE, served.role),
        (consistency.ROUTE, served.route),
    ]
    if served.lag is not None:
        told.append((consistency.LAG, consistency.format_lag(served.lag)))
    trailers = served.metadata[served.headers :]
    told += [(key, value) for key, value in trailers if key not in _TOLD and _goes_on(key)]
    return tuple(told)


def _goes_on(key: str) -> bool:
    is_of_the_hop = key in _OF_THE_HOP or key.startswith(("grpc-", ":"))
    return key == _STATUS_DETAILS or not is_of_the_hop


def failure_of(
    error: errors.MetastoreError,
    refer: Callable[[errors.MetastoreError], tuple[errors.MetastoreError, Metadata]],
) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return how an error ends a call: as the node said it if a node did, else as `refer` says.

    A node's own words go on byte for byte, so that variants that this version does not know
    arrive whole.
    """
    cause = error.__cause__
    if isinstance(cause, grpc.aio.AioRpcError):
        said = tuple(
            (key, value) for key, value in cause.trailing_metadata() or () if _goes_on(key)
        )
        is_explicit = any(key == errors.ERROR_METADATA_KEY for key, _ in said)
        if is_explicit or cause.code() not in _OF_THE_TRANSPORT:
            text = cause.details() or str(error)
            own = (errors.ERROR_METADATA_KEY, error.to_json())
            return cause.code(), text, said if is_explicit else (*said, own)
    answered, more = refer(error)
    own = (errors.ERROR_METADATA_KEY, answered.to_json())
    return _STATUS[answered.code], str(answered), (own, *more)
