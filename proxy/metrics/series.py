"""The series: names, types, labels, and which nodes export them. The one place that declares any.

Facts: names, labels and buckets of the `quickwit_*` series are those of Quickwit's metastore nodes,
so that its dashboards keep working; the names of `process_*` and `python_info` are the library's.
Durations are seconds. A position in the WAL is its distance in bytes from the start.
"""

from __future__ import annotations

from typing import Final

from proxy.metrics.declaring import Merge, Nodes, Series
from proxy.metrics.declaring import counter as _counter
from proxy.metrics.declaring import gauge as _gauge
from proxy.metrics.declaring import histogram as _histogram

_GRPC: Final = ("service", "grpc_service", "kind", "metastore_kind", "rpc")
_BACKEND: Final = ("backend", "backend_role")

REQUESTS: Final = _counter(
    "quickwit_grpc_requests_total",
    Nodes.ALL,
    "Number of gRPC requests processed.",
    (*_GRPC, "status", "code"),
    is_late=True,
)
IN_FLIGHT: Final = _gauge(
    "quickwit_grpc_requests_in_flight",
    Nodes.ALL,
    "Number of gRPC requests in flight.",
    _GRPC,
    merge=Merge.SUM,
)
DURATIONS: Final = _histogram(
    "quickwit_grpc_request_duration_seconds",
    Nodes.ALL,
    "Duration of requests in seconds.",
    (*_GRPC, "status", "code"),
    is_late=True,
    buckets=tuple(0.001 * 2**power for power in range(12)),
)
POOL_ACQUIRE: Final = _gauge(
    "quickwit_metastore_acquire_connections",
    Nodes.DATABASE,
    "Number of callers waiting for a connection.",
    ("metastore_kind",),
    merge=Merge.SUM,
)
POOL_ACTIVE: Final = _gauge(
    "quickwit_metastore_active_connections",
    Nodes.DATABASE,
    "Number of connections, used and idle.",
    ("metastore_kind",),
    merge=Merge.SUM,
)
POOL_IDLE: Final = _gauge(
    "quickwit_metastore_idle_connections",
    Nodes.DATABASE,
    "Number of idle connections.",
    ("metastore_kind",),
    merge=Merge.SUM,
)
POOL_MAX: Final = _gauge(
    "quickwit_metastore_max_connections",
    Nodes.DATABASE,
    "Most connections that the pool opens.",
    ("metastore_kind",),
    merge=Merge.SUM,
)
DEFERRED: Final = _counter(
    "quickwit_metastore_deferred_migrations_apply_total",
    Nodes.PRIMARY,
    "Number of runs of the deferred migrations.",
    ("result",),
)
TLS_RELOADS: Final = _counter(
    "quickwit_tls_cert_reloads_total",
    Nodes.TLS,
    "Number of reloads of changed TLS files.",
    ("result",),
)
CLUSTER_LIVE: Final = _gauge(
    "quickwit_cluster_live_nodes",
    Nodes.GOSSIP,
    "Number of members of the cluster that are alive, as this node sees it.",
    merge=Merge.FIRST,
)
CLUSTER_READY: Final = _gauge(
    "quickwit_cluster_ready_nodes",
    Nodes.GOSSIP,
    "Number of members that are alive and ready.",
    merge=Merge.FIRST,
)
CLUSTER_DEAD: Final = _gauge(
    "quickwit_cluster_dead_nodes",
    Nodes.GOSSIP,
    "Number of members that are taken for dead.",
    merge=Merge.FIRST,
)
CLUSTER_ZOMBIE: Final = _gauge(
    "quickwit_cluster_zombie_nodes",
    Nodes.GOSSIP,
    "Number of dead members that are about to be forgotten.",
    merge=Merge.FIRST,
)

BUILD: Final = _gauge(
    "metastore_proxy_build_info",
    Nodes.ALL,
    "Always 1; the labels tell the version and the role of the node.",
    ("version", "role"),
    merge=Merge.FIRST,
)
READY: Final = _gauge(
    "metastore_proxy_ready", Nodes.ALL, "Whether the node is ready (0 or 1).", merge=Merge.FIRST
)
LOOP_LAG: Final = _histogram(
    "metastore_proxy_event_loop_lag_seconds",
    Nodes.ALL,
    "How late the event loop runs what is due; looked at four times a second.",
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.0),
)
CONFIG_RELOADS: Final = _counter(
    "metastore_proxy_config_reloads_total",
    Nodes.ALL,
    "Reloads of the configuration; after a failure the one before stays in force.",
    ("result",),
)
CONFIG_RELOADED: Final = _gauge(
    "metastore_proxy_config_last_reload_successful",
    Nodes.ALL,
    "Whether the last reload of the configuration succeeded (0 or 1); 1 before the first.",
    merge=Merge.LEAST,
)
CONFIG_LOADED_AT: Final = _gauge(
    "metastore_proxy_config_last_reload_success_timestamp_seconds",
    Nodes.ALL,
    "When the configuration in force was read, in Unix seconds.",
    merge=Merge.LEAST,
)
TLS_REFUSED: Final = _counter(
    "metastore_proxy_tls_refused_connections_total",
    Nodes.TLS,
    "Connections that a TLS port refused, or that broke off in the handshake.",
    ("port", "reason"),
    is_late=True,
)
TLS_EXPIRY: Final = _gauge(
    "metastore_proxy_tls_certificate_expiry_timestamp_seconds",
    Nodes.TLS,
    "When the certificate that a port presents expires.",
    ("port",),
    merge=Merge.LEAST,
)
GOSSIP_EVENTS: Final = _counter(
    "metastore_proxy_gossip_events_total",
    Nodes.GOSSIP,
    "What gossip did, by name: datagrams sent and received, and what was dropped and why.",
    ("event",),
)

SHED: Final = _counter(
    "metastore_proxy_shed_requests_total",
    Nodes.DATABASE,
    "Calls refused at once because too many of the same RPC were in flight.",
    ("rpc",),
    is_late=True,
)
POOL_WAIT: Final = _histogram(
    "metastore_proxy_pool_wait_seconds",
    Nodes.DATABASE,
    "How long calls waited for a database session, in vain or not.",
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0),
)
LAG: Final = _gauge(
    "metastore_proxy_replica_lag_seconds",
    Nodes.DATABASE,
    "Upper bound of the age of the served data, 0 at a primary; NaN while unknown.",
    merge=Merge.LARGEST,
)
LSN: Final = _gauge(
    "metastore_proxy_lsn_bytes",
    Nodes.DATABASE,
    "Position in the WAL that a primary has written or a replica has replayed; NaN while unknown.",
    merge=Merge.LEAST,
)
HEARTBEAT_AGE: Final = _gauge(
    "metastore_proxy_heartbeat_age_seconds",
    Nodes.DATABASE,
    "Age of the last heartbeat that a metastore node wrote or a replica shows; NaN if there "
    "is none, and at a metastore node that leaves it to another.",
    merge=Merge.LARGEST,
)
MIGRATIONS: Final = _gauge(
    "metastore_proxy_migrations",
    Nodes.DATABASE,
    "Migrations that are applied, pending, failed, or recorded and unknown to this version.",
    ("state",),
    merge=Merge.FIRST,
)
PROMOTED: Final = _gauge(
    "metastore_proxy_replica_not_in_recovery",
    Nodes.REPLICA,
    "Whether a read replica's URI names a database that is not in recovery (0 or 1).",
    merge=Merge.LARGEST,
)

ROUTED: Final = _counter(
    "metastore_proxy_routed_calls_total",
    Nodes.ROUTING,
    "Calls that a backend answered or failed; one that is tried again counts each time.",
    ("rpc", "route", "backend_role", "code"),
    is_late=True,
)
FALLBACKS: Final = _counter(
    "metastore_proxy_fallback_answers_total",
    Nodes.ROUTING,
    "Reads that a primary answered for want of a replica.",
    ("rpc",),
    is_late=True,
)
STALE: Final = _counter(
    "metastore_proxy_stale_answers_total",
    Nodes.ROUTING,
    "Reads answered with data over the bound, as no better could be had.",
    ("rpc",),
    is_late=True,
)
RETRIES: Final = _counter(
    "metastore_proxy_retries_total",
    Nodes.ROUTING,
    "Attempts on another backend after one that failed.",
    ("rpc",),
    is_late=True,
)
RETRIES_DENIED: Final = _counter(
    "metastore_proxy_retries_denied_total",
    Nodes.ROUTING,
    "Calls that failed and were not tried again, for want of a budget.",
    ("rpc",),
    is_late=True,
)
HEDGES: Final = _counter(
    "metastore_proxy_hedges_total",
    Nodes.ROUTING,
    "Reads sent to a second backend because the first took long.",
    ("rpc",),
    is_late=True,
)
SHARED: Final = _counter(
    "metastore_proxy_shared_calls_total",
    Nodes.ROUTING,
    "Reads that took the answer to an identical one in flight.",
    ("rpc",),
    is_late=True,
)
CAP_REFUSED: Final = _counter(
    "metastore_proxy_fallbacks_refused_total",
    Nodes.ROUTING,
    "Reads that failed because the primaries take no more in place of replicas.",
    ("rpc",),
    is_late=True,
)
RESOLVE_FAILURES: Final = _counter(
    "metastore_proxy_resolve_failures_total",
    Nodes.ROUTING,
    "Times that the name of a target did not resolve.",
)
RETRY_BUDGET: Final = _gauge(
    "metastore_proxy_retry_budget",
    Nodes.ROUTING,
    "Attempts that may be added to calls now; below 1 nothing is tried again.",
    merge=Merge.SUM,
)
CAP_USED: Final = _gauge(
    "metastore_proxy_fallbacks_in_flight",
    Nodes.ROUTING,
    "Reads in flight at primaries for want of a replica.",
    merge=Merge.SUM,
)
CAP_LIMIT: Final = _gauge(
    "metastore_proxy_fallbacks_limit",
    Nodes.ROUTING,
    "How many of them there may be; +Inf without replicas, where primaries serve all.",
    merge=Merge.SUM,
)
MAX_LAG: Final = _gauge(
    "metastore_proxy_max_lag_seconds",
    Nodes.ROUTING,
    "The bound `proxy.max_lag` on the age of what a replica answers; +Inf without one.",
    merge=Merge.FIRST,
)
BACKEND_CALLS: Final = _counter(
    "metastore_proxy_backend_calls_total",
    Nodes.ROUTING,
    "Calls by backend and how they ended: success, error or cancelled.",
    (*_BACKEND, "status"),
    merge=Merge.SUM_OF_PRESENT,
)
EJECTIONS: Final = _counter(
    "metastore_proxy_backend_ejections_total",
    Nodes.ROUTING,
    "Times that a backend was left alone because too many calls failed.",
    _BACKEND,
    merge=Merge.SUM_OF_PRESENT,
)
BACKEND_ELIGIBLE: Final = _gauge(
    "metastore_proxy_backend_eligibility",
    Nodes.ROUTING,
    "1 for the reason that holds, 0 for the others; `eligible` is a backend that takes reads.",
    (*_BACKEND, "reason"),
    merge=Merge.FIRST,
)
BACKEND_LAG: Final = _gauge(
    "metastore_proxy_backend_lag_seconds",
    Nodes.ROUTING,
    "Upper bound of the age of a replica's data as this node sees it; NaN while unknown.",
    _BACKEND,
    merge=Merge.LARGEST,
)
BACKEND_LSN: Final = _gauge(
    "metastore_proxy_backend_lsn_bytes",
    Nodes.ROUTING,
    "Position in the WAL that a backend last told; NaN while unknown.",
    _BACKEND,
    merge=Merge.LEAST,
)
BACKEND_IN_FLIGHT: Final = _gauge(
    "metastore_proxy_backend_calls_in_flight",
    Nodes.ROUTING,
    "Calls of this node in flight at a backend.",
    _BACKEND,
    merge=Merge.SUM,
)
BACKEND_LATENCY: Final = _gauge(
    "metastore_proxy_backend_latency_seconds",
    Nodes.ROUTING,
    "Smoothed time that a backend takes to answer; NaN before its first answer.",
    _BACKEND,
    merge=Merge.LARGEST,
)

WORKERS: Final = _gauge(
    "metastore_proxy_workers",
    Nodes.WORKERS,
    "Worker processes: serving, not_ready, starting, or ended and about to be started again.",
    ("state",),
    merge=Merge.FIRST,
)
# Told by the parent, to whom it does not start anew with a worker.
WORKER_RESTARTS: Final = _counter(
    "metastore_proxy_worker_restarts_total",
    Nodes.WORKERS,
    "Times that a worker process ended and was started again.",
    ("worker",),
    merge=Merge.FIRST,
)

DECLARED: Final = tuple(found for found in list(globals().values()) if isinstance(found, Series))

# The library's own. Limits are summed like what they limit.
LIBRARYS: Final = {
    "process_cpu_seconds_total": Merge.SUM,
    "process_resident_memory_bytes": Merge.SUM,
    "process_virtual_memory_bytes": Merge.SUM,
    "process_open_fds": Merge.SUM,
    "process_max_fds": Merge.SUM,
    "process_start_time_seconds": Merge.LEAST,
    "python_info": Merge.FIRST,
}
