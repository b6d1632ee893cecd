"""The node's configuration: Quickwit's node config file, `QW_*` variables, our `proxy:` section."""

from proxy.config.load import config_path, load_config, load_health_endpoint
from proxy.config.model import (
    GrpcSettings,
    NodeConfig,
    PoolSettings,
    PostgresFlags,
    ProxySettings,
    TlsSettings,
    Worker,
)
from proxy.config.problems import ConfigError
from proxy.config.redact import REDACTED, redact
from proxy.config.render import describe, render
from proxy.config.uri import PostgresUri
from proxy.config.uri_parsing import parse_postgres_uri

__all__ = [
    "REDACTED",
    "ConfigError",
    "GrpcSettings",
    "NodeConfig",
    "PoolSettings",
    "PostgresFlags",
    "PostgresUri",
    "ProxySettings",
    "TlsSettings",
    "Worker",
    "config_path",
    "describe",
    "load_config",
    "load_health_endpoint",
    "parse_postgres_uri",
    "redact",
    "render",
]
