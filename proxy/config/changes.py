"""What a changed configuration means to a node that runs: what it can take up, and what not.

`merge` gives the configuration that is then in force: the old one, with the values of the new one
for the keys that can be reloaded. That mixture must make sense by itself, since it holds until the
node is restarted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from proxy.config.model import NodeConfig, TlsSettings
from proxy.config.problems import ConfigError, Findings
from proxy.config.render import describe
from proxy.config.validate import check_client_tls, check_routing

# Keys of `proxy` that a running node takes up.
_OF_PROXY: Final = (
    "primary",
    "replicas",
    "max_lag",
    "serve_stale",
    "fallback_concurrency",
    "retry_ratio",
    "retry_reserve",
    "hedge_delay",
    "slow_start",
    "freshness_interval",
    "min_lsn_wait",
    "slow_query_threshold",
    "log_level",
    "log_format",
    "shutdown_delay",
    "drain_timeout",
)
_RELOADABLE: Final = frozenset(f"proxy.{name}" for name in _OF_PROXY)
_TLS: Final = ("grpc.tls", "rest.tls")
# Their text form hides the password, which may be what changed.
_URIS: Final = ("metastore_uri", "metastore_read_replica_uri")


@dataclass(frozen=True)
class Changes:
    """What differs between the configuration in force and a new one.

    `config` is what is in force once the change is taken up. `applied` are the keys that are, each
    with its old and new value, and `pending` those that stay as they are until a restart. Neither
    shows a secret.
    """

    config: NodeConfig
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def changes(old: NodeConfig, new: NodeConfig) -> Changes:
    """Compare two checked configurations of one node.

    `ConfigError` when what can be taken up makes no sense without what cannot.
    """
    before, after = _flat(describe(old)), _flat(describe(new))
    applied: list[str] = []
    pending = [key for key in _URIS if getattr(old, key) != getattr(new, key)]
    taken: list[str] = []
    for key in dict.fromkeys((*before, *after)):
        was, now = before.get(key), after.get(key)
        if was == now or key in pending or _is_drawn(key, old, new):
            continue
        if key in _RELOADABLE or _is_of_tls(key, old, new):
            applied.append(f"{key}: {json.dumps(was)} -> {json.dumps(now)}")
            taken.append(key)
        else:
            # Left are sections for TLS that came or went, each as a whole.
            section = next((one for one in _TLS if key.startswith(f"{one}.")), key)
            pending += [] if section in pending else [section]
    return Changes(_merge(old, new, taken, pending), tuple(applied), tuple(pending))


def _merge(old: NodeConfig, new: NodeConfig, taken: list[str], pending: list[str]) -> NodeConfig:
    origins = {**old.origins, **{key: new.origins[key] for key in taken if key in new.origins}}
    merged = replace(
        old,
        proxy=replace(old.proxy, **{name: getattr(new.proxy, name) for name in _OF_PROXY}),
        grpc=replace(old.grpc, tls=_tls(old.grpc.tls, new.grpc.tls)),
        rest_tls=_tls(old.rest_tls, new.rest_tls),
        warnings=new.warnings,
        secrets=tuple(dict.fromkeys((*old.secrets, *new.secrets))),
        origins=MappingProxyType(origins),
    )
    findings = Findings()
    check_routing(merged.role, merged.proxy, merged.peer_seeds, findings)
    check_client_tls(merged, findings)
    if findings.errors:
        keys = ", ".join(f"`{key}`" for key in pending)
        raise ConfigError(
            *(f"{error} (the rest needs a restart: {keys})" for error in findings.errors),
            where="what can be reloaded of the new configuration",
        )
    return merged


def _tls(old: TlsSettings | None, new: TlsSettings | None) -> TlsSettings | None:
    """Return the section in force: a port does not change between TLS and plain text."""
    return old if old is None or new is None else new


def _is_of_tls(key: str, old: NodeConfig, new: NodeConfig) -> bool:
    if key.startswith("grpc.tls."):
        return old.grpc.tls is not None and new.grpc.tls is not None
    if key.startswith("rest.tls."):
        return old.rest_tls is not None and new.rest_tls is not None
    return False


def _is_drawn(key: str, old: NodeConfig, new: NodeConfig) -> bool:
    """Tell whether a value is made up at each load, and nobody changed it."""
    return key == "node_id" and old.origins.get(key) == new.origins.get(key) == "default"


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_items(section, prefix))


def _items(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _items(value, "" if key == "environment" else f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
