"""How the names of a deployment become addresses of this machine: nothing else may change."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.deployed import Names

NAMES = Names(
    {
        "metastore": ("127.1.1.1",),
        "metastore.quickwit.svc": ("127.1.1.1",),
        "postgres-primary": ("127.1.1.2",),
        "replica": ("127.1.1.3", "127.1.1.4"),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "postgresql://quickwit_rw@postgres-primary:5432/quickwit",
            "postgresql://quickwit_rw@127.1.1.2:5432/quickwit",
        ),
        ("postgresql://u:p@postgres-primary/metastore", "postgresql://u:p@127.1.1.2/metastore"),
        ("metastore:7281", "127.1.1.1:7281"),
        ("dns:///metastore.quickwit.svc:7281", "dns:///127.1.1.1:7281"),
        ("http://metastore:7280/metastore", "http://127.1.1.1:7280/metastore"),
        # The role, an ID, a longer name, a path, and what only ends alike.
        ("metastore", "metastore"),
        ("metastore_read_replica", "metastore_read_replica"),
        ("metastore-2:7281", "metastore-2:7281"),
        ("/var/lib/metastore", "/var/lib/metastore"),
        ("my-metastore:7281", "my-metastore:7281"),
        ("postgresql://metastore@other/metastore", "postgresql://metastore@other/metastore"),
    ],
)
def test_only_hosts_are_translated_in_a_text(text: str, expected: str) -> None:
    assert NAMES.in_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metastore", "127.1.1.1"),
        ("metastore, replica", "127.1.1.1,127.1.1.3,127.1.1.4"),
        ("replica:7282,other", "127.1.1.3:7282,127.1.1.4:7282,other"),
    ],
)
def test_a_list_of_hosts_names_all_that_a_name_stands_for(text: str, expected: str) -> None:
    assert NAMES.in_list(text) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"peer_seeds": ["metastore"]}, {"peer_seeds": ["127.1.1.1"]}),
        ({"enabled_services": ["metastore"]}, {"enabled_services": ["metastore"]}),
        (
            {"proxy": {"replicas": ["dns:///replica:7281"], "forward": True}},
            {
                "proxy": {
                    "replicas": ["dns:///127.1.1.3:7281", "dns:///127.1.1.4:7281"],
                    "forward": True,
                }
            },
        ),
        ({"a": [{"targets": ["metastore:80"]}]}, {"a": [{"targets": ["127.1.1.1:80"]}]}),
        ({"version": "0.8", "n": 1, "none": None}, {"version": "0.8", "n": 1, "none": None}),
    ],
)
def test_a_config_is_translated_by_its_keys(document: Any, expected: Any) -> None:
    assert NAMES.in_document(document) == expected
