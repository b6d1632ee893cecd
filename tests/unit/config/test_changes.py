"""What of a changed configuration a running node takes up."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import ConfigError
from proxy.config.changes import changes
from tests.unit.config.conftest import Load

BASE = "metastore_uri: postgresql://u:old-secret@h/db\nproxy: {primary: ['a:1']}"


@pytest.mark.parametrize(
    ("document", "applied", "pending"),
    [
        (BASE, [], []),
        (
            "metastore_uri: postgresql://u:old-secret@h/db\nproxy: {primary: ['b:1']}",
            ['proxy.primary: ["a:1"] -> ["b:1"]'],
            [],
        ),
        # Of a password nothing is shown, not even that it is one.
        (BASE.replace("old-secret", "new-secret"), [], ["metastore_uri"]),
        (BASE + "\ngrpc_listen_port: 9", [], ["grpc_listen_port"]),
        (
            BASE + "\nmetastore: {postgres: {max_connections: 7}}",
            [],
            ["metastore.postgres.max_connections"],
        ),
        (
            BASE + "\nrest: {tls: {cert_path: /a, key_path: /b}}",
            [],
            ["rest.tls"],
        ),
    ],
)
def test_each_key_is_taken_up_or_named(
    load: Load, document: str, applied: list[str], pending: list[str]
) -> None:
    old = load(BASE)
    found = changes(old, load(document))
    assert (list(found.applied), list(found.pending)) == (applied, pending)
    assert "secret" not in str(found.applied) + str(found.pending)
    again = changes(found.config, load(document))
    # What was taken up is in force, and what was not is named until the restart.
    assert (list(again.applied), list(again.pending)) == ([], pending)


def test_paths_of_tls_change_and_the_section_stays(load: Load) -> None:
    def tls(text: str) -> Any:
        return load(f"{BASE}\ngrpc: {{tls: {{cert_path: {text}, key_path: /k}}}}")

    found = changes(tls("/a"), tls("/b"))
    assert found.applied == ('grpc.tls.cert_path: "/a" -> "/b"',)
    assert found.config.grpc.tls is not None
    assert found.config.grpc.tls.cert_path == "/b"


def test_both_secrets_are_known_to_the_log(load: Load) -> None:
    found = changes(load(BASE), load(BASE.replace("old-secret", "new-secret")))
    assert {"old-secret", "new-secret"} <= set(found.config.secrets)
    assert found.config.metastore_uri == load(BASE).metastore_uri


def test_a_mixture_that_makes_no_sense_is_refused(load: Load) -> None:
    static = "enabled_services: [metastore_router]\nproxy: {primary: ['a:1']}"
    gossip = "enabled_services: [metastore_router]\npeer_seeds: [b]\nproxy: {discovery: gossip}"
    with pytest.raises(ConfigError, match="the rest needs a restart: `peer_seeds`"):
        changes(load(static), load(gossip))
