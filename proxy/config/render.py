"""The resolved configuration as text, with secrets redacted, for `check-config` and logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from proxy.config.durations import render_duration
from proxy.config.model import NodeConfig, TlsSettings
from proxy.config.redact import redact
from proxy.config.sizes import render_size
from proxy.config.telemetry import EXPORTER, METRICS_LABELS
from proxy.config.uri import PostgresUri

_FLAGS: Final = {
    "QW_POSTGRES_READ_ONLY": "read_only",
    "QW_POSTGRES_SKIP_MIGRATIONS": "skip_migrations",
    "QW_POSTGRES_SKIP_MIGRATION_LOCKING": "skip_migration_locking",
    "QW_POSTGRES_SKIP_DEFERRED_MIGRATIONS": "skip_deferred_migrations",
}


def describe(config: NodeConfig) -> dict[str, Any]:
    """Return the configuration by the keys of its file, plus the variables under `environment`.

    Passwords are replaced by `***redacted***`; durations and sizes are text as in the file.
    """
    result: dict[str, Any] = {
        "version": config.version,
        "cluster_id": config.cluster_id,
        "node_id": config.node_id,
        "availability_zone": config.availability_zone,
        "enabled_services": list(config.enabled_services),
        "listen_address": config.listen_address,
        "advertise_address": config.advertise_address,
        "rest": {"listen_port": config.rest_listen_port, **_tls(config.rest_tls)},
        "grpc_listen_port": config.grpc_listen_port,
        "gossip_listen_port": config.gossip_listen_port,
        "health": {"listen_port": config.health_listen_port},
        "gossip_interval_ms": round(config.gossip_interval * 1000),
        "gossip_protocol_version": config.gossip_protocol_version,
        "peer_seeds": list(config.peer_seeds),
        "data_dir": config.data_dir,
        "metastore_uri": _uri(config.metastore_uri),
        "metastore_read_replica_uri": _uri(config.metastore_read_replica_uri),
        "grpc": _grpc(config),
        "metastore": {"postgres": _pool(config)},
        "proxy": _proxy(config),
        "environment": _environment(config),
    }
    return {key: _redact_texts(value, config.secrets) for key, value in result.items()}


def render(config: NodeConfig) -> str:
    """Return `describe` as YAML; a comment tells where each value came from."""
    lines = [f"# role: {config.role.value}"]
    lines += _lines(describe(config), config, "", 0)
    return "\n".join(lines) + "\n"


def _environment(config: NodeConfig) -> dict[str, Any]:
    found: dict[str, Any] = {env: getattr(config.postgres, name) for env, name in _FLAGS.items()}
    labels = ",".join(f"{name}={value}" for name, value in config.metrics_labels)
    return {**found, EXPORTER: config.tracing.enabled, METRICS_LABELS: labels}


def _uri(uri: PostgresUri | None) -> str | None:
    return None if uri is None else uri.redacted


def _grpc(config: NodeConfig) -> dict[str, Any]:
    grpc = config.grpc
    result: dict[str, Any] = {"max_message_size": render_size(grpc.max_message_size)}
    if grpc.keep_alive_interval is not None and grpc.keep_alive_timeout is not None:
        result["keep_alive"] = {
            "interval": render_duration(grpc.keep_alive_interval),
            "timeout": render_duration(grpc.keep_alive_timeout),
        }
    for name in ("max_connection_age", "max_connection_age_grace"):
        seconds = getattr(grpc, name)
        result[name] = None if seconds is None else render_duration(seconds)
    return {**result, **_tls(grpc.tls)}


def _tls(tls: TlsSettings | None) -> dict[str, Any]:
    """The paths, never what the files hold; nothing for a port that speaks plain text."""
    if tls is None:
        return {}
    section = {
        "cert_path": tls.cert_path,
        "key_path": tls.key_path,
        "ca_path": tls.ca_path or None,
        "expected_name": tls.expected_name,
        "verify_client_cert": tls.verify_client_cert,
        "cert_poll_interval": render_duration(tls.cert_poll_interval),
    }
    return {"tls": section}


def _pool(config: NodeConfig) -> dict[str, Any]:
    pool = config.pool
    return {
        "min_connections": pool.min_connections,
        "max_connections": pool.max_connections,
        "acquire_connection_timeout": render_duration(pool.acquire_timeout),
        "idle_connection_timeout": render_duration(pool.idle_timeout or 0),
        "max_connection_lifetime": render_duration(pool.max_lifetime or 0),
    }


def _proxy(config: NodeConfig) -> dict[str, Any]:
    proxy = config.proxy
    return {
        "discovery": proxy.discovery,
        "primary": list(proxy.primary),
        "replicas": list(proxy.replicas),
        "probe_interval": render_duration(proxy.probe_interval),
        "heartbeat_interval": render_duration(proxy.heartbeat_interval or 0),
        "drain_timeout": render_duration(proxy.drain_timeout),
        "shutdown_delay": render_duration(proxy.shutdown_delay),
        "min_lsn_wait": render_duration(proxy.min_lsn_wait),
        "stalled_stream_timeout": render_duration(proxy.stalled_stream_timeout or 0),
        "forward": proxy.forward,
        "max_lag": None if proxy.max_lag is None else render_duration(proxy.max_lag),
        "serve_stale": proxy.serve_stale,
        "fallback_concurrency": proxy.fallback_concurrency,
        "retry_ratio": proxy.retry_ratio,
        "retry_reserve": proxy.retry_reserve,
        "hedge_delay": render_duration(proxy.hedge_delay or 0),
        "slow_start": render_duration(proxy.slow_start),
        "freshness_interval": render_duration(proxy.freshness_interval),
        "gossip": proxy.gossip,
        "workers": proxy.workers,
        "router": {"advertise_as": list(proxy.router.advertise_as) or "none"},
        "log_format": proxy.log_format,
        "log_level": proxy.log_level,
        "slow_query_threshold": render_duration(proxy.slow_query_threshold or 0),
    }


def _redact_texts(value: object, secrets: tuple[str, ...]) -> object:
    """Redact strings wherever a secret was repeated, whatever the key."""
    if isinstance(value, dict):
        return {key: _redact_texts(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_texts(item, secrets) for item in value]
    if not isinstance(value, str):
        return value
    # The scheme of a URI stays readable even if the password is a part of it.
    scheme = "postgresql://" if value.startswith("postgresql://") else ""
    return scheme + redact(value.removeprefix(scheme), secrets)


def _lines(section: dict[str, Any], config: NodeConfig, prefix: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            nested = "" if name == "environment" else f"{name}."
            yield from _lines(value, config, nested, depth + 1)
            continue
        # JSON scalars and lists are YAML as well, and quote whatever needs quotes.
        text = json.dumps(value, ensure_ascii=False)
        origin = _origin(config, name)
        yield f"{indent}{key}: {text}" + (f"  # {origin}" if origin else "")


def _origin(config: NodeConfig, name: str) -> str:
    for section in ("metastore.pg.", "metastore.postgresql."):
        alias = name.replace("metastore.postgres.", section)
        if alias in config.origins and name not in config.origins:
            return config.origins[alias]
    return config.origins.get(name, "")
