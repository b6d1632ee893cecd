"""Loading a configuration: defaults, precedence, and what is derived."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import (
    GrpcSettings,
    PoolSettings,
    PostgresFlags,
    ProxySettings,
    config_path,
    load_config,
)
from proxy.roles import Role
from tests.unit.config.conftest import PRIMARY, REPLICA, Load


def test_defaults(load: Load) -> None:
    config = load("enabled_services: [metastore]")
    assert config.role is Role.METASTORE
    assert config.enabled_services == ("metastore",)
    assert config.cluster_id == "quickwit-default-cluster"
    assert config.node_id == "node-1"
    assert config.availability_zone is None
    assert config.listen_address == config.advertise_address == "127.0.0.1"
    assert (config.rest_listen_port, config.grpc_listen_port) == (7280, 7281)
    assert (config.gossip_listen_port, config.health_listen_port) == (7280, None)
    assert (config.gossip_interval, config.gossip_protocol_version) == (1.0, 0)
    assert (config.peer_seeds, config.data_dir) == ((), "qwdata")
    assert config.grpc == GrpcSettings() == GrpcSettings(max_message_size=20971520)
    assert config.pool == PoolSettings() == PoolSettings(0, 10, 10.0, 600.0, 1800.0)
    assert config.postgres == PostgresFlags(False, False, False, False)
    assert config.proxy == ProxySettings("static", (), (), 1.0, 1.0, 25.0, 0.2, "console", "info")
    assert config.metastore_read_replica_uri is None
    assert not config.is_database_read_only
    assert config.warnings == ()


# Key, variable, a value in the file, the variable's text, how to read it, both results.
LAYERS: list[tuple[str, str, str, str, str, Any, Any]] = [
    ("cluster_id", "QW_CLUSTER_ID", "c-1", "c-2", "cluster_id", "c-1", "c-2"),
    ("node_id", "QW_NODE_ID", "n1", "n2.x", "node_id", "n1", "n2.x"),
    ("availability_zone", "QW_AVAILABILITY_ZONE", "a", "b", "availability_zone", "a", "b"),
    ("listen_address", "QW_LISTEN_ADDRESS", "h", "'::'", "listen_address", "h", "10.0.0.1"),
    ("advertise_address", "QW_ADVERTISE_ADDRESS", "h", "i", "advertise_address", "h", "i"),
    ("rest.listen_port", "QW_REST_LISTEN_PORT", "1", "2", "rest_listen_port", 1, 2),
    ("rest_listen_port", "QW_REST_LISTEN_PORT", "1", "2", "rest_listen_port", 1, 2),
    ("grpc_listen_port", "QW_GRPC_LISTEN_PORT", "1", "2", "grpc_listen_port", 1, 2),
    ("gossip_listen_port", "QW_GOSSIP_LISTEN_PORT", "1", "2", "gossip_listen_port", 1, 2),
    ("health.listen_port", "QW_HEALTH_LISTEN_PORT", "1", "2", "health_listen_port", 1, 2),
    ("gossip_interval_ms", "QW_GOSSIP_INTERVAL_MS", "50", "1500", "gossip_interval", 0.05, 1.5),
    (
        *("gossip_protocol_version", "QW_GOSSIP_PROTOCOL_VERSION", "0", "1"),
        *("gossip_protocol_version", 0, 1),
    ),
    (
        "peer_seeds",
        "QW_PEER_SEEDS",
        "[a, 'b:1']",
        " c , ,d:2,",
        "peer_seeds",
        ("a", "b:1"),
        ("c", "d:2"),
    ),
    ("data_dir", "QW_DATA_DIR", "/none/x", "/none/y", "data_dir", "/none/x", "/none/y"),
    (
        *("enabled_services", "QW_ENABLED_SERVICES", "[metastore, searcher]", " metastore,,"),
        *("enabled_services", ("metastore", "searcher"), ("metastore",)),
    ),
]


@pytest.mark.parametrize(("key", "env", "given", "text", "name", "filed", "variable"), LAYERS)
def test_environment_beats_file_beats_default(
    load: Load, key: str, env: str, given: str, text: str, name: str, filed: Any, variable: Any
) -> None:
    section, _, leaf = key.rpartition(".")
    content = f"{section}: {{{leaf}: {given}}}" if section else f"{key}: {given}"
    text = text.replace("'::'", "10.0.0.1")
    assert getattr(load(content), name) == filed
    assert getattr(load(content, environ={env: text}), name) == variable
    assert getattr(load(environ={env: text}), name) == variable
    ignored = load(content, environ={env: ""})
    assert getattr(ignored, name) == filed
    # An empty zone is what Kubernetes gives a pod where it knows none.
    is_told = f"environment variable `{env}` is set but empty, and is ignored" in ignored.warnings
    assert is_told is (env != "QW_AVAILABILITY_ZONE")


@pytest.mark.parametrize("version", ["0.8", "0.7", "'0.8'", "'0.7'"])
def test_versions(load: Load, version: str) -> None:
    config = load(f"version: {version}\nmetastore_uri: {PRIMARY}", bare=True)
    assert config.version == version.strip("'")


def test_without_a_file_environment_and_defaults_remain() -> None:
    config = load_config(None, environ={"QW_METASTORE_URI": PRIMARY, "QW_NODE_ID": "n"})
    assert (config.role, config.node_id) == (Role.METASTORE, "n")


def test_durations_of_the_pool(load: Load) -> None:
    config = load(
        "metastore: {pg: {max_num_connections: 7, min_connections: 7, max_connection_lifetime: ''"
        ", acquire_connection_timeout: 1min 30s, idle_connection_timeout: '0'}}"
    )
    assert config.pool == PoolSettings(7, 7, 90.0, None, None)


@pytest.mark.parametrize("never", ["''", "'0'", "0", "0s", "0ms"])
def test_never(load: Load, never: str) -> None:
    assert (
        load(f"metastore: {{pg: {{idle_connection_timeout: {never}}}}}").pool.idle_timeout is None
    )
    assert load(f"proxy: {{heartbeat_interval: {never}}}").proxy.heartbeat_interval is None


def test_grpc_section(load: Load) -> None:
    config = load(
        "grpc: {max_message_size: 1MB, max_connection_age: 30m, max_connection_age_grace: 30s, "
        "keep_alive: {timeout: 2s}}"
    )
    assert config.grpc == GrpcSettings(1_000_000, 10.0, 2.0, 1800.0, 30.0)
    assert load("grpc: {keep_alive: {}}").grpc.keep_alive_interval == 10.0
    huge = load("grpc: {max_message_size: 4GiB}")
    assert huge.grpc.max_message_size == 2147483647
    assert "`grpc.max_message_size` is lowered to 2147483647 bytes" in huge.warnings


def test_proxy_section(load: Load) -> None:
    config = load(
        "proxy: {primary: ['a:1'], replicas: ['dns:///b.svc:2', '[::1]:3', '10.0.0.1:4'], "
        "probe_interval: 500ms, drain_timeout: 0s, shutdown_delay: 1s, log_format: json, "
        "log_level: debug, discovery: static, heartbeat_interval: 2s}"
    )
    assert config.proxy == ProxySettings(
        "static",
        ("a:1",),
        ("dns:///b.svc:2", "[::1]:3", "10.0.0.1:4"),
        *(0.5, 2.0, 0.0, 1.0, "json", "debug"),
    )


def test_ports_that_the_system_chooses_do_not_collide(load: Load) -> None:
    assert load("rest: {listen_port: 0}\nhealth: {listen_port: 0}").grpc_listen_port == 0


def test_a_target_given_twice_counts_once(load: Load) -> None:
    config = load("proxy: {replicas: ['a:1', 'b:1', 'a:1']}")
    assert config.proxy.replicas == ("a:1", "b:1")
    assert "`proxy.replicas` item 3 repeats an earlier one and is ignored" in config.warnings


def test_deprecated_rest_listen_port(load: Load) -> None:
    config = load("rest_listen_port: 9000")
    assert (config.rest_listen_port, config.grpc_listen_port) == (9000, 9001)
    assert "`rest_listen_port` is deprecated: use `rest.listen_port` instead" in config.warnings


def test_ports_follow_the_rest_port(load: Load) -> None:
    config = load("rest: {listen_port: 9000}")
    assert (config.grpc_listen_port, config.gossip_listen_port) == (9001, 9000)
    assert load("rest: {listen_port: 0}").grpc_listen_port == 0


@pytest.mark.parametrize(
    ("content", "advertised"),
    [
        ("listen_address: 0.0.0.0", None),
        ("listen_address: '::'", None),
        ("listen_address: 0.0.0.0\nadvertise_address: 10.1.2.3", "10.1.2.3"),
        ("listen_address: node.svc", "node.svc"),
        ("listen_address: '::1'", "::1"),
    ],
)
def test_advertise_address(load: Load, content: str, advertised: str | None) -> None:
    assert load(content).advertise_address == advertised


def test_an_odd_host_name_gives_a_random_node_id() -> None:
    environ = {"QW_METASTORE_URI": PRIMARY}
    first = load_config(None, environ=environ, hostname="my_host")
    second = load_config(None, environ=environ, hostname="my_host")
    assert first.node_id.startswith("node-")
    assert first.node_id != second.node_id
    assert any(f"using `{first.node_id}`" in warning for warning in first.warnings)
    assert load_config(None, environ=environ).node_id


@pytest.mark.parametrize(
    ("text", "value", "warned"),
    [
        *((text, True, False) for text in ("true", "YES", " 1 ", "True")),
        *((text, False, False) for text in ("false", "No", "0")),
        *((text, False, True) for text in ("", "on", "2", "tru")),
    ],
)
@pytest.mark.parametrize(
    "name", ["read_only", "skip_migrations", "skip_migration_locking", "skip_deferred_migrations"]
)
def test_postgres_flags(load: Load, name: str, text: str, value: bool, warned: bool) -> None:
    env = f"QW_POSTGRES_{name.upper()}"
    config = load("enabled_services: [metastore]", environ={env: text})
    assert config.postgres == PostgresFlags(**{name: value})
    assert config.is_database_read_only is (name == "read_only" and value)
    assert any(f"`{env}` is ignored" in warning for warning in config.warnings) is warned


def test_foreign_sections_are_not_looked_into(load: Load) -> None:
    names = "indexer searcher storage ingest_api jaeger compactor docs_clustering"
    content = "\n".join(f"{name}: {{anything: [1, {{x: y}}]}}" for name in names.split())
    content += "\nenabled_services: [metastore]\ndefault_index_root_uri: s3://b\n"
    content += "enable_standalone_compactors: true\nmetastore: {file: {}}"
    assert load(content).warnings == ()


def test_unknown_top_level_keys_are_warned_about(load: Load) -> None:
    config = load("enabled_services: [metastore]\nmetastore_read_replica_url: x\nxyzzy: 1")
    assert config.warnings == (
        (
            "unknown key `metastore_read_replica_url` is ignored: "
            "did you mean `metastore_read_replica_uri`?"
        ),
        "unknown key `xyzzy` is ignored: no key of the node configuration is like it",
    )


def test_empty_values_count_as_not_given(load: Load) -> None:
    empty = (
        "cluster_id:\nrest:\nproxy:\n  primary:\nmetastore:\n  postgres:\nhealth: {listen_port: }"
    )
    assert load(empty) == load()


def test_config_path() -> None:
    assert config_path(None, {}) is None
    assert config_path(None, {"QW_CONFIG": ""}) is None
    assert str(config_path(None, {"QW_CONFIG": "/a/b.yaml"})) == "/a/b.yaml"
    assert str(config_path("c.yaml", {"QW_CONFIG": "/a/b.yaml"})) == "c.yaml"
    assert str(config_path("file:///c.yaml", {})) == "/c.yaml"


def test_one_shared_file_serves_both_roles(load: Load) -> None:
    shared = f"metastore_uri: {PRIMARY}\nmetastore_read_replica_uri: {REPLICA}"
    primary = load(shared, services=["metastore"])
    replica = load(shared, services=["metastore_read_replica"])
    by_variable = load(shared, environ={"QW_ENABLED_SERVICES": "metastore-read-replica"})
    assert (primary.role, primary.database_uri.hosts) == (Role.METASTORE, ("db1",))
    assert (replica.role, replica.database_uri.hosts) == (Role.READ_REPLICA, ("db2",))
    assert by_variable.role is Role.READ_REPLICA
    assert not primary.is_database_read_only
    assert replica.is_database_read_only
    assert load(shared).role is Role.METASTORE
