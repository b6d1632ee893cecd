from __future__ import annotations

from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import REDACTED, ConfigError, NodeConfig, describe, load_config, redact, render
from tests.unit.config.conftest import PRIMARY, REPLICA, Load

BOTH = f"metastore_uri: {PRIMARY}\nmetastore_read_replica_uri: {REPLICA}"


def test_render_is_the_yaml_of_describe(load: Load) -> None:
    config = load(
        f"{BOTH}\ngrpc: {{keep_alive: {{}}, max_connection_age: 1h}}\n"
        "proxy: {primary: ['a:1'], replicas: ['b:1', 'c:1'], heartbeat_interval: '0'}"
    )
    described = describe(config)
    assert yaml.safe_load(render(config)) == described
    assert described["metastore_uri"] == f"postgresql://u:{REDACTED}@db1/m"
    assert described["metastore_read_replica_uri"] == f"postgresql://u:{REDACTED}@db2/m"
    assert described["grpc"] == {
        "max_message_size": "20 MiB",
        "keep_alive": {"interval": "10s", "timeout": "5s"},
        "max_connection_age": "1h",
        "max_connection_age_grace": None,
    }
    assert described["proxy"]["replicas"] == ["b:1", "c:1"]
    assert described["proxy"]["heartbeat_interval"] == "0s"


def test_what_is_rendered_loads_to_the_same(load: Load) -> None:
    config = load(f"{BOTH}\nmetastore: {{pg: {{max_connections: 3}}}}\nrest: {{listen_port: 9}}")
    described = describe(config)
    del described["environment"]
    again = load(yaml.safe_dump(described), bare=True)
    assert describe(again) == {**described, "environment": describe(config)["environment"]}


@pytest.mark.parametrize(
    "line",
    [
        "# role: metastore",
        'node_id: "n"  # env QW_NODE_ID',
        'cluster_id: "quickwit-default-cluster"  # default',
        'enabled_services: ["metastore"]  # cli --service',
        "  listen_port: 9  # file",
        "    max_connections: 3  # file",
        "  QW_POSTGRES_READ_ONLY: true  # env QW_POSTGRES_READ_ONLY",
        "  QW_POSTGRES_SKIP_MIGRATIONS: false  # default",
        f'metastore_uri: "postgresql://u:{REDACTED}@db1/m"  # file',
    ],
)
def test_lines_tell_where_a_value_came_from(load: Load, line: str) -> None:
    config = load(
        f"{BOTH}\nmetastore: {{pg: {{max_connections: 3}}}}\nrest: {{listen_port: 9}}",
        environ={"QW_NODE_ID": "n", "QW_POSTGRES_READ_ONLY": "yes"},
        services=["metastore"],
    )
    assert line in render(config).splitlines()


def test_every_value_has_an_origin(load: Load) -> None:
    values = [line for line in render(load()).splitlines() if not line.endswith(":")]
    without = [line for line in values if "  # " not in line and not line.startswith("#")]
    assert without == ['version: "0.8"']


def test_secrets_hold_every_spelling(load: Load) -> None:
    config = load(
        "metastore_uri: postgresql://u:a%2Fbc%40d@h/d\n"
        "metastore_read_replica_uri: postgresql://h/d?password=other-pw",
        environ={"PGPASSWORD": "from env"},
    )
    assert {"a/bc@d", "a%2Fbc%40d", "a%2fbc%40d", "other-pw", "from env"} <= set(config.secrets)
    assert redact("x a/bc@d from env y", config.secrets) == f"x {REDACTED} {REDACTED} y"


def test_a_password_of_the_environment_is_redacted_from_driver_errors(load: Load) -> None:
    config = load("metastore_uri: postgresql://h/d", environ={"PGPASSWORD": "env-pw"})
    assert config.database_uri.redact("bad env-pw") == f"bad {REDACTED}"
    assert "env-pw" not in repr(config)


def test_no_passwords_no_secrets(load: Load) -> None:
    assert load("metastore_uri: postgresql://h/d").secrets == ()


# Letters and digits that occur in no key, word or path of ours, among everything else.
PASSWORDS = st.builds(
    lambda text: f"Q7{text}Z9",
    st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r\x85\u2028\u2029"), max_size=20),
)


def assert_hidden(password: str, *texts: str) -> None:
    for text in texts:
        assert password not in text
        assert quote(password, safe="") not in text


@given(password=PASSWORDS, other=PASSWORDS)
def test_no_text_form_shows_a_password(password: str, other: str) -> None:
    config = load_config(
        None,
        environ={
            "QW_METASTORE_URI": f"postgresql://u:{quote(password, safe='')}@h/d?x=1",
            "QW_METASTORE_READ_REPLICA_URI": f"pg://h/d?password={quote(other, safe='')}",
            "QW_DATA_DIR": f"/data/{password}",
            "QW_AVAILABILITY_ZONE": other,
        },
    )
    assert config.database_uri.password == password
    shown = (render(config), str(describe(config)), repr(config), str(config.database_uri))
    for secret in (password, other):
        assert_hidden(secret, *shown[:2], *config.warnings)
    assert_hidden(password, shown[3], repr(config.database_uri), repr(config.metastore_uri))
    assert password not in repr((config.metastore_uri, config.metastore_read_replica_uri))


@given(password=PASSWORDS, role=st.sampled_from(["metastore", "metastore_read_replica"]))
def test_no_error_shows_a_password(password: str, role: str) -> None:
    broken = f"postgresql://u:{quote(password, safe='')}@h:port/d"
    raw = f"postgresql://u:{password}@h:port/d"
    other = f"mysql://u:{password}@h/d"
    for uri in (broken, raw, other, password):
        environ = {"QW_METASTORE_URI": uri, "QW_METASTORE_READ_REPLICA_URI": uri}
        with pytest.raises(ConfigError) as caught:
            load_config(None, environ=environ, services=[role])
        assert_hidden(password, str(caught.value), repr(caught.value), *caught.value.problems)


@given(password=PASSWORDS, suffix=st.sampled_from([".yaml", ".json", ".toml"]))
def test_no_file_error_shows_a_password(
    tmp_path_factory: pytest.TempPathFactory, password: str, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"config{suffix}"
    path.write_text(f"version: 0.8\nmetastore_uri: {password}\nnode_id: [", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert_hidden(password, str(caught.value), repr(caught.value))


def test_repr_of_a_config_shows_no_password(load: Load) -> None:
    config: NodeConfig = load(BOTH)
    assert "primary-pw" not in repr(config)
    assert "replica-pw" not in repr(config)
