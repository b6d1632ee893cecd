"""The routing client: reads from replicas, everything else and every fallback from the primary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from proxy import errors
from proxy.client.answers import Answer, Metadata, answer
from proxy.client.attempts import Call
from proxy.client.channels import Channels
from proxy.client.connection import Method, Q
from proxy.client.discovery import Discovery, MemberSource, Resolve, Targets, resolve_with_system
from proxy.client.events import CallShared, Emitter, EventListener
from proxy.client.failover import Failover
from proxy.client.methods import RAW_METHODS, MessageMethod, find, find_rpc
from proxy.client.options import ClientOptions, NodeConfig
from proxy.client.pool import BackendPool, closed
from proxy.client.reader import MetastoreReader
from proxy.client.session import Session, Terms
from proxy.client.sharing import SharedCalls
from proxy.client.streams import AnswerStream
from proxy.client.writer import MetastoreWriter
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import REQUEST_ID, Consistency
from proxy.routing.explanation import Explanation, explain
from proxy.routing.figures import Figures, figures
from proxy.routing.members import BackendRole, Snapshot
from proxy.routing.targets import parse_targets
from proxy.tls.source import Reload
from proxy.tracing import TRACEPARENT, TRACESTATE

R = TypeVar("R")

# Metadata that differs from call to call without asking for another answer.
_OF_A_TRACE: Final = frozenset({TRACEPARENT, TRACESTATE, "baggage", REQUEST_ID})


class RoutingClient(MetastoreWriter):
    """Routes calls to the backends that `primary` and `replicas` name.

    A target is `host:port`, `[v6]:port` or `dns:///name:port`; of a name every address becomes a
    backend, and the name is looked up again and again. `members` knows of further backends, as they
    come and go. `ValueError` for a malformed target, or with neither a target nor `members`.

    The six stale-tolerant reads go to replicas that are connected, serving and, by `consistency`
    and `options.max_lag`, fresh enough; every other call, and every call while no such replica is
    there, goes to a primary. A failed read is repeated on another backend within its deadline and
    the retry budget; a write is sent once. Writes are refused with `Forbidden` before
    they leave the process unless `allow_writes` is set; hand `reader` to code that must not write.

    `__init__` does no I/O. `open` and `close` are idempotent; a closed client can be opened again.
    To be used in one event loop.
    """

    def __init__(
        self,
        primary: Sequence[str],
        replicas: Sequence[str] = (),
        *,
        allow_writes: bool = False,
        consistency: Consistency = Consistency.EVENTUAL,
        options: ClientOptions | None = None,
        listener: EventListener | None = None,
        members: MemberSource | None = None,
        resolve: Resolve = resolve_with_system,
        rng: Random | None = None,
    ) -> None:
        self._members = members
        self._targets = self._parsed(primary, replicas)
        self._allow_writes = allow_writes
        self.consistency = consistency
        self.options = options or ClientOptions()
        self._session = Session(consistency, self.options.max_lag)
        self._shared: SharedCalls[Answer[bytes]] = SharedCalls()
        self._emit = Emitter(listener)
        self._resolve = resolve
        # Spreads load and back-off; nothing here is a secret.
        self._rng = rng or Random()  # noqa: S311
        self._pool: BackendPool | None = None
        self._discovery: Discovery | None = None
        super().__init__(self)

    @classmethod
    def from_config(
        cls,
        config: NodeConfig,
        *,
        allow_writes: bool = False,
        options: ClientOptions | None = None,
        listener: EventListener | None = None,
        members: MemberSource | None = None,
    ) -> Self:
        """Return a client for the targets in a node configuration's `proxy:` section.

        Without `options` they are the configuration's too. With `proxy.discovery: gossip` the
        members of the cluster are backends too: `ValueError` without `members`, who tells them.
        """
        if config.proxy.discovery == "gossip" and members is None:
            raise ValueError(
                "`proxy.discovery` is `gossip`: open the client with `proxy.joining.gossip_client`"
            )
        return cls(
            config.proxy.primary,
            config.proxy.replicas,
            allow_writes=allow_writes,
            options=options or ClientOptions.from_config(config),
            listener=listener,
            members=members,
        )

    @property
    def reader(self) -> MetastoreReader:
        """This client as something that has no write method."""
        return MetastoreReader(self)

    def _parsed(self, primary: Sequence[str], replicas: Sequence[str]) -> Targets:
        targets = {
            BackendRole.PRIMARY: parse_targets(primary, "primary"),
            BackendRole.REPLICA: parse_targets(replicas, "replicas"),
        }
        if self._members is None and not any(targets.values()):
            raise ValueError("primary and replicas are both empty: name at least one target")
        return targets

    # Life cycle

    async def open(self) -> None:
        """Start to connect. Returns before anything is connected: see `wait_ready`.

        Names are given a moment to resolve; one that does not is tried again in the background. So
        are `members`, to become known. `TlsError`, a `ValueError`, when the files of `options.tls`
        cannot be used.
        """
        if self._pool is not None:
            return
        pool = BackendPool(
            options=self.options,
            rng=self._rng,
            emit=self._emit,
            has_replicas=bool(self._targets[BackendRole.REPLICA]),
        )
        discovery = Discovery(
            self._targets,
            pool.set_members,
            resolve=self._resolve,
            options=self.options,
            rng=self._rng,
            emit=self._emit,
            source=self._members,
        )
        pool.on_failure = discovery.nudge
        # Set before the first await, so that a second `open` meanwhile does nothing.
        self._pool, self._discovery = pool, discovery
        try:
            await pool.channels.open()
            await discovery.open()
        except BaseException:
            await self.close(0.0)
            raise

    async def close(self, timeout: float = 5.0) -> None:
        """Refuse new calls, give those in flight `timeout` seconds, then cancel them.

        A call that is cut off this way fails with `Unavailable`. Idempotent.
        """
        pool, self._pool = self._pool, None
        discovery, self._discovery = self._discovery, None
        if discovery is not None:
            await discovery.close()
        if pool is not None:
            await pool.close(timeout)

    async def reconfigure(
        self,
        primary: Sequence[str],
        replicas: Sequence[str] = (),
        *,
        options: ClientOptions | None = None,
    ) -> None:
        """Go by other targets, and other options where they are given, from now on.

        All of it is taken into use in one step, or nothing when it cannot be: `ValueError` as from
        the constructor. No call fails by it: those under way go on as they began, and a backend
        that is named no more is given up when its calls have ended. The sizes and intervals that a
        channel is made with count for the next one.
        """
        (await self.prepare(primary, replicas, options or self.options))()

    async def prepare(
        self, primary: Sequence[str], replicas: Sequence[str], options: ClientOptions
    ) -> Callable[[], None]:
        """Do all of `reconfigure` that may fail; return what does the rest."""
        targets = self._parsed(primary, replicas)
        if (options.tls is None) is not (self.options.tls is None):
            raise ValueError("option `tls` cannot come or go in a client that is open")
        pool, discovery = self._pool, self._discovery
        staged = None if pool is None else await pool.channels.stage(options)
        found = {} if discovery is None else await discovery.look_ahead(targets)

        def commit() -> None:
            self._targets, self.options = targets, options
            self._session.max_lag = options.max_lag
            # A client that was closed meanwhile has none.
            if self._pool is pool is not None and discovery is not None:
                is_capped = self._members is not None and pool.board.fallback_cap is not None
                has_replicas = is_capped or bool(targets[BackendRole.REPLICA])
                pool.reconfigure(options, staged, has_replicas=has_replicas)
                discovery.reconfigure(targets, options, found)

        return commit

    async def reload_tls(self) -> Reload:
        """Look at the files of `options.tls` now, and connect anew if they have changed.

        Fails no call. Files that cannot be used change nothing but the log.
        """
        return Reload() if self._pool is None else await self._pool.channels.reload()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # Backends

    def backends(self) -> Snapshot:
        """Return all backends as they are now; none while the client is closed."""
        return self._pool.snapshot if self._pool is not None else Snapshot()

    @property
    def channels(self) -> Channels | None:
        """What makes channels to backends; None while the client is not open."""
        channels = None if self._pool is None else self._pool.channels
        return channels if channels is not None and channels.is_open else None

    def authority(self, address: str) -> str | None:
        """Return the name that a backend's address came from; None if it came from none."""
        return None if self._pool is None else self._pool.authority(address)

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until a primary or a replica serves. `Unavailable` after `timeout` seconds."""
        await self.wait_until(
            lambda now: bool(now.serving_primaries or now.serving_replicas), timeout
        )

    async def wait_until(
        self, condition: Callable[[Snapshot], bool], timeout: float = 10.0
    ) -> Snapshot:
        """Wait until the backends meet `condition` and return them.

        `Unavailable` after `timeout` seconds, with the state of each.
        """
        pool = self._open_pool()
        if not await pool.wait_until(condition, timeout):
            raise errors.Unavailable(f"not ready after {timeout:g} s: {self._describe(pool)}")
        return pool.snapshot

    def _describe(self, pool: BackendPool) -> str:
        states = [b.description for b in pool.snapshot.backends]
        problems = self._discovery.problems if self._discovery is not None else {}
        unresolved = [f"{target}: {problem}" for target, problem in problems.items()]
        return ", ".join((*states, *unresolved)) or "no backend is known"

    def _open_pool(self) -> BackendPool:
        if self._pool is None:
            raise closed()
        return self._pool

    def lag(self, address: str) -> float | None:
        """Return how old the data of the replica at `address` may be, in seconds.

        None when that is unknown, which counts as too old.
        """
        return self._pool.lag(address) if self._pool is not None else None

    def figures(self) -> Figures | None:
        """Return what metrics tell of the backends; None while the client is closed."""
        if self._pool is None:
            return None
        return figures(self._pool.board, time.monotonic(), self.options.max_lag)

    def explain(
        self,
        rpc_name: str,
        *,
        metadata: Metadata = (),
        consistency: Consistency | None = None,
        min_lsn: str | None = None,
    ) -> Explanation:
        """Return where a call would go now, and what speaks for and against each backend."""
        rpc = find_rpc(rpc_name)
        terms = self._session.terms(rpc, metadata, consistency, min_lsn)
        view = self._open_pool().board.view(time.monotonic())
        return explain(rpc, view, self._rng, terms.need)

    # Calls

    async def call(
        self,
        rpc_name: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        consistency: Consistency | None = None,
        min_lsn: str | None = None,
    ) -> Answer[Any]:
        """Make a unary call by the RPC's name (`IndexMetadata`). See the class for the rules."""
        found = self._admit(rpc_name, request, streaming=False)
        terms = self._session.terms(found.rpc, metadata, consistency, min_lsn)
        if self._may_share(found.rpc, terms):
            answered = await self._share(found.rpc, found.method.encode(request), timeout, terms)
            return _decoded(answered, found.method)
        return await self._unary(found.rpc, found.method, request, timeout, terms)

    def stream(
        self,
        rpc_name: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        consistency: Consistency | None = None,
        min_lsn: str | None = None,
    ) -> AnswerStream[Any]:
        """Return the answer of a streaming RPC; the call begins when it is first read."""
        found = self._admit(rpc_name, request, streaming=True)

        def begin() -> tuple[Failover, Call]:
            failover = self._failover()
            terms = self._session.terms(found.rpc, metadata, consistency, min_lsn)
            return failover, failover.plan(found.rpc, timeout, terms)

        return AnswerStream(begin, found.method, request, lambda message: message.ByteSize())

    async def _unary(
        self, rpc: Rpc, method: Method[Q, R], request: Q, timeout: float | None, terms: Terms
    ) -> Answer[R]:
        failover = self._failover()
        return await failover.unary(failover.plan(rpc, timeout, terms), method, request)

    def _may_share(self, rpc: Rpc, terms: Terms) -> bool:
        return (
            self.options.share_reads
            and rpc.is_stale_tolerant
            and terms.need.is_eventual
            and not terms.wants_lsn
        )

    async def _share(
        self, rpc: Rpc, request: bytes, timeout: float | None, terms: Terms
    ) -> Answer[bytes]:
        """Join an identical read in flight, or make one. Bytes: a message could be changed."""
        told = tuple(item for item in terms.metadata if item[0] not in _OF_A_TRACE)
        return await self._shared.call(
            (rpc.name, request, told),
            lambda: self._unary(rpc, RAW_METHODS[rpc.name], request, timeout, terms),
            on_join=lambda: self._emit(CallShared(rpc.name)),
            what=rpc.name,
            timeout=rpc.deadline if timeout is None else timeout,
        )

    def _failover(self) -> Failover:
        return Failover(self._open_pool(), self._session, options=self.options, emit=self._emit)

    def _admit(self, rpc_name: str, request: Message, *, streaming: bool) -> MessageMethod:
        found = find(rpc_name, request, streaming=streaming)
        self._admitted(found.rpc)
        return found

    def _admitted(self, rpc: Rpc) -> Rpc:
        if not rpc.is_read and not self._allow_writes:
            raise errors.Forbidden(
                f"{rpc.name} is a write and this client only reads: "
                "open it with `allow_writes=True`"
            )
        return rpc


def _decoded(answered: Answer[bytes], method: Method[Message, Message]) -> Answer[Message]:
    try:
        response = method.decode(answered.response)
    except DecodeError as error:
        raise errors.Internal(f"the response of {answered.served_by} does not parse") from error
    return answer(response, answered)
