from __future__ import annotations

import pytest

from proxy.client import ClientOptions, ClientTls
from proxy.config import ConfigError, TlsSettings, render
from tests.unit.config.conftest import Load

FULL = """
  tls:
    cert_path: /tls/node.crt
    key_path: /tls/node.key
    ca_path: /tls/ca.crt
    {verify}: true
    {poll}: 90s
"""


@pytest.mark.parametrize(
    ("verify", "poll"),
    [("verify_client_cert", "cert_poll_interval"), ("validate_client", "cert_reload_interval")],
)
def test_the_keys_and_their_aliases(load: Load, verify: str, poll: str) -> None:
    section = FULL.format(verify=verify, poll=poll)
    config = load(f"grpc:{section}    expected_name: node.local\nrest:{section}")
    expected = TlsSettings("/tls/node.crt", "/tls/node.key", "/tls/ca.crt", None, True, 90.0)
    assert config.rest_tls == expected
    assert config.grpc.tls is not None
    assert config.grpc.tls.expected_name == "node.local"
    assert config.grpc.tls.files("grpc.tls").is_mutual


def test_defaults(load: Load) -> None:
    config = load("grpc: {tls: {cert_path: /a, key_path: /b}}")
    assert config.grpc.tls == TlsSettings("/a", "/b")
    assert config.grpc.tls.cert_poll_interval == 300.0
    assert not config.grpc.tls.verify_client_cert
    assert config.rest_tls is None


@pytest.mark.parametrize("section", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("{}", "`{s}.tls` requires `{s}.tls.cert_path` to be set"),
        ("{cert_path: /a}", "`{s}.tls` requires `{s}.tls.key_path` to be set"),
        ("{cert_path: /a, key_path: ''}", "`{s}.tls.key_path` must not be empty"),
        (
            "{cert_path: /a, key_path: /b, verify_client_cert: true}",
            "`{s}.tls.verify_client_cert` requires `{s}.tls.ca_path` to be set",
        ),
        ("{cert_path: /a, key_path: /b, cert_poll_interval: 0s}", "must be longer than zero"),
        ("{cert_path: /a, key_path: /b, cert_pat: /c}", "did you mean `cert_path`?"),
        (
            "{cert_path: /a, key_path: /b, cert_poll_interval: 1m, cert_reload_interval: 2m}",
            "`{s}.tls.cert_poll_interval` and its alias `cert_reload_interval` are both given",
        ),
    ],
)
def test_what_is_refused(load: Load, section: str, keys: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(f"{section}: {{tls: {keys}}}")
    assert problem.replace("{s}", section) in str(raised.value)


def test_a_name_that_is_none(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"`grpc\.tls\.expected_name` must be a host name"):
        load("grpc: {tls: {cert_path: /a, key_path: /b, expected_name: 'a b'}}")
    config = load("rest: {tls: {cert_path: /a, key_path: /b, expected_name: node.local}}")
    assert any("`rest.tls.expected_name` has no effect" in text for text in config.warnings)


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("metastore_router", "primary: [a:1]"),
        ("metastore_read_replica", "forward: true, primary: [a:1]"),
    ],
)
def test_who_calls_others_must_trust_a_ca(load: Load, role: str, more: str) -> None:
    text = (
        f"metastore_read_replica_uri: postgresql://u@h/d\nproxy: {{{more}}}\n"
        "grpc: {tls: {cert_path: /a, key_path: /b}}"
    )
    with pytest.raises(ConfigError, match=r"requires `grpc\.tls\.ca_path` to be set on a node"):
        load(text, services=[role])


def test_paths_are_rendered_and_origins_told(load: Load) -> None:
    text = render(load("grpc: {tls: {cert_path: /a, key_path: /b}}"))
    assert '    cert_path: "/a"  # file' in text
    assert '    cert_poll_interval: "5min"  # default' in text
    # A port in plain text has no such section.
    assert text.count("cert_path") == 1


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "ca_path: /c, expected_name: node.local",
            ClientTls(ca_path="/c", expected_name="node.local", section="grpc.tls"),
        ),
        (
            "ca_path: /c, verify_client_cert: true, cert_poll_interval: 1m",
            ClientTls(
                ca_path="/c",
                cert_path="/a",
                key_path="/b",
                poll_interval=60.0,
                section="grpc.tls",
            ),
        ),
    ],
)
def test_a_client_presents_a_certificate_in_mutual_tls_only(
    load: Load, keys: str, expected: ClientTls
) -> None:
    config = load(f"grpc: {{tls: {{cert_path: /a, key_path: /b, {keys}}}}}")
    assert ClientOptions.from_config(config).tls == expected


@pytest.mark.parametrize(
    ("name", "address", "authority", "expected"),
    [
        (None, "10.0.0.7:7281", None, "10.0.0.7"),
        (None, "[2001:db8::7]:7281", None, "2001:db8::7"),
        (None, "10.0.0.7:7281", "metastore:7281", "metastore"),
        ("node.local", "10.0.0.7:7281", "metastore:7281", "node.local"),
    ],
)
def test_which_name_is_looked_for(
    name: str | None, address: str, authority: str | None, expected: str
) -> None:
    tls = ClientTls(ca_path="/c", expected_name=name)
    assert tls.name_of(address, authority) == expected
