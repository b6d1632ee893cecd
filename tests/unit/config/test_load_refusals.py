"""Loading a configuration: what is refused, and how it is told."""

from __future__ import annotations

import pytest

from proxy.config import ConfigError, NodeConfig
from proxy.roles import Role
from tests.support.config_problems import problems, the_problem
from tests.unit.config.conftest import PRIMARY, Load


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "`version` is missing: add"),
        ("version:", "`version` is missing: add"),
        ("version: 0.9", "`version` must be `0.8` or `0.7`, it is `0.9`"),
        ("version: 7", "it is `7`"),
        ("version: true", "it is `True`"),
        ("version: '1'", "it is a string of 1 characters"),
        ("version: [0.8]", "it is a list of 1 items"),
    ],
)
def test_bad_version(load: Load, line: str, expected: str) -> None:
    assert expected in the_problem(load, f"{line}\nmetastore_uri: {PRIMARY}", bare=True)


def test_several_problems_are_reported_together(load: Load) -> None:
    found = problems(load, "cluster_id: x\nrest: {listen_port: x}\nproxy: {log_level: loud}")
    assert [problem.split(":")[0].split(" ")[0] for problem in found] == [
        *("`cluster_id`", "`rest.listen_port`", "`proxy.log_level`"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cluster_id: ab", "`cluster_id`: cluster ID `ab` is invalid"),
        ("cluster_id: 123", "`cluster_id` must be a string, it is a number: write it in quotes"),
        ("cluster_id: ''", "`cluster_id` must not be empty"),
        ("node_id: a_b", "`node_id` must be a valid short host name (see RFC 1123)"),
        ("node_id: -a", "`node_id` must be a valid short host name"),
        ("node_id: a..b", "`node_id` must be a valid short host name"),
        (f"node_id: {'a' * 64}", "`node_id` must be a valid short host name"),
        ("listen_address: 'a:1'", "`listen_address` must be an IP address or a host name"),
        ("advertise_address: 'a b'", "`advertise_address` must be an IP address or a host name"),
        ("enabled_services: metastore", "`enabled_services` must be a list of strings"),
        ("peer_seeds: [1]", "`peer_seeds` must be a list of strings, item 1 is a number"),
        ("peer_seeds: ['']", "item 1 is an empty string"),
        ("rest: {listen_port: '1'}", "`rest.listen_port` must be a whole number from 0 to 65535"),
        ("rest: {listen_port: true}", "it is a boolean"),
        ("rest: {listen_port: 1.5}", "it is a number"),
        ("rest: {listen_port: 65536}", "it is 65536"),
        ("rest: {listen_port: -1}", "it is -1"),
        ("rest: {listen_port: 65535}", "`grpc_listen_port` is `rest.listen_port` + 1 by default"),
        ("rest: 5", "`rest` must be a mapping of keys, it is a number"),
        ("rest: {port: 1}", "`rest` has no key `port`: "),
        ("rest: {listen_port: 1}\nrest_listen_port: 1", "conflicting configuration values"),
        (
            "health: {listen_prt: 1}",
            "`health` has no key `listen_prt`: did you mean `listen_port`?",
        ),
        ("gossip_interval_ms: 0", "`gossip_interval_ms` must be a whole number from 1"),
        (
            "gossip_protocol_version: 2",
            "`gossip_protocol_version` must be a whole number from 0 to 1",
        ),
        ("grpc: {max_message_size: 999999}", "must be at least 1MB (1000000 bytes), it is 999999"),
        ("grpc: {max_message_size: 20 XB}", "`grpc.max_message_size` must be a size"),
        ("grpc: {max_message_size: 1.5}", "`grpc.max_message_size` must be a size"),
        ("grpc: {max_message_size: -1}", "`grpc.max_message_size` must be a size"),
        (
            "grpc: {max_connection_age_grace: 1s}",
            "`grpc.max_connection_age_grace` requires `grpc.max_connection_age` to be set",
        ),
        ("grpc: {max_connection_age: 10}", "must be a duration with a unit"),
        ("grpc: {keep_alive: 5}", "`grpc.keep_alive` must be a mapping"),
        ("grpc: {keep_alive: {interval: 0s}}", "must be longer than zero"),
        ("grpc: {keep_alive: {tiemout: 1s}}", "did you mean `timeout`?"),
        ("grpc: {max_mesage_size: 1}", "did you mean `max_message_size`?"),
        ("metastore: {postgres: {max_conections: 1}}", "did you mean `max_connections`?"),
        ("metastore: {postgre: {}}", "`metastore` has no key `postgre`: did you mean `postgres`?"),
        ("metastore: {pg: {a: 1}}", "`metastore.pg` has no key `a`: known are"),
        ("metastore: {pg: {}, postgres: {}}", "config is defined multiple times"),
        ("metastore: {pg: {max_connections: 0}}", "must be a whole number from 1"),
        (
            "metastore: {pg: {max_connections: 2, max_num_connections: 2}}",
            "`metastore.pg.max_connections` and its alias `max_num_connections` are both given",
        ),
        (
            "metastore: {pg: {min_connections: 3, max_connections: 2}}",
            "`min_connections` must be less than or equal to `max_connections`",
        ),
        ("metastore: {pg: {min_connections: 11}}", "11 is more than 10"),
        ("metastore: {pg: {acquire_connection_timeout: 10}}", "must be a duration with a unit"),
        ("metastore: {pg: {acquire_connection_timeout: '10'}}", "must be a duration with a unit"),
        ("metastore: {pg: {acquire_connection_timeout: 0s}}", "must be longer than zero"),
        ("metastore: {pg: {idle_connection_timeout: 5}}", "must be a duration with a unit"),
        ("metastore: {pg: {idle_connection_timeout: false}}", "must be a duration with a unit"),
        ("metastore: {pg: {max_connection_lifetime: soon}}", "must be a duration with a unit"),
        ("proxy: {replica: []}", "`proxy` has no key `replica`: did you mean `replicas`?"),
        ("proxy: {xyzzy: 1}", "`proxy` has no key `xyzzy`: known are `discovery`, "),
        ("proxy: []", "`proxy` must be a mapping of keys, it is a list of 0 items"),
        ("proxy: {1: 2}", "`proxy` has no key a name that is a number"),
        ("proxy: {discovery: dns}", "`proxy.discovery` must be one of `static`, `gossip`"),
        ("proxy: {primary: 'a:1'}", "`proxy.primary` must be a list of strings"),
        ("proxy: {primary: [a]}", "`proxy.primary` item 1 must be `host:port`"),
        ("proxy: {replicas: ['a:1', 'dns:///b']}", "`proxy.replicas` item 2 must be"),
        ("proxy: {replicas: ['a:0']}", "with a port from 1 to 65535"),
        ("proxy: {replicas: ['a:x']}", "with a port from 1 to 65535"),
        ("proxy: {replicas: ['::1:80']}", "must be `host:port`"),
        ("proxy: {replicas: ['dns://x/b:1']}", "must be `host:port`"),
        ("proxy: {replicas: ['dns:///postgres:1/x']}", "must be `host:port`"),
        ("grpc_listen_port: 7280", "`grpc_listen_port` and `rest.listen_port` are both 7280"),
        ("health: {listen_port: 7281}", "`health.listen_port` and `grpc_listen_port` are both"),
        ("proxy: {probe_interval: 0s}", "`proxy.probe_interval` must be longer than zero"),
        ("proxy: {drain_timeout: 5}", "`proxy.drain_timeout` must be a duration with a unit"),
        ("proxy: {log_format: xml}", "`proxy.log_format` must be one of `console`, `json`"),
        ("proxy: {log_level: inof}", "did you mean `info`?"),
        ("proxy: {log_level: [info]}", "`proxy.log_level` must be one of"),
    ],
)
def test_rejected(load: Load, content: str, expected: str) -> None:
    assert expected in the_problem(load, content)


@pytest.mark.parametrize(
    ("env", "text", "expected"),
    [
        ("QW_REST_LISTEN_PORT", "a", "(`rest.listen_port`) must be a whole number"),
        ("QW_REST_LISTEN_PORT", "7_280", "must be a whole number"),
        ("QW_GRPC_LISTEN_PORT", "-1", "must be a whole number"),
        ("QW_NODE_ID", " ", "must not be empty"),
        ("QW_CLUSTER_ID", "!", "`cluster_id`"),
        ("QW_ENABLED_SERVICES", "metastoer", "did you mean `metastore`?"),
        ("QW_ENABLED_SERVICES", " , ", "`enabled_services` has no role that is served here"),
    ],
)
def test_rejected_variable(load: Load, env: str, text: str, expected: str) -> None:
    assert expected in the_problem(load, environ={env: text})


def test_a_uri_pasted_as_a_target_does_not_show_its_password(load: Load) -> None:
    problem = the_problem(load, "proxy: {primary: ['postgresql://u:hunter2@h:5432/db']}")
    assert "`proxy.primary` item 1 must be" in problem
    assert "hunter2" not in problem


def test_a_config_without_its_uri_says_so() -> None:
    with pytest.raises(ConfigError, match="requires `metastore_uri` to be set"):
        _ = NodeConfig(role=Role.METASTORE).database_uri
    with pytest.raises(ConfigError, match="requires `metastore_read_replica_uri` to be set"):
        _ = NodeConfig(role=Role.READ_REPLICA).database_uri
