"""The resolved configuration of a node: frozen, complete, with every default filled in.

Facts: keys and defaults are Quickwit's node configuration; `ProxySettings` is ours. Times are
seconds, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.config.problems import ConfigError
from proxy.config.uri import PostgresUri
from proxy.roles import Role
from proxy.tls import TlsFiles

DEFAULT_CLUSTER_ID: Final = "quickwit-default-cluster"
DEFAULT_MESSAGE_SIZE: Final = 20 * 1024 * 1024
# Of routers, whose callers keep a connection for as long as they may and do not ask for its health.
ROUTER_CONNECTION_AGE: Final = 10.0


@dataclass(frozen=True)
class PoolSettings:
    """The limits of a database pool; an idle timeout or lifetime of None means never."""

    min_connections: int = 0
    max_connections: int = 10
    acquire_timeout: float = 10.0
    idle_timeout: float | None = 600.0
    max_lifetime: float | None = 1800.0


@dataclass(frozen=True)
class PostgresFlags:
    """The `QW_POSTGRES_*` variables. They concern the `metastore` role only."""

    read_only: bool = False
    skip_migrations: bool = False
    skip_migration_locking: bool = False
    skip_deferred_migrations: bool = False


@dataclass(frozen=True)
class TlsSettings:
    """Where the files for TLS are, and whether clients must show a certificate too.

    `expected_name` is what a client looks for in a server's certificate, in place of the host that
    it connects to. With `verify_client_cert` servers demand a certificate signed by a CA of
    `ca_path`, and clients present theirs.
    """

    cert_path: str = ""
    key_path: str = ""
    ca_path: str = ""
    expected_name: str | None = None
    verify_client_cert: bool = False
    cert_poll_interval: float = 300.0

    def files(self, section: str, protocols: tuple[str, ...] = ("h2",)) -> TlsFiles:
        """Return the files, to be loaded; `section` is the key that messages name."""
        return TlsFiles(
            cert_path=self.cert_path,
            key_path=self.key_path,
            ca_path=self.ca_path,
            is_mutual=self.verify_client_cert,
            section=section,
            protocols=protocols,
        )


@dataclass(frozen=True)
class GrpcSettings:
    """Limits of the gRPC server; None means no limit, or for keep-alive no pings."""

    max_message_size: int = DEFAULT_MESSAGE_SIZE
    keep_alive_interval: float | None = None
    keep_alive_timeout: float | None = None
    max_connection_age: float | None = None
    max_connection_age_grace: float | None = None
    tls: TlsSettings | None = None


@dataclass(frozen=True)
class RouterSettings:
    """Of routers: `advertise_as` are the services that Quickwit's nodes take a router for."""

    advertise_as: tuple[str, ...] = (Role.READ_REPLICA.value,)


@dataclass(frozen=True)
class ProxySettings:
    """Our own section. Targets are `host:port` or `dns:///name:port`.

    `gossip` is whether the node is a member of its cluster.

    `workers` is how many processes serve the gRPC port.

    `heartbeat_interval` of None means that no heartbeat is written; `shutdown_delay` is how long
    a draining node at least stays up as NOT_SERVING before it refuses calls, `drain_timeout` bounds
    the whole drain. A call that takes longer than
    `slow_query_threshold` is logged, none if it is None. `min_lsn_wait` is how long a
    replica waits for a position that a caller asks for. A stream whose caller takes no message for
    `stalled_stream_timeout` is ended, never if it is None. `forward` lets a replica's node pass on
    what it cannot serve itself.

    Of routers and of nodes that forward: `max_lag` of None means no bound on the age of answers,
    `serve_stale` whether a replica over its bound answers when no primary can,
    `fallback_concurrency` how many reads a primary takes at once in place of replicas,
    `retry_ratio` and `retry_reserve` the retries per call and those that a new router has at once,
    `hedge_delay` of None that no read is sent twice, `slow_start` how long a replica that returned
    takes to get its full share, `freshness_interval` how often a backend is asked for its position.
    """

    discovery: str = "static"
    primary: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    probe_interval: float = 1.0
    heartbeat_interval: float | None = 1.0
    drain_timeout: float = 25.0
    shutdown_delay: float = 0.2
    log_format: str = "console"
    log_level: str = "info"
    slow_query_threshold: float | None = 1.0
    min_lsn_wait: float = 0.1
    stalled_stream_timeout: float | None = 30.0
    forward: bool = False
    max_lag: float | None = None
    serve_stale: bool = True
    fallback_concurrency: int = 32
    retry_ratio: float = 0.18
    retry_reserve: int = 10
    hedge_delay: float | None = None
    slow_start: float = 5.0
    freshness_interval: float = 0.25
    gossip: bool = True
    workers: int = 1
    router: RouterSettings = RouterSettings()


@dataclass(frozen=True)
class Worker:
    """Which one of a node's processes this is, where `proxy.workers` makes it several.

    `number` begins at 1; the first one owns what a node has once. `link` is the descriptor of the
    socket to the parent, `run` tells this run of the node from any other. A replacement of one that
    ended takes no connection until it can serve: the others do meanwhile.
    """

    number: int
    count: int
    link: int
    run: str
    is_replacement: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this one owns the REST port, gossip, the heartbeat and migrations."""
        return self.number == 1


@dataclass(frozen=True)
class TracingSettings:
    """Whether spans are exported, by which OTLP protocol, and how many may wait for it."""

    enabled: bool = False
    protocol: str = "grpc"
    queue: int = 32_768


@dataclass(frozen=True)
class NodeConfig:
    """Everything a node needs to know to start.

    `advertise_address` is None when the node listens on every interface and none was given: the
    node then finds one. A port of 0 lets the system choose. `secrets` holds every spelling of
    every password, for the log redactor; no text form of this object shows one. `worker` is None
    where the node is one process.
    """

    role: Role
    enabled_services: tuple[str, ...] = ()
    version: str = "0.8"
    cluster_id: str = DEFAULT_CLUSTER_ID
    node_id: str = "localhost"
    availability_zone: str | None = None
    listen_address: str = "127.0.0.1"
    advertise_address: str | None = "127.0.0.1"
    rest_listen_port: int = 7280
    grpc_listen_port: int = 7281
    gossip_listen_port: int = 7280
    health_listen_port: int | None = None
    gossip_interval: float = 1.0
    gossip_protocol_version: int = 0
    peer_seeds: tuple[str, ...] = ()
    data_dir: str = "qwdata"
    metastore_uri: PostgresUri | None = None
    metastore_read_replica_uri: PostgresUri | None = None
    grpc: GrpcSettings = GrpcSettings()
    rest_tls: TlsSettings | None = None
    pool: PoolSettings = PoolSettings()
    postgres: PostgresFlags = PostgresFlags()
    proxy: ProxySettings = ProxySettings()
    tracing: TracingSettings = TracingSettings()
    metrics_labels: tuple[tuple[str, str], ...] = ()
    worker: Worker | None = None
    warnings: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def database_uri(self) -> PostgresUri:
        """The database of this node's role. `ConfigError` when it has none, or none is set."""
        if not self.role.has_database:
            raise ConfigError(f"the `{self.role.value}` service has no database")
        if self.role is Role.READ_REPLICA:
            key, uri = "metastore_read_replica_uri", self.metastore_read_replica_uri
        else:
            key, uri = "metastore_uri", self.metastore_uri
        if uri is None:
            raise ConfigError(f"the `{self.role.value}` service requires `{key}` to be set")
        return uri

    @property
    def routes(self) -> bool:
        """Whether the node sends calls to other nodes."""
        return self.role is Role.ROUTER or (self.role.is_read_only and self.proxy.forward)

    @property
    def is_database_read_only(self) -> bool:
        """Whether sessions are read-only: by role, or by `QW_POSTGRES_READ_ONLY`."""
        return self.role.is_read_only or self.postgres.read_only
