"""The rules that a configuration must keep beyond the types of its values.

Facts: the rules on roles, IDs, addresses and sizes, and the key phrases of their messages, are
Quickwit's. Ours: that only PostgreSQL and only our roles are served, and targets.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Final

from proxy.config.model import GrpcSettings, NodeConfig, PoolSettings, ProxySettings, TlsSettings
from proxy.config.problems import ConfigError, Findings, nearest, quoted
from proxy.config.uri import PostgresUri
from proxy.config.uri_parsing import parse_postgres_uri, scheme_of
from proxy.roles import SERVICE_NAMES, Role
from proxy.routing.targets import TARGET_FORMS, parse_seed, parse_target

MIN_MESSAGE_SIZE: Final = 1_000_000
MAX_MESSAGE_SIZE: Final = 0x7FFFFFFF

# Schemes that Quickwit knows; any other does not parse.
_OTHER_SCHEMES: Final = ("actor", "azure", "file", "grpc", "gs", "ram", "s3")
_EXAMPLE: Final = "`postgresql://user@host:5432/database`"
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?")


def is_hostname(text: str) -> bool:
    """Whether a text is a host name by RFC 1123."""
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def is_host(text: str) -> bool:
    """Whether a text is an IP address without brackets or a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return is_hostname(text)
    return True


def check_targets(key: str, targets: Sequence[str], findings: Findings) -> tuple[str, ...]:
    """Return targets without repetitions; what is wrong with one is noted by its position."""
    for position, target in enumerate(targets, 1):
        try:
            parse_target(target)
        except ValueError:
            # Its own text quotes the item, which may be a pasted URI with a password.
            findings.error(
                f"`{key}` item {position} must be {TARGET_FORMS}, with a port from 1 to 65535"
            )
        if target in targets[: position - 1]:
            findings.warn(f"`{key}` item {position} repeats an earlier one and is ignored")
    return tuple(dict.fromkeys(targets))


def check_seeds(seeds: Sequence[str], findings: Findings) -> tuple[str, ...]:
    """Return the gossip addresses of other nodes, each once; a malformed one is noted."""
    for position, seed in enumerate(seeds, 1):
        try:
            parse_seed(seed, 0)
        except ValueError:
            findings.error(
                f"`peer_seeds` item {position} must be a host, `host:port` or `[v6]:port`, with a "
                "port from 1 to 65535; without a port the node's own gossip port is meant"
            )
    return tuple(dict.fromkeys(seeds))


def check_services(names: Sequence[str], label: str, findings: Findings) -> tuple[str, ...]:
    """Return canonical service names, each once; an unknown one is noted."""
    for name in names:
        if name not in SERVICE_NAMES:
            findings.error(
                f"{label} has an unknown service {quoted(name)}: {nearest(name, SERVICE_NAMES)}"
            )
    return tuple(dict.fromkeys(SERVICE_NAMES[name] for name in names if name in SERVICE_NAMES))


def check_role(services: Sequence[str], *, is_default: bool, findings: Findings) -> Role | None:
    """Return the role among the enabled services; None, and an error noted, if there is none."""
    for role in (Role.READ_REPLICA, Role.ROUTER):
        if role.value not in services:
            continue
        if len(services) > 1:
            findings.error(
                f"the `{role.value}` service must run standalone and cannot be combined "
                f"with any other service: set `enabled_services: [{role.value}]` or run "
                f"with `--service {role.value}`"
            )
            return None
        return role
    if Role.METASTORE.value in services:
        others = ", ".join(f"`{name}`" for name in services if name != Role.METASTORE.value)
        if is_default:
            findings.warn(
                "`enabled_services` is not set: of Quickwit's default services only `metastore` "
                "is served here; set `enabled_services: [metastore]`"
            )
        elif others:
            findings.warn(f"only `metastore` is served here: {others} must run in Quickwit nodes")
        return Role.METASTORE
    only = ", only " + ", ".join(f"`{name}`" for name in services) if services else ""
    findings.error(
        f"`enabled_services` has no role that is served here{only}: set it to `[metastore]`, "
        "`[metastore_read_replica]` or `[metastore_router]`, or run with `--service metastore`; "
        "other services run in Quickwit's own nodes"
    )
    return None


def check_uri(
    key: str, text: str | None, *, needed_by: Role | None, strict: bool, findings: Findings
) -> PostgresUri | None:
    """Return a database URI, or None when it is absent or of another kind and not needed.

    One that is needed must be there and be PostgreSQL. One that does not parse is an error when
    it is needed or the key is `strict`, else a warning.
    """
    if text is None:
        if needed_by is not None:
            findings.error(
                f"the `{needed_by.value}` service requires `{key}` to be set: "
                f"give it a PostgreSQL URI such as {_EXAMPLE}"
            )
        return None
    scheme = scheme_of(text)
    if scheme in _OTHER_SCHEMES:
        if needed_by is not None:
            found = f"its scheme is `{scheme}`" if "://" in text else "it has no scheme"
            findings.error(
                f"`{key}` must be a PostgreSQL URI, {found}: only the PostgreSQL backend is "
                f"supported, use {_EXAMPLE}"
            )
        return None
    try:
        uri = parse_postgres_uri(text, key=key)
    except ConfigError as error:
        problem = error.problems[0]
        if needed_by is not None or strict:
            findings.error(problem)
        else:
            findings.warn(f"{problem} (not used by this role)")
        return None
    for warning in uri.warnings:
        findings.warn(f"`{key}`: {warning}")
    return uri


def check_ports(ports: Mapping[str, int | None], findings: Findings) -> None:
    """Note keys that name the same TCP port; 0 is chosen by the system."""
    owners: dict[int, str] = {}
    for key, port in ports.items():
        if port and owners.setdefault(port, key) != key:
            findings.error(f"`{key}` and `{owners[port]}` are both {port}: each needs its own port")


def check_grpc(grpc: GrpcSettings, findings: Findings) -> None:
    """Note what the gRPC server cannot do."""
    if grpc.max_message_size < MIN_MESSAGE_SIZE:
        findings.error(
            "`grpc.max_message_size` must be at least 1MB (1000000 bytes), "
            f"it is {grpc.max_message_size} bytes"
        )
    if grpc.max_connection_age_grace is not None and grpc.max_connection_age is None:
        findings.error(
            "`grpc.max_connection_age_grace` requires `grpc.max_connection_age` to be set: "
            "set it, or remove the grace"
        )


def check_tls(section: str, tls: TlsSettings, findings: Findings) -> None:
    """Note what a section for TLS lacks. The files themselves are looked at when a node starts."""
    for name in ("cert_path", "key_path"):
        if not getattr(tls, name):
            findings.error(f"`{section}` requires `{section}.{name}` to be set: name a PEM file")
    if tls.verify_client_cert and not tls.ca_path:
        findings.error(
            f"`{section}.verify_client_cert` requires `{section}.ca_path` to be set: name a PEM "
            "file with the CA that signs the clients' certificates"
        )
    if tls.expected_name is not None and section == "rest.tls":
        findings.warn(f"`{section}.expected_name` has no effect: it is for clients of gRPC")
    elif tls.expected_name is not None and not is_host(tls.expected_name):
        findings.error(f"`{section}.expected_name` must be a host name or an IP address")


def check_client_tls(config: NodeConfig, findings: Findings) -> None:
    """Note a node that is a client of others and trusts no CA."""
    tls = config.grpc.tls
    if config.routes and tls is not None and not tls.ca_path:
        findings.error(
            "`grpc.tls` requires `grpc.tls.ca_path` to be set on a node that calls others: name a "
            "PEM file with the CA that signs their certificates"
        )


def check_drain(proxy: ProxySettings, findings: Findings) -> None:
    """Note a drain that leaves calls in flight no time."""
    if proxy.shutdown_delay > 0 and proxy.shutdown_delay >= proxy.drain_timeout:
        findings.warn(
            "`proxy.shutdown_delay` takes all of `proxy.drain_timeout`, the bound of the whole "
            "drain: calls in flight have no time to finish, raise `proxy.drain_timeout`"
        )


def check_pool(pool: PoolSettings, findings: Findings) -> None:
    """Note pool limits that contradict each other."""
    if pool.min_connections > pool.max_connections:
        findings.error(
            "`metastore.postgres`: `min_connections` must be less than or equal to "
            f"`max_connections`, {pool.min_connections} is more than {pool.max_connections}"
        )


def check_routing(
    role: Role | None, proxy: ProxySettings, seeds: Sequence[str], findings: Findings
) -> None:
    """Note a node that should pass calls on but does not know where to."""
    if proxy.discovery == "gossip":
        _check_gossip_discovery(role, proxy, seeds, findings)
        return
    if proxy.primary or (proxy.replicas and role is not Role.ROUTER):
        return
    if role is Role.ROUTER and proxy.replicas:
        findings.warn("`proxy.primary` is not set: writes, and reads that need it, will be refused")
    elif role is Role.ROUTER:
        findings.error(
            "the `metastore_router` service requires `proxy.primary` to be set: "
            "give it the addresses of the `metastore` nodes, such as `[metastore:7281]`, or set "
            "`proxy.discovery: gossip`"
        )
    elif role is Role.READ_REPLICA and proxy.forward:
        findings.error(
            "`proxy.forward` requires `proxy.primary` or `proxy.replicas` to be set: "
            "name the nodes that take what this one cannot serve"
        )


def _check_gossip_discovery(
    role: Role | None, proxy: ProxySettings, seeds: Sequence[str], findings: Findings
) -> None:
    routes = role is Role.ROUTER or (role is Role.READ_REPLICA and proxy.forward)
    if not proxy.gossip:
        findings.error(
            "`proxy.discovery: gossip` needs `proxy.gossip: true`: turn gossip on, or name the "
            "nodes in `proxy.primary` and `proxy.replicas` with `proxy.discovery: static`"
        )
    elif routes and not seeds:
        findings.warn(
            "`proxy.discovery` is `gossip` and `peer_seeds` is not set: this node learns of the "
            "others only if one of them names it"
        )
