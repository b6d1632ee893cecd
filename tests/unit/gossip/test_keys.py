"""How values of keys are read and written."""

from __future__ import annotations

import pytest

from proxy.gossip.keys import lag_at_most, lag_of, services_of, socket_address_of


@pytest.mark.parametrize(
    ("value", "services"),
    [
        ("metastore", {"metastore"}),
        ("metastore,metastore-read-replica", {"metastore", "metastore_read_replica"}),
        ("control_plane, indexer", {"control-plane", "indexer"}),
        ("compactor,janitor,searcher,unheard-of", {"compactor", "janitor", "searcher"}),
        ("metastore_router", set()),
        ("", set()),
    ],
)
def test_services(value: str, services: set[str]) -> None:
    assert services_of(value) == services


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("10.0.0.5:7281", "10.0.0.5:7281"),
        ("[2001:DB8:0::1]:7281", "[2001:db8::1]:7281"),
        ("2001:db8::1:7281", None),
        ("[10.0.0.5]:7281", None),
        ("metastore:7281", None),
        ("10.0.0.5", None),
        ("10.0.0.5:", None),
        ("10.0.0.5:0", None),
        ("10.0.0.5:65536", None),
        ("10.0.0.5:000080", None),
        ("10.0.0.5:\uff18\uff10", None),
        ("10.0.0.256:80", None),
        ("", None),
    ],
)
def test_socket_addresses(value: str, address: str | None) -> None:
    assert socket_address_of(value) == address


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.0, "1"),
        (1.0, "1"),
        (1.01, "2"),
        (7.0, "10"),
        (3_600.0, "3600"),
        (3_601.0, "unknown"),
        (float("inf"), "unknown"),
        (float("nan"), "unknown"),
        (None, "unknown"),
    ],
)
def test_lag_is_written_in_coarse_steps(seconds: float | None, value: str) -> None:
    assert lag_at_most(seconds) == value
    assert lag_of(value) == (None if value == "unknown" else float(value))


@pytest.mark.parametrize("value", [None, "", "7", "-1", "1e9", "nan", "soon"])
def test_a_lag_that_is_no_step_is_unknown(value: str | None) -> None:
    assert lag_of(value) is None
