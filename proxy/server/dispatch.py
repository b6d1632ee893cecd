"""From bytes on the wire to a metastore and back: one handler for each RPC of the catalogue.

Messages arrive and leave as bytes, so that a request that does not parse gets a metastore error
(`InvalidArgument` with `qw-error-bin`) rather than the transport's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy import errors
from proxy.calls import CallRecord
from proxy.http2.call import ServerCall
from proxy.metrics import NodeMetrics, Outcome
from proxy.proto.quickwit import metastore_pb2
from proxy.routing import consistency
from proxy.routing.catalogue import RPCS, SERVICE, Rpc
from proxy.routing.selection import Route
from proxy.server.decoding import decode
from proxy.server.forwarding import failure_of
from proxy.server.observing import CallObserver, named, send
from proxy.server.referral import Referral
from proxy.server.relay import Alone, Progress, Relay
from proxy.server.shedding import Shedder

log = logging.getLogger(__name__)

_METHODS: Final = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}

# What a first message may have so that it never waits for its caller to take it: the least window
# of HTTP/2's flow control, and room for framing.
_SENT_AT_ONCE: Final = 60_000

Context = ServerCall
Metadata = tuple[tuple[str, str | bytes], ...]
_T = TypeVar("_T")


class Metastore(Protocol):
    """What a dispatcher serves from."""

    async def unary(self, rpc: Rpc, request: Message) -> Message:
        """Serve one unary RPC."""

    def stream(self, rpc: Rpc, request: Message) -> AsyncIterator[Message]:
        """Serve one streaming RPC."""


class Gate(Protocol):
    """What holds a call to its caller's wishes on the data; see `proxy.server.freshness`."""

    async def admit(
        self, rpc: Rpc, metadata: Iterable[tuple[str, str | bytes]]
    ) -> consistency.Wishes:
        """Return the wishes once they can be met; `Unavailable` when they cannot."""

    async def position(self) -> str | None:
        """Return a position at or after everything seen or written until now, if known."""


class Dispatcher:
    """Decodes, sheds, counts, serves and encodes calls.

    `metastore` and `answer_metadata` are asked for each call, so that both may change while the
    server runs; what `answer_metadata` returns before anything is read is asked again at the end,
    so that an age is that of what was read. A cancelled call cancels the work for it; so does one
    that takes no message of a stream for `stall_bound` seconds.
    """

    def __init__(
        self,
        metastore: Callable[[], Metastore],
        answer_metadata: Callable[[], Callable[[], Metadata]],
        *,
        shedder: Shedder,
        metrics: NodeMetrics,
        max_message_size: int,
        gate: Gate | None = None,
        relay: Relay | None = None,
        observer: CallObserver | None = None,
        referral: Referral | None = None,
        stall_bound: float | None = None,
    ) -> None:
        self._metastore = metastore
        self._observer = observer or CallObserver()
        self._referral = referral or Referral()
        self._relay = relay or Alone()
        self._gate = gate
        self._answer_metadata = answer_metadata
        self._shedder = shedder
        self._metrics = metrics
        self._max_message_size = max_message_size
        self._stall_bound = stall_bound

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all RPCs of the service."""
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: self._method_handler(rpc) for name, rpc in RPCS.items()}
        )

    def _method_handler(self, rpc: Rpc) -> grpc.RpcMethodHandler[bytes, bytes]:
        message_class = GetMessageClass(_METHODS[rpc.name].input_type)

        async def unary(raw: bytes, context: Context) -> bytes:
            async def serve(progress: Progress) -> bytes:
                request = self._decode(message_class, raw)
                metastore, tell = await self._admitted(rpc, context, call, progress)
                response = await metastore.unary(rpc, request)
                answer = response.SerializeToString()
                self._check_size(rpc, answer)
                await tell()
                return answer

            with self._observer.observe(rpc, raw, context) as call:
                answer = await self._guarded(
                    rpc, context, call, lambda: self._relay.unary(rpc, raw, context, serve)
                )
                call.sent_bytes = len(answer)
            return answer

        async def stream(raw: bytes, context: Context) -> None:
            async def serve(progress: Progress) -> None:
                request = self._decode(message_class, raw)
                metastore, tell = await self._admitted(rpc, context, call, progress)
                messages = metastore.stream(rpc, request)
                # Closed here and not by the garbage collector: a cancelled call must give its
                # database session back at once.
                async with aclosing(cast("Any", messages)):
                    async for message in messages:
                        progress.begin()
                        packed = message.SerializeToString()
                        # A caller that takes its time shall not keep both in memory.
                        del message
                        await self._send(context, call, packed)
                await tell()

            with self._observer.observe(rpc, raw, context) as call:
                await self._guarded(
                    rpc, context, call, lambda: self._relay.stream(rpc, raw, context, serve)
                )

        if rpc.is_streaming:
            return grpc.unary_stream_rpc_method_handler(cast("Any", stream))
        return grpc.unary_unary_rpc_method_handler(cast("Any", unary))

    async def _send(self, context: Context, call: CallRecord, message: bytes) -> None:
        """Send a message of a stream. `Timeout` when its caller takes none for too long."""
        if self._stall_bound is None or (not call.messages and len(message) < _SENT_AT_ONCE):
            await send(context, call, message)
            return
        try:
            async with asyncio.timeout(self._stall_bound):
                await send(context, call, message)
        except TimeoutError:
            raise errors.Timeout(
                f"the caller took no message of the answer for {self._stall_bound:g} s "
                "(`proxy.stalled_stream_timeout`)"
            ) from None

    async def _guarded(
        self, rpc: Rpc, context: Context, call: CallRecord, serve: Callable[[], Awaitable[_T]]
    ) -> _T:
        try:
            with self._shedder.admit(rpc), self._metrics.track(rpc) as outcome:
                answer = await _observed(rpc, outcome, serve)
        except errors.MetastoreError as error:
            if isinstance(error, errors.TooManyRequests):
                self._metrics.shed(rpc)
            await self._abort(rpc, context, call, error)
        return answer

    async def _admitted(
        self, rpc: Rpc, context: Context, call: CallRecord, progress: Progress
    ) -> tuple[Metastore, Callable[[], Awaitable[None]]]:
        """Return what to serve the call from, and what to do once it is served."""
        metastore, wants_lsn = self._metastore(), False
        metadata = self._answer_metadata()
        if self._gate is not None:
            wishes = await self._gate.admit(rpc, call.metadata)
            wants_lsn = wishes.want_lsn

        async def tell() -> None:
            position = await self._gate.position() if self._gate and wants_lsn else None
            known = ((consistency.LSN, position),) if position is not None else ()
            route = ((consistency.ROUTE, Route.STALE.value),) if progress.is_stale else ()
            if progress.is_stale:
                self._metrics.answered_stale(rpc)
            context.set_trailing_metadata((*metadata(), *route, *known))

        return metastore, tell

    def _decode(self, message_class: type[Message], raw: bytes) -> Message:
        if len(raw) > self._max_message_size:
            raise errors.InvalidArgument(
                f"the request has {len(raw)} bytes, more than `grpc.max_message_size` "
                f"({self._max_message_size}) allows"
            )
        return decode(message_class, raw)

    def _check_size(self, rpc: Rpc, answer: bytes) -> None:
        if len(answer) > self._max_message_size:
            raise errors.Internal(
                f"the answer of {rpc.name} has {len(answer)} bytes, more than "
                f"`grpc.max_message_size` ({self._max_message_size}) allows",
                "ask for less, or raise the limit on this node and its clients",
            )

    async def _abort(
        self, rpc: Rpc, context: Context, call: CallRecord, error: errors.MetastoreError
    ) -> NoReturn:
        def refer(error: errors.MetastoreError) -> tuple[errors.MetastoreError, Metadata]:
            return self._referral.refer(rpc, call.metadata, error)

        metadata: Metadata
        if isinstance(error.__cause__, grpc.aio.AioRpcError):
            # The call was passed on, and failed where it went.
            code, text, metadata = failure_of(error, refer)
        else:
            said, referred = refer(error)
            code, text = _STATUS[said.code], str(said)
            own = (errors.ERROR_METADATA_KEY, said.to_json())
            metadata = (*self._answer_metadata()(), *referred, own)
        call.code = code.name
        await context.abort(code, text, named(call, metadata))


async def _observed(rpc: Rpc, outcome: Outcome, serve: Callable[[], Awaitable[_T]]) -> _T:
    """Run a call, note its outcome, and let only `MetastoreError` and cancellation out."""
    try:
        return await serve()
    except asyncio.CancelledError:
        outcome.is_cancelled = True
        outcome.code = errors.Code.CANCELLED
        raise
    except errors.MetastoreError as error:
        outcome.code = error.code
        raise
    # The boundary to the caller: whatever else is raised is a defect, logged with its trace and
    # answered without it.
    except Exception as error:
        outcome.code = errors.Code.INTERNAL
        log.exception("unexpected error while serving a call", extra={"rpc": rpc.name})
        raise errors.Internal("unexpected error", type(error).__name__) from error


def node_metadata(node_id: str, role: str, lag: float | None) -> Metadata:
    """Return what a node says about itself in every answer."""
    known = ((consistency.LAG, consistency.format_lag(lag)),) if lag is not None else ()
    return ((consistency.SERVED_BY, node_id), (consistency.ROLE, role), *known)
