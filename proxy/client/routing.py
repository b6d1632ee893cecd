"""The routing client: reads from replicas, everything else and every fallback from the primary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from types import TracebackType
from typing import Any, Protocol, Self

from google.protobuf.message import Message

from proxy import errors
from proxy.client.answers import Answer, Metadata
from proxy.client.discovery import Discovery, Resolve, resolve_with_system
from proxy.client.events import Emitter, EventListener
from proxy.client.failover import Failover
from proxy.client.methods import MessageMethod, find
from proxy.client.options import ClientOptions
from proxy.client.pool import BackendPool, closed
from proxy.client.reader import MetastoreReader
from proxy.client.streams import AnswerStream
from proxy.client.writer import MetastoreWriter
from proxy.routing.members import BackendRole, Snapshot
from proxy.routing.targets import parse_targets


class ProxySection(Protocol):
    """The part of the `proxy:` section of a node's configuration that names the backends."""

    @property
    def primary(self) -> Sequence[str]: ...

    @property
    def replicas(self) -> Sequence[str]: ...


class GrpcSection(Protocol):
    """The part of the `grpc:` section that client and server must agree on."""

    @property
    def max_message_size(self) -> int: ...


class NodeConfig(Protocol):
    """What the client reads of a node's configuration; the library does not import the rest."""

    @property
    def proxy(self) -> ProxySection: ...

    @property
    def grpc(self) -> GrpcSection: ...


class RoutingClient(MetastoreWriter):
    """Routes calls to the backends that `primary` and `replicas` name.

    A target is `host:port`, `[v6]:port` or `dns:///name:port`; of a name every address becomes a
    backend, and the name is looked up again and again. `ValueError` for a malformed target, or when
    there is none.

    The six stale-tolerant reads go to replicas that are connected and serving; every other call,
    and every call while no replica serves, goes to a primary. A failed read is repeated on another
    backend within its deadline; a write is sent once. Writes are refused with `Forbidden` before
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
        options: ClientOptions | None = None,
        listener: EventListener | None = None,
        resolve: Resolve = resolve_with_system,
        rng: Random | None = None,
    ) -> None:
        self._targets = {
            BackendRole.PRIMARY: parse_targets(primary, "primary"),
            BackendRole.REPLICA: parse_targets(replicas, "replicas"),
        }
        if not any(self._targets.values()):
            raise ValueError("primary and replicas are both empty: name at least one target")
        self._allow_writes = allow_writes
        self.options = options or ClientOptions()
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
    ) -> Self:
        """Return a client for the targets in a node configuration's `proxy:` section.

        Without `options` the limit on messages is the configuration's.
        """
        return cls(
            config.proxy.primary,
            config.proxy.replicas,
            allow_writes=allow_writes,
            options=options or ClientOptions(max_message_size=config.grpc.max_message_size),
            listener=listener,
        )

    @property
    def reader(self) -> MetastoreReader:
        """This client as something that has no write method."""
        return MetastoreReader(self)

    # Life cycle

    async def open(self) -> None:
        """Start to connect. Returns before anything is connected: see `wait_ready`.

        Names are given a moment to resolve; one that does not is tried again in the background.
        """
        if self._pool is not None:
            return
        pool = BackendPool(options=self.options, rng=self._rng, emit=self._emit)
        discovery = Discovery(
            self._targets,
            pool.set_members,
            resolve=self._resolve,
            options=self.options,
            rng=self._rng,
            emit=self._emit,
        )
        pool.on_failure = discovery.nudge
        # Set before the first await, so that a second `open` meanwhile does nothing.
        self._pool, self._discovery = pool, discovery
        try:
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
        states = [f"{b.role.value} {b.address} {b.state.value}" for b in pool.snapshot.backends]
        problems = self._discovery.problems if self._discovery is not None else {}
        unresolved = [f"{target}: {problem}" for target, problem in problems.items()]
        return ", ".join((*states, *unresolved)) or "no backend is known"

    def _open_pool(self) -> BackendPool:
        if self._pool is None:
            raise closed()
        return self._pool

    # Calls

    async def call(
        self,
        rpc_name: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Answer[Any]:
        """Make a unary call by the RPC's name (`IndexMetadata`). See the class for the rules."""
        found = self._admit(rpc_name, request, streaming=False)
        failover = self._failover()
        plan = failover.plan(found.rpc, timeout, metadata)
        return await failover.unary(plan, found.method, request)

    def stream(
        self,
        rpc_name: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AnswerStream[Any]:
        """Return the answer of a streaming RPC; the call begins when it is first read."""
        found = self._admit(rpc_name, request, streaming=True)
        return AnswerStream(
            lambda: ((failover := self._failover()), failover.plan(found.rpc, timeout, metadata)),
            found.method,
            request,
            lambda message: message.ByteSize(),
        )

    def _failover(self) -> Failover:
        return Failover(self._open_pool(), options=self.options, rng=self._rng, emit=self._emit)

    def _admit(self, rpc_name: str, request: Message, *, streaming: bool) -> MessageMethod:
        found = find(rpc_name, request, streaming=streaming)
        if not found.rpc.is_read and not self._allow_writes:
            raise errors.Forbidden(
                f"{rpc_name} is a write and this client only reads: "
                "open it with `allow_writes=True`"
            )
        return found
