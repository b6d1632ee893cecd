"""Loading a node's configuration: file, environment and command line into one frozen object.

Facts: keys, variables, defaults and precedence (command line, environment, file, default) are
those of Quickwit's node config. Sections that are not ours are not looked into.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

from proxy.config.formats import read_document
from proxy.config.model import (
    DEFAULT_CLUSTER_ID,
    ROUTER_CONNECTION_AGE,
    GrpcSettings,
    NodeConfig,
    TlsSettings,
)
from proxy.config.place import host_of
from proxy.config.problems import ConfigError, Findings, nearest, quoted, shape
from proxy.config.redact import secret_forms
from proxy.config.sections import (
    SECTIONS,
    load_flags,
    load_grpc,
    load_pool,
    load_proxy,
    load_tls,
)
from proxy.config.telemetry import load_metrics_labels, load_tracing, secrets_of
from proxy.config.uri import PostgresUri
from proxy.config.validate import (
    check_client_tls,
    check_drain,
    check_grpc,
    check_pool,
    check_ports,
    check_role,
    check_routing,
    check_seeds,
    check_services,
    check_uri,
    is_host,
    is_hostname,
)
from proxy.config.values import (
    BOOLEAN,
    OPTIONAL_STRING,
    PORT,
    STRING,
    STRINGS,
    Values,
    integer,
    optional,
)
from proxy.identifiers import identifier_problem
from proxy.roles import DEFAULT_SERVICES, Role

VERSIONS: Final = ("0.8", "0.7")
_TOP_LEVEL: Final = {
    "advertise_address",
    "availability_zone",
    "cluster_id",
    "compactor",
    "data_dir",
    "default_index_root_uri",
    "docs_clustering",
    "enable_standalone_compactors",
    "enabled_services",
    "gossip_interval_ms",
    "gossip_listen_port",
    "gossip_protocol_version",
    "grpc",
    "grpc_listen_port",
    "health",
    "indexer",
    "ingest_api",
    "jaeger",
    "listen_address",
    "metastore",
    "metastore_read_replica_uri",
    "metastore_uri",
    "node_id",
    "peer_seeds",
    "proxy",
    "rest",
    "rest_listen_port",
    "searcher",
    "storage",
    "version",
}


def config_path(argument: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file: the `--config` argument, else `QW_CONFIG`, else None."""
    given = str(argument or environ.get("QW_CONFIG", ""))
    return Path(given.removeprefix("file://")) if given else None


def load_config(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    services: Sequence[str] | None = None,
    hostname: str | None = None,
    is_node: bool = True,
) -> NodeConfig:
    """Load and check a node's configuration.

    `services` are those of the command line and beat all others. `hostname` stands in for the
    machine's name in the default of `node_id`. Without a file, environment and defaults remain.
    Without `is_node` it is for a caller of nodes, who needs nothing that a role does.
    `ConfigError` with every problem found, none of which shows a secret.
    """
    findings = Findings()
    document = {} if path is None else read_document(path, environ, findings)
    version = "0.8" if path is None else _version(document, findings)
    _check_top_level(document, findings)
    values = Values(document, environ, findings)
    for key, known in SECTIONS.items():
        values.section(key, known)
    enabled, role = _services(values, services, findings)
    needing = role if is_node else None
    config = NodeConfig(
        role=role or Role.METASTORE,
        enabled_services=enabled,
        version=version,
        **_identity(values, hostname, findings),
        **_network(values, findings),
        metastore_uri=_uri(values, Role.METASTORE, needing, environ, findings),
        metastore_read_replica_uri=_uri(values, Role.READ_REPLICA, needing, environ, findings),
        peer_seeds=_seeds(values, findings),
        data_dir=values.get("data_dir", STRING, "qwdata", env="QW_DATA_DIR"),
        grpc=_grpc(values, role, findings),
        rest_tls=load_tls("rest.tls", values, findings),
        pool=load_pool(values, findings),
        postgres=load_flags(values),
        proxy=load_proxy(values, findings),
        tracing=load_tracing(values, findings),
        metrics_labels=load_metrics_labels(values, findings),
    )
    check_grpc(config.grpc, findings)
    check_client_tls(config, findings)
    check_drain(config.proxy, findings)
    check_pool(config.pool, findings)
    check_routing(needing, config.proxy, config.peer_seeds, findings)
    _check_searcher(values, enabled, findings)
    if findings.errors:
        raise ConfigError(*findings.errors, where="" if path is None else f"`{path}`")
    secrets = _secrets(config, environ)
    return replace(
        config,
        warnings=tuple(findings.warnings),
        secrets=secrets,
        origins=MappingProxyType(values.origins),
    )


def load_health_endpoint(
    path: Path | None, environ: Mapping[str, str]
) -> tuple[str, int, TlsSettings | None]:
    """Return where a node with this configuration tells its health: address, port, its TLS.

    Neither the role nor what only it needs matters. `ConfigError` for what does.
    """
    findings = Findings()
    document = {} if path is None else read_document(path, environ, findings)
    values = Values(document, environ, findings)
    network = _network(values, findings)
    tls = load_tls("rest.tls", values, findings)
    if findings.errors:
        raise ConfigError(*findings.errors, where="" if path is None else f"`{path}`")
    address = host_of(network["listen_address"])
    if (port := network["health_listen_port"]) is not None:
        return address, port, None
    return address, network["rest_listen_port"], tls


def _version(document: Mapping[str, Any], findings: Findings) -> str:
    given = document.get("version")
    if given is None:
        findings.error('`version` is missing: add `version: "0.8"`')
    elif isinstance(given, bool) or str(given) not in VERSIONS:
        text = f"it is `{given}`" if isinstance(given, int | float) else f"it is {shape(given)}"
        findings.error(f"`version` must be `0.8` or `0.7`, {text}")
    return str(given) if str(given) in VERSIONS else VERSIONS[0]


def _check_top_level(document: Mapping[str, Any], findings: Findings) -> None:
    for key in document:
        if key not in _TOP_LEVEL:
            findings.warn(f"unknown key {quoted(key)} is ignored: {_hint(key)}")


def _hint(key: object) -> str:
    hint = nearest(key, _TOP_LEVEL)
    return hint if hint.startswith("did") else "no key of the node configuration is like it"


def _services(
    values: Values, command_line: Sequence[str] | None, findings: Findings
) -> tuple[tuple[str, ...], Role | None]:
    key = "enabled_services"
    names = values.get(key, STRINGS, DEFAULT_SERVICES, env="QW_ENABLED_SERVICES")
    if command_line:
        names, values.origins[key] = tuple(command_line), "cli --service"
    origin = values.origins[key]
    label = f"`{key}`" if origin in ("file", "default") else f"`{key}` ({origin})"
    errors = len(findings.errors)
    enabled = check_services(names, label, findings)
    if len(findings.errors) > errors:
        return enabled, None
    return enabled, check_role(enabled, is_default=origin == "default", findings=findings)


def _identity(values: Values, hostname: str | None, findings: Findings) -> dict[str, Any]:
    cluster_id = values.get("cluster_id", STRING, DEFAULT_CLUSTER_ID, env="QW_CLUSTER_ID")
    if problem := identifier_problem("cluster", cluster_id):
        findings.error(f"`cluster_id`: {problem}")
    node_id = values.get("node_id", OPTIONAL_STRING, None, env="QW_NODE_ID")
    if node_id is None:
        node_id = _default_node_id(hostname, findings)
    elif not is_hostname(node_id):
        findings.error(
            "`node_id` must be a valid short host name (see RFC 1123): letters, digits and `-`, "
            "at most 63 characters between dots"
        )
    # Empty is how Kubernetes says that it does not know a pod's zone: nothing to warn of.
    zone = "QW_AVAILABILITY_ZONE" if values.variable("QW_AVAILABILITY_ZONE") else ""
    return {
        "cluster_id": cluster_id,
        "node_id": node_id,
        "availability_zone": values.get("availability_zone", OPTIONAL_STRING, None, env=zone),
    }


def _grpc(values: Values, role: Role | None, findings: Findings) -> GrpcSettings:
    grpc = load_grpc(values, findings)
    if role is Role.ROUTER and values.origins["grpc.max_connection_age"] == "default":
        return replace(grpc, max_connection_age=ROUTER_CONNECTION_AGE)
    return grpc


def _default_node_id(hostname: str | None, findings: Findings) -> str:
    short = (socket.gethostname() if hostname is None else hostname).partition(".")[0]
    if is_hostname(short):
        return short
    node_id = f"node-{uuid4().hex[:8]}"
    findings.warn(f"the host name is not a valid node ID: using `{node_id}`, set `node_id`")
    return node_id


def _network(values: Values, findings: Findings) -> dict[str, Any]:
    listen = values.get("listen_address", STRING, "127.0.0.1", env="QW_LISTEN_ADDRESS")
    advertise = values.get("advertise_address", OPTIONAL_STRING, None, env="QW_ADVERTISE_ADDRESS")
    for key, address in (("listen_address", listen), ("advertise_address", advertise)):
        if address is not None and not is_host(address):
            findings.error(f"`{key}` must be an IP address or a host name, without a port")
    if advertise is None and listen not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        advertise = listen
    rest = _rest_port(values, findings)
    # A port of 0 is chosen by the system, and so is then the one derived from it.
    grpc = values.get("grpc_listen_port", PORT, rest + 1 if rest else 0, env="QW_GRPC_LISTEN_PORT")
    if grpc > 65535:
        findings.error(
            "`grpc_listen_port` is `rest.listen_port` + 1 by default, which is no port: set it"
        )
    gossip = values.get("gossip_listen_port", PORT, rest, env="QW_GOSSIP_LISTEN_PORT")
    health = values.get("health.listen_port", optional(PORT), None, env="QW_HEALTH_LISTEN_PORT")
    check_ports(
        {"rest.listen_port": rest, "grpc_listen_port": grpc, "health.listen_port": health}, findings
    )
    interval = values.get(
        "gossip_interval_ms", integer(1, 0xFFFFFFFF), 1000, env="QW_GOSSIP_INTERVAL_MS"
    )
    version = values.get(
        "gossip_protocol_version", integer(0, 1), 0, env="QW_GOSSIP_PROTOCOL_VERSION"
    )
    return {
        "listen_address": listen,
        "advertise_address": advertise,
        "rest_listen_port": rest,
        "grpc_listen_port": grpc,
        "gossip_listen_port": gossip,
        "health_listen_port": health,
        "gossip_interval": interval / 1000,
        "gossip_protocol_version": version,
    }


def _seeds(values: Values, findings: Findings) -> tuple[str, ...]:
    seeds = values.get("peer_seeds", STRINGS, (), env="QW_PEER_SEEDS")
    return check_seeds(seeds, findings)


def _rest_port(values: Values, findings: Findings) -> int:
    if values.is_given("rest_listen_port"):
        if values.is_given("rest.listen_port"):
            findings.error(
                "conflicting configuration values: remove `rest_listen_port`, which is "
                "deprecated, and use only `rest.listen_port`"
            )
        findings.warn("`rest_listen_port` is deprecated: use `rest.listen_port` instead")
    return values.get(
        "rest.listen_port", PORT, 7280, env="QW_REST_LISTEN_PORT", aliases=["rest_listen_port"]
    )


def _uri(
    values: Values,
    owner: Role,
    role: Role | None,
    environ: Mapping[str, str],
    findings: Findings,
) -> PostgresUri | None:
    """Return the URI of one role, which must be there if the node has this role."""
    is_replica = owner is Role.READ_REPLICA
    key = "metastore_read_replica_uri" if is_replica else "metastore_uri"
    errors = len(findings.errors)
    text = values.get(key, OPTIONAL_STRING, None, env=f"QW_{key.upper()}")
    if len(findings.errors) > errors:
        return None
    needed_by = owner if role is owner else None
    uri = check_uri(key, text, needed_by=needed_by, strict=is_replica, findings=findings)
    # The driver takes the password from there, and its errors may show it.
    if uri is not None and uri.password is None and (password := environ.get("PGPASSWORD")):
        return replace(uri, secrets=(*uri.secrets, *secret_forms(password)))
    return uri


def _check_searcher(values: Values, enabled: Sequence[str], findings: Findings) -> None:
    uses_replica = values.get("searcher.use_metastore_read_replica", BOOLEAN, False)
    if uses_replica and {"searcher", Role.METASTORE.value} <= set(enabled):
        findings.error(
            "`searcher.use_metastore_read_replica` cannot be enabled on a node running the "
            "`metastore` service: set `enabled_services: [metastore]`"
        )


def _secrets(config: NodeConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    forms = {*secret_forms(environ.get("PGPASSWORD", "")), *secrets_of(environ)}
    for uri in (config.metastore_uri, config.metastore_read_replica_uri):
        forms.update(uri.secrets if uri is not None else ())
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))
