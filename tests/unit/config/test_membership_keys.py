"""The keys by which a node is a member of a cluster."""

from __future__ import annotations

import pytest
import yaml

from proxy.config import ConfigError, describe
from tests.unit.config.conftest import Load

ROUTER = ["metastore_router"]
TARGETS = "primary: ['a:1']"


@pytest.mark.parametrize(
    ("section", "advertised", "rendered"),
    [
        ("", ("metastore_read_replica",), ["metastore_read_replica"]),
        ("router: {}", ("metastore_read_replica",), ["metastore_read_replica"]),
        ("router: {advertise_as: metastore}", ("metastore",), ["metastore"]),
        (
            "router: {advertise_as: [metastore, metastore_read_replica, metastore]}",
            ("metastore", "metastore_read_replica"),
            ["metastore", "metastore_read_replica"],
        ),
        ("router: {advertise_as: none}", (), "none"),
        ("router: {advertise_as: [none]}", (), "none"),
    ],
)
def test_advertise_as(
    load: Load, section: str, advertised: tuple[str, ...], rendered: object
) -> None:
    config = load(f"proxy: {{{TARGETS}, {section}}}", services=ROUTER)
    assert config.proxy.router.advertise_as == advertised
    described = describe(config)["proxy"]["router"]
    assert described == {"advertise_as": rendered}
    again = load(yaml.safe_dump({"proxy": {"primary": ["a:1"], "router": described}}))
    assert again.proxy.router == config.proxy.router


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("router: {advertise_as: searcher}", "`proxy.router.advertise_as` must be one of"),
        (
            "router: {advertise_as: metastore-read-replica}",
            "did you mean `metastore_read_replica`?",
        ),
        ("router: {advertise_as: [none, metastore]}", "must be `none` alone, or a list without it"),
        ("router: {advertise_as: []}", "a list of them, or `none`, it is a list of 0 items"),
        ("router: {advertise_as: 3}", "a list of them, or `none`, it is a number"),
        ("router: {advertise_as: [[metastore]]}", "must be one of"),
        ("router: {advertize_as: none}", "`proxy.router` has no key `advertize_as`: did you mean"),
        ("router: none", "`proxy.router` must be a mapping of keys"),
        ("gossip: 'on'", "`proxy.gossip` must be true or false"),
    ],
)
def test_rejected(load: Load, section: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"proxy: {{{TARGETS}, {section}}}", services=ROUTER)
    assert problem in str(caught.value)


def test_gossip_is_on_unless_told_otherwise(load: Load) -> None:
    assert load().proxy.gossip
    assert not load("proxy: {gossip: false}").proxy.gossip


@pytest.mark.parametrize(
    "seed", ["a", "a.b-c:7280", "10.0.0.1", "10.0.0.1:1", "::1", "[fd00::1]:65535"]
)
def test_seeds(load: Load, seed: str) -> None:
    assert load(f"peer_seeds: ['{seed}', b, b]").peer_seeds == (seed, "b")


@pytest.mark.parametrize(
    "seed",
    ["a:0", "a:65536", "a:b", "dns:///a:1", "http://a", "a/b", "[::1]", "user:pw@host", "a b"],
)
def test_a_malformed_seed_is_named_by_its_position(load: Load, seed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"peer_seeds: [fine, '{seed}']")
    (problem,) = caught.value.problems
    assert "`peer_seeds` item 2 must be a host, `host:port` or `[v6]:port`" in problem
    assert seed not in problem.replace("host:port", "").replace("[v6]", "")


def test_gossip_shares_its_number_with_any_tcp_port(load: Load) -> None:
    config = load("rest: {listen_port: 9000}\ngossip_listen_port: 9001")
    assert config.gossip_listen_port == config.grpc_listen_port == 9001
