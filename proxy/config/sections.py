"""The sections of the configuration file that concern us: `grpc`, `metastore.postgres`, `proxy`.

Facts: keys, aliases and defaults of `rest`, `health`, `grpc` and `metastore` are Quickwit's, which
refuses unknown keys in them; `proxy` is ours and does the same.
"""

from __future__ import annotations

from typing import Any, Final

from proxy.config.model import (
    GrpcSettings,
    PoolSettings,
    PostgresFlags,
    ProxySettings,
    RouterSettings,
    TlsSettings,
)
from proxy.config.problems import Findings
from proxy.config.telemetry import load_log_format, load_log_level
from proxy.config.validate import MAX_MESSAGE_SIZE, check_targets, check_tls
from proxy.config.values import (
    BOOLEAN,
    OPTIONAL_STRING,
    SIZE,
    STRING,
    STRINGS,
    Kind,
    Values,
    choice,
    duration,
    duration_or_never,
    integer,
    number,
    optional,
    words_or_none,
)
from proxy.roles import Role

_POOL_KEYS: Final = (
    "min_connections",
    "max_connections",
    "max_num_connections",
    "acquire_connection_timeout",
    "idle_connection_timeout",
    "max_connection_lifetime",
)
# More than any machine has a use for.
MOST_WORKERS: Final = 64
# What a router may be to Quickwit's nodes.
ADVERTISED: Final = (Role.READ_REPLICA.value, Role.METASTORE.value)
_BACKENDS: Final = ("postgres", "pg", "postgresql")

_TLS_KEYS: Final = (
    "cert_path",
    "key_path",
    "ca_path",
    "expected_name",
    "verify_client_cert",
    "validate_client",
    "cert_poll_interval",
    "cert_reload_interval",
)

_TLS_ALIASES: Final = {
    "verify_client_cert": "validate_client",
    "cert_poll_interval": "cert_reload_interval",
}

# Every section that is checked, by its key, with the keys it may have.
SECTIONS: Final = {
    "rest": (
        "listen_port",
        "cors_allow_origins",
        "extra_headers",
        "tls",
        "max_connection_age",
        "max_connection_age_grace",
    ),
    "health": ("listen_port",),
    "grpc": (
        "max_message_size",
        "tls",
        "keep_alive",
        "max_connection_age",
        "max_connection_age_grace",
    ),
    "grpc.keep_alive": ("interval", "timeout"),
    "grpc.tls": _TLS_KEYS,
    "rest.tls": _TLS_KEYS,
    "metastore": ("file", *_BACKENDS),
    **{f"metastore.{backend}": _POOL_KEYS for backend in _BACKENDS},
    "proxy": tuple(ProxySettings.__dataclass_fields__),
    "proxy.router": tuple(RouterSettings.__dataclass_fields__),
}


def load_grpc(values: Values, findings: Findings) -> GrpcSettings:
    """Return the `grpc` section."""
    size = values.get("grpc.max_message_size", SIZE, GrpcSettings.max_message_size)
    if size > MAX_MESSAGE_SIZE:
        findings.warn(f"`grpc.max_message_size` is lowered to {MAX_MESSAGE_SIZE} bytes")
        size = MAX_MESSAGE_SIZE
    interval = timeout = None
    if values.is_given("grpc.keep_alive"):
        positive = duration(positive=True)
        interval = values.get("grpc.keep_alive.interval", positive, 10.0)
        timeout = values.get("grpc.keep_alive.timeout", positive, 5.0)
    return GrpcSettings(
        max_message_size=size,
        keep_alive_interval=interval,
        keep_alive_timeout=timeout,
        max_connection_age=values.get(
            "grpc.max_connection_age", optional(duration(positive=True)), None
        ),
        max_connection_age_grace=values.get(
            "grpc.max_connection_age_grace", optional(duration()), None
        ),
        tls=load_tls("grpc.tls", values, findings),
    )


def load_tls(section: str, values: Values, findings: Findings) -> TlsSettings | None:
    """Return `grpc.tls` or `rest.tls`; None when it is not there."""
    if not values.is_given(section):
        return None
    for name, alias in _TLS_ALIASES.items():
        if values.is_given(f"{section}.{name}") and values.is_given(f"{section}.{alias}"):
            findings.error(f"`{section}.{name}` and its alias `{alias}` are both given: keep one")
    settings = TlsSettings(
        cert_path=values.get(f"{section}.cert_path", STRING, ""),
        key_path=values.get(f"{section}.key_path", STRING, ""),
        ca_path=values.get(f"{section}.ca_path", STRING, ""),
        expected_name=values.get(f"{section}.expected_name", OPTIONAL_STRING, None),
        verify_client_cert=values.get(
            f"{section}.verify_client_cert",
            BOOLEAN,
            False,
            aliases=[f"{section}.{_TLS_ALIASES['verify_client_cert']}"],
        ),
        cert_poll_interval=values.get(
            f"{section}.cert_poll_interval",
            duration(positive=True),
            TlsSettings.cert_poll_interval,
            aliases=[f"{section}.{_TLS_ALIASES['cert_poll_interval']}"],
        ),
    )
    check_tls(section, settings, findings)
    return settings


def load_pool(values: Values, findings: Findings) -> PoolSettings:
    """Return the pool settings of the one PostgreSQL section there may be."""
    given = [name for name in _BACKENDS if values.is_given(f"metastore.{name}")]
    if len(given) > 1:
        names = " and ".join(f"`metastore.{name}`" for name in given)
        findings.error(
            f"PostgreSQL metastore config is defined multiple times: keep one of {names}"
        )
    section = f"metastore.{given[0]}" if given else "metastore.postgres"
    if values.is_given(f"{section}.max_connections") and values.is_given(
        f"{section}.max_num_connections"
    ):
        findings.error(
            f"`{section}.max_connections` and its alias `max_num_connections` are both given: "
            "keep one"
        )
    count = 1_000_000
    defaults = PoolSettings()

    def key_of(key: str) -> str:
        return f"{section}.{key}"

    return PoolSettings(
        min_connections=values.get(
            key_of("min_connections"), integer(0, count), defaults.min_connections
        ),
        max_connections=values.get(
            key_of("max_connections"),
            integer(1, count),
            defaults.max_connections,
            aliases=[key_of("max_num_connections")],
        ),
        acquire_timeout=values.get(
            key_of("acquire_connection_timeout"),
            duration(positive=True),
            defaults.acquire_timeout,
        ),
        idle_timeout=values.get(
            key_of("idle_connection_timeout"), duration_or_never(), defaults.idle_timeout
        ),
        max_lifetime=values.get(
            key_of("max_connection_lifetime"), duration_or_never(), defaults.max_lifetime
        ),
    )


def load_flags(values: Values) -> PostgresFlags:
    """Return the `QW_POSTGRES_*` variables."""
    return PostgresFlags(
        read_only=values.flag("QW_POSTGRES_READ_ONLY"),
        skip_migrations=values.flag("QW_POSTGRES_SKIP_MIGRATIONS"),
        skip_migration_locking=values.flag("QW_POSTGRES_SKIP_MIGRATION_LOCKING"),
        skip_deferred_migrations=values.flag("QW_POSTGRES_SKIP_DEFERRED_MIGRATIONS"),
    )


def load_proxy(values: Values, findings: Findings) -> ProxySettings:
    """Return our own section."""
    defaults = ProxySettings()
    primary = values.get("proxy.primary", STRINGS, ())
    replicas = values.get("proxy.replicas", STRINGS, ())
    return ProxySettings(
        discovery=values.get("proxy.discovery", choice("static", "gossip"), defaults.discovery),
        primary=check_targets("proxy.primary", primary, findings),
        replicas=check_targets("proxy.replicas", replicas, findings),
        probe_interval=values.get(
            "proxy.probe_interval", duration(positive=True), defaults.probe_interval
        ),
        heartbeat_interval=values.get(
            "proxy.heartbeat_interval", duration_or_never(), defaults.heartbeat_interval
        ),
        drain_timeout=values.get("proxy.drain_timeout", duration(), defaults.drain_timeout),
        shutdown_delay=values.get("proxy.shutdown_delay", duration(), defaults.shutdown_delay),
        min_lsn_wait=values.get("proxy.min_lsn_wait", duration(), defaults.min_lsn_wait),
        stalled_stream_timeout=values.get(
            "proxy.stalled_stream_timeout", duration_or_never(), defaults.stalled_stream_timeout
        ),
        forward=values.get("proxy.forward", BOOLEAN, defaults.forward),
        gossip=values.get("proxy.gossip", BOOLEAN, defaults.gossip),
        workers=values.get(
            "proxy.workers",
            integer(1, MOST_WORKERS),
            defaults.workers,
            env="METASTORE_PROXY_WORKERS",
        ),
        router=RouterSettings(
            advertise_as=values.get(
                "proxy.router.advertise_as",
                words_or_none(*ADVERTISED),
                defaults.router.advertise_as,
            )
        ),
        **_load_routing(values, defaults),
        log_format=load_log_format(values, defaults.log_format),
        log_level=load_log_level(values, defaults.log_level),
        slow_query_threshold=values.get(
            "proxy.slow_query_threshold", duration_or_never(), defaults.slow_query_threshold
        ),
    )


def _load_routing(values: Values, defaults: ProxySettings) -> dict[str, Any]:
    positive = duration(positive=True)
    kinds: dict[str, Kind[Any]] = {
        "max_lag": optional(positive),
        "serve_stale": BOOLEAN,
        "fallback_concurrency": integer(0, 1_000_000),
        "retry_ratio": number(0.0, 1.0),
        "retry_reserve": integer(0, 1_000_000),
        "hedge_delay": duration_or_never(),
        "slow_start": duration(),
        "freshness_interval": positive,
    }
    return {
        name: values.get(f"proxy.{name}", kind, getattr(defaults, name))
        for name, kind in kinds.items()
    }
