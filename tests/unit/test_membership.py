"""What a node tells the cluster of itself."""

from __future__ import annotations

import pytest

from proxy.config import NodeConfig, ProxySettings
from proxy.config.model import RouterSettings
from proxy.gossip import keys
from proxy.membership import CALM, CalmLag, next_generation, own_keys
from proxy.roles import Role


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ([(0.0, 0.2)], ["1"]),
        ([(0.0, 0.2), (1.0, 0.9), (2.0, 0.0)], ["1"]),
        # Up at once; down when it has been lower all the time, step by step of what it has been.
        ([(0.0, 0.2), (1.0, 4.0), (2.0, 0.2), (1.0 + CALM, 0.2)], ["1", "5", "1"]),
        (
            [(0.0, 40.0), (2.0, 7.0), (CALM, 0.2), (2.0 + CALM, 0.2)],
            ["60", "10", "1"],
        ),
        ([(0.0, 0.2), (1.0, 1.1), (5.0, 0.9), (9.0, 1.1), (18.0, 0.9)], ["1", "2"]),
        ([(0.0, 0.2), (1.0, None), (2.0, 0.2), (1.0 + CALM, 0.2)], ["1", "unknown", "1"]),
        ([(0.0, 1e9)], ["unknown"]),
    ],
)
def test_a_lag_is_told_coarsely_and_calmly(
    notes: list[tuple[float, float | None]], told: list[str]
) -> None:
    lag = CalmLag()
    heard = []
    for now, seconds in notes:
        if lag.note(seconds, now):
            heard.append(lag.told)
    assert heard == told


def test_generations_grow_even_where_the_clock_does_not() -> None:
    generations = [next_generation() for _ in range(1000)]
    assert generations == sorted(set(generations))


SET = {
    keys.STANDALONE_COMPACTORS: "false",
    keys.VERSION: "0.1.0",
    keys.REST_ADVERTISE_ADDR: "10.0.0.1:7280",
    keys.GRPC_ADVERTISE_ADDR: "10.0.0.1:7281",
    keys.READINESS: keys.NOT_READY,
}


@pytest.mark.parametrize(
    ("role", "advertise_as", "services"),
    [
        (Role.METASTORE, (), "metastore"),
        (Role.READ_REPLICA, (), "metastore_read_replica"),
        (Role.ROUTER, RouterSettings().advertise_as, "metastore_read_replica"),
        (Role.ROUTER, ("metastore", "metastore_read_replica"), "metastore,metastore_read_replica"),
        (Role.ROUTER, (), ""),
    ],
)
def test_keys(role: Role, advertise_as: tuple[str, ...], services: str) -> None:
    config = NodeConfig(role, proxy=ProxySettings(router=RouterSettings(advertise_as)))
    own = own_keys(config, grpc="10.0.0.1:7281", rest="10.0.0.1:7280")
    assert own == {**SET, keys.ENABLED_SERVICES: services, keys.ROLE: role.value}
    # Quickwit's order: a reader that sees a part of them sees these.
    first = ["enabled_services", "grpc_advertise_addr", "readiness"]
    assert list(own)[:4] == [*first, "standalone_compactors"]


def test_the_zone_is_told_where_there_is_one() -> None:
    config = NodeConfig(Role.METASTORE, availability_zone="zone-a")
    own = own_keys(config, grpc="10.0.0.1:7281", rest="10.0.0.1:7280")
    assert list(own)[3] == "availability_zone"
    assert own["availability_zone"] == "zone-a"
