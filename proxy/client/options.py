"""The client's settings, and what they mean to a channel and to routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Protocol, Self

from proxy.client.tls import ClientTls, TlsSection
from proxy.http2.dialled import ChannelLimits
from proxy.routing.board import BoardPolicy
from proxy.routing.view import Policy

_MIB: Final = 1024 * 1024
# What a node may add to a message that is exactly as large as the limit.
_MESSAGE_SLACK: Final = 64 * 1024
# An error that names many splits fills the metadata; Quickwit does not cut it.
_MAX_METADATA: Final = 128 * 1024


class ProxySection(Protocol):
    """What the client reads of the `proxy:` section of a node's configuration."""

    @property
    def discovery(self) -> str: ...

    @property
    def primary(self) -> Sequence[str]: ...

    @property
    def replicas(self) -> Sequence[str]: ...

    @property
    def max_lag(self) -> float | None: ...

    @property
    def serve_stale(self) -> bool: ...

    @property
    def fallback_concurrency(self) -> int: ...

    @property
    def retry_ratio(self) -> float: ...

    @property
    def retry_reserve(self) -> int: ...

    @property
    def hedge_delay(self) -> float | None: ...

    @property
    def slow_start(self) -> float: ...

    @property
    def freshness_interval(self) -> float: ...


class GrpcSection(Protocol):
    """The part of the `grpc:` section that client and server must agree on."""

    @property
    def max_message_size(self) -> int: ...

    @property
    def tls(self) -> TlsSection | None: ...


class NodeConfig(Protocol):
    """What the client reads of a node's configuration; the library does not import the rest."""

    @property
    def availability_zone(self) -> str | None: ...

    @property
    def proxy(self) -> ProxySection: ...

    @property
    def grpc(self) -> GrpcSection: ...


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Settings with defaults that suit one data centre. Times are seconds, sizes are bytes.

    max_message_size    of a request or a response message
    hold_bytes          how much of a stream is held back, so that it can be repeated elsewhere
    attempt_timeout     bound on one attempt of a read while another backend is left to try; for a
                        stream, until its first message
    connect_timeout     how long a call waits for some backend to serve when none does
    shed_timeout        how long a read is tried again while every backend is too busy for it
    settle_timeout      how long a read waits for a new replica's first health answer before it
                        falls back to a primary
    resolve_interval    between two resolutions of a `dns:///` name
    reconnect_min, reconnect_max   bounds of the back-off
    keepalive_interval, keepalive_timeout   between pings, and until a missing answer counts
    drain_timeout       how long calls may go on with a backend whose address vanished
    health_service      the service name that is asked of the backend's health service; of one that
                        does not know it, its health as a whole. The default tells a node that
                        serves reads from its own database from one that would pass them on

    Freshness and protection:

    max_lag             bound on the age of every answer of a replica; None for no bound
    serve_stale         whether a replica over its bound answers (route `stale`) when no primary
                        can; otherwise the call fails. It never overrides a token
    freshness_interval  between two questions for a backend's replication position
    freshness_timeout   until a missing answer counts; a serving backend is then taken for dead
    fallback_concurrency   how many reads a primary takes at once in place of replicas
    retry_ratio         retries per call that are earned
    retry_reserve       retries that a new client has at once
    hedge_delay         a unary read that has no answer by then is sent to one more backend; None
                        for never
    slow_start          how long a replica that returned takes to get its full share
    share_reads         whether identical stale-tolerant reads in flight share one call
    availability_zone   replicas of this zone are preferred; None for no preference

    tls                 the files for TLS; None for plain text
    """

    max_message_size: int = 20 * _MIB
    hold_bytes: int = _MIB
    attempt_timeout: float = 5.0
    connect_timeout: float = 1.5
    shed_timeout: float = 2.0
    settle_timeout: float = 0.5
    resolve_interval: float = 5.0
    reconnect_min: float = 0.1
    reconnect_max: float = 1.0
    keepalive_interval: float = 1.0
    keepalive_timeout: float = 1.0
    drain_timeout: float = 30.0
    health_service: str = "read.stale"
    max_lag: float | None = None
    serve_stale: bool = True
    freshness_interval: float = 0.25
    freshness_timeout: float = 1.0
    fallback_concurrency: int = 32
    retry_ratio: float = 0.18
    retry_reserve: int = 10
    hedge_delay: float | None = None
    slow_start: float = 5.0
    share_reads: bool = True
    availability_zone: str | None = None
    tls: ClientTls | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not value >= 0:
                raise ValueError(f"option `{item.name}` must not be negative, got {value!r}")

    @classmethod
    def from_config(cls, config: NodeConfig) -> Self:
        """Return what a node's configuration says of routing; the rest is as by default."""
        proxy, tls = config.proxy, config.grpc.tls
        return cls(
            tls=None if tls is None else ClientTls.from_config(tls),
            max_message_size=config.grpc.max_message_size,
            max_lag=proxy.max_lag,
            serve_stale=proxy.serve_stale,
            fallback_concurrency=proxy.fallback_concurrency,
            retry_ratio=proxy.retry_ratio,
            retry_reserve=proxy.retry_reserve,
            hedge_delay=proxy.hedge_delay,
            slow_start=proxy.slow_start,
            freshness_interval=proxy.freshness_interval,
            availability_zone=config.availability_zone,
        )

    def board_policy(self, *, has_replicas: bool) -> BoardPolicy:
        """Return what the options mean to routing.

        Without a replica to wait for, the primary serves every read and no cap protects it.
        """
        return BoardPolicy(
            choice=Policy(
                serve_stale=self.serve_stale,
                slow_start=self.slow_start,
                filling=self.fallback_concurrency,
                likely_lag=3 * self.freshness_interval,
                zone=self.availability_zone or "",
            ),
            fallback_concurrency=self.fallback_concurrency if has_replicas else None,
            retry_ratio=self.retry_ratio,
            retry_reserve=float(self.retry_reserve),
        )

    def channel_limits(self) -> ChannelLimits:
        """Return how a channel keeps its connection."""
        return ChannelLimits(
            message=self.max_message_size + _MESSAGE_SLACK,
            metadata=_MAX_METADATA,
            connect_timeout=max(self.connect_timeout, self.reconnect_max),
            reconnect_min=self.reconnect_min,
            reconnect_max=self.reconnect_max,
            keep_alive_interval=self.keepalive_interval,
            keep_alive_timeout=self.keepalive_timeout,
        )
