from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import ConfigError, load_config
from proxy.roles import SERVICE_NAMES, Role
from tests.unit.config.conftest import PRIMARY, REPLICA, Load

STANDALONE = "must run standalone and cannot be combined with any other service"
NO_URI = "requires `metastore_read_replica_uri` to be set"
NO_ROLE = "`enabled_services` has no role that is served here"


@pytest.mark.parametrize(
    ("services", "content", "expected"),
    [
        ("metastore_read_replica, searcher", f"metastore_read_replica_uri: {REPLICA}", STANDALONE),
        ("metastore_read_replica, metastore", f"metastore_read_replica_uri: {REPLICA}", STANDALONE),
        ("searcher, metastore-read-replica", "", STANDALONE),
        ("metastore_read_replica", "", NO_URI),
        ("metastore_read_replica", "metastore_read_replica_uri:", NO_URI),
        ("searcher", "", NO_ROLE),
        (
            "searcher, indexer",
            "",
            f"{NO_ROLE}, only `searcher`, `indexer`: set it to `[metastore]`",
        ),
        ("metastore_replica", "", "unknown service `metastore_replica`: did you mean"),
        ("metastore, Searcher", "", "unknown service `Searcher`: did you mean `searcher`?"),
        (
            "metastore_read_replica",
            "metastore_read_replica_uri: s3://bucket/x",
            "`metastore_read_replica_uri` must be a PostgreSQL URI, its scheme is `s3`",
        ),
        (
            "metastore_read_replica",
            "metastore_read_replica_uri: /var/x",
            "`metastore_read_replica_uri` must be a PostgreSQL URI, it has no scheme",
        ),
        (
            "metastore_read_replica",
            "metastore_read_replica_uri: mysql://h/d",
            "`metastore_read_replica_uri` is not a PostgreSQL URI, its scheme is `mysql`",
        ),
        (
            "metastore_read_replica",
            "metastore_read_replica_uri: postgres://h:x/d",
            "`metastore_read_replica_uri` does not parse as a PostgreSQL URI",
        ),
        (
            "metastore",
            "metastore_read_replica_uri: postgres://h:x/d",
            "`metastore_read_replica_uri` does not parse as a PostgreSQL URI",
        ),
        (
            "metastore",
            "metastore_read_replica_uri: mysql://h/d",
            "`metastore_read_replica_uri` is not a PostgreSQL URI",
        ),
        ("metastore", "metastore_uri: file:///x", "must be a PostgreSQL URI, its scheme is `file`"),
        ("metastore", "metastore_uri: ram:///x", "must be a PostgreSQL URI, its scheme is `ram`"),
        ("metastore", "metastore_uri: postgres://h:x", "`metastore_uri` does not parse"),
        ("metastore", "metastore_uri: 5", "`metastore_uri` must be a string, it is a number"),
        ("metastore", "metastore_uri: ''", "`metastore_uri` must not be empty"),
        (
            "metastore",
            "metastore_uri:",
            "the `metastore` service requires `metastore_uri` to be set",
        ),
        (
            "metastore, searcher",
            "searcher: {use_metastore_read_replica: true}",
            "cannot be enabled on a node running the `metastore` service",
        ),
        ("metastore", "searcher: {use_metastore_read_replica: 5}", "must be true or false"),
    ],
)
@pytest.mark.parametrize("way", ["file", "env", "cli"])
def test_rejected(load: Load, services: str, content: str, expected: str, way: str) -> None:
    names = [name.strip() for name in services.split(",") if name.strip()]
    lines = f"enabled_services: {names}\n{content}" if way == "file" else content
    environ = {"QW_ENABLED_SERVICES": services} if way == "env" else {}
    with pytest.raises(ConfigError) as caught:
        load(lines, environ=environ, services=names if way == "cli" else None)
    (problem,) = caught.value.problems
    assert expected in problem


@pytest.mark.parametrize("way", ["file", "env"])
def test_no_services_at_all(load: Load, way: str) -> None:
    environ = {"QW_ENABLED_SERVICES": ","} if way == "env" else {}
    with pytest.raises(ConfigError, match=NO_ROLE):
        load("enabled_services: []" if way == "file" else "", environ=environ, services=[])


def test_the_command_line_beats_a_file_that_is_wrong_without_it(load: Load) -> None:
    content = f"enabled_services: [nonsense]\nmetastore_read_replica_uri: {REPLICA}"
    config = load(
        content, environ={"QW_ENABLED_SERVICES": "metastore"}, services=["metastore_read_replica"]
    )
    assert config.role is Role.READ_REPLICA
    assert config.origins["enabled_services"] == "cli --service"


def test_the_replica_role_is_never_a_default(load: Load) -> None:
    config = load(f"metastore_uri: {PRIMARY}\nmetastore_read_replica_uri: {REPLICA}")
    assert config.role is Role.METASTORE
    assert config.enabled_services == (
        *("control-plane", "indexer", "janitor", "metastore", "searcher"),
    )
    assert any("`enabled_services` is not set" in warning for warning in config.warnings)


def test_services_that_are_not_served_are_warned_about(load: Load) -> None:
    config = load("enabled_services: [metastore, control_plane, indexer]")
    assert config.enabled_services == ("metastore", "control-plane", "indexer")
    assert config.warnings == (
        "only `metastore` is served here: `control-plane`, `indexer` must run in Quickwit nodes",
    )


@pytest.mark.parametrize("spelling", SERVICE_NAMES)
def test_every_spelling_of_a_service(load: Load, spelling: str) -> None:
    replica = f"metastore_read_replica_uri: {REPLICA}"
    alone = "replica" in spelling or "router" in spelling
    names = [spelling] if alone else ["metastore", spelling]
    config = load(f"{replica}\nproxy: {{primary: ['a:1']}}", services=names)
    assert SERVICE_NAMES[spelling] in config.enabled_services


@pytest.mark.parametrize("text", ["s3://bucket", "/var/x", "postgresql://h/d"])
def test_a_replica_uri_is_not_used_by_the_primary(load: Load, text: str) -> None:
    config = load(f"enabled_services: [metastore]\nmetastore_read_replica_uri: {text}")
    assert config.database_uri.hosts == ("db1",)
    assert config.warnings == ()


@pytest.mark.parametrize("text", ["postgresql://h:x/d", "mysql://h/d"])
def test_a_primary_uri_that_a_replica_does_not_use_only_warns(load: Load, text: str) -> None:
    config = load(
        f"metastore_uri: {text}\nmetastore_read_replica_uri: {REPLICA}",
        services=["metastore_read_replica"],
    )
    assert config.metastore_uri is None
    (warning,) = config.warnings
    assert "`metastore_uri`" in warning
    assert warning.endswith("(not used by this role)")


def test_warnings_of_a_uri_name_its_key(load: Load) -> None:
    config = load("enabled_services: [metastore]\nmetastore_uri: postgresql://h/d?foo=1")
    assert config.warnings == ("`metastore_uri`: unknown query parameter `foo` is ignored",)


def test_a_dedicated_searcher_flag_has_no_effect_here(load: Load) -> None:
    content = "searcher: {use_metastore_read_replica: true}"
    assert load(content, services=["metastore"]).role is Role.METASTORE


CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize(
    ("name", "env", "role"),
    [
        ("metastore.yaml", "QW_METASTORE_URI", Role.METASTORE),
        ("metastore_read_replica.yaml", "QW_METASTORE_READ_REPLICA_URI", Role.READ_REPLICA),
    ],
)
def test_shipped_files_are_usable_as_they_are(name: str, env: str, role: Role) -> None:
    config = load_config(CONFIG / name, environ={env: PRIMARY})
    assert config.role is role
    assert config.database_uri.hosts == ("db1",)
    assert config.warnings == ()
    with pytest.raises(ConfigError, match="to be set"):
        load_config(CONFIG / name, environ={})


def test_shipped_files_can_run_side_by_side() -> None:
    environ = {"QW_METASTORE_URI": PRIMARY, "QW_METASTORE_READ_REPLICA_URI": REPLICA}
    configs = [
        load_config(CONFIG / name, environ=environ)
        for name in ("metastore.yaml", "metastore_read_replica.yaml")
    ]
    ports = [port for c in configs for port in (c.rest_listen_port, c.grpc_listen_port)]
    assert len(set(ports)) == 4


@pytest.mark.parametrize(
    "key", ["metastore_uri", "metastore_read_replica_uri", "grpc_listen_port", "node_id"]
)
def test_commented_examples_of_the_shipped_file_are_valid(load: Load, key: str) -> None:
    text = (CONFIG / "metastore.yaml").read_text(encoding="utf-8")
    assert f"\n# {key}: " in text
    text = text.replace(f"\n# {key}: ", f"\n{key}: ")
    environ = {"METASTORE_PASSWORD": "pw", "QW_METASTORE_URI": PRIMARY}
    config = load(text, bare=True, environ=environ)
    assert config.origins[key] in ("file", "env QW_METASTORE_URI")
