"""The role of a router, and the settings by which calls are passed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from proxy.client import ClientOptions, RoutingClient
from proxy.config import ConfigError, describe, load_config
from proxy.roles import Role
from tests.unit.config.conftest import REPLICA, Load

SHIPPED = Path(__file__).parents[3] / "config" / "metastore_router.yaml"
TARGETS = "primary: ['a:1'], replicas: ['b:1', 'dns:///c:2']"
ROUTER = ["metastore_router"]


@pytest.mark.parametrize("name", ["metastore_router", "metastore-router"])
def test_a_router_needs_no_database(load: Load, name: str) -> None:
    text = f'version: "0.8"\nproxy: {{{TARGETS}}}'
    config = load(text, bare=True, services=[name])
    assert config.role is Role.ROUTER
    assert config.routes
    assert not config.role.has_database
    assert config.enabled_services == ("metastore_router",)
    assert config.warnings == ()
    with pytest.raises(ConfigError, match="has no database"):
        _ = config.database_uri


@pytest.mark.parametrize("key", ["metastore_uri", "metastore_read_replica_uri"])
@pytest.mark.parametrize("uri", ["postgresql://h/d", "s3://bucket", "file:///x"])
def test_a_router_does_not_look_at_uris(load: Load, key: str, uri: str) -> None:
    assert load(f"{key}: {uri}\nproxy: {{{TARGETS}}}", services=ROUTER).role is Role.ROUTER


@pytest.mark.parametrize(
    ("services", "section", "problem"),
    [
        (["metastore_router"], "", "requires `proxy.primary` to be set"),
        (["metastore_router", "metastore"], TARGETS, "`metastore_router` service must run stand"),
        (["metastore_router", "searcher"], TARGETS, "`metastore_router` service must run stand"),
        (["metastore_routr"], TARGETS, "did you mean `metastore_router`?"),
        (["metastore_read_replica"], "forward: true", "`proxy.forward` requires `proxy.primary`"),
        (ROUTER, "discovery: gossip, gossip: false", "gossip` needs `proxy.gossip: true`"),
        (ROUTER, f"{TARGETS}, forward: 1", "`proxy.forward` must be true or false"),
        (ROUTER, f"{TARGETS}, max_lag: 5", "`proxy.max_lag` must be a duration"),
        (ROUTER, f"{TARGETS}, max_lag: 0s", "`proxy.max_lag` must be longer than zero"),
        (ROUTER, f"{TARGETS}, max_lag: -1s", "`proxy.max_lag` must be"),
        (ROUTER, f"{TARGETS}, serve_stale: 'yes'", "`proxy.serve_stale` must be true or false"),
        (ROUTER, f"{TARGETS}, fallback_concurrency: -1", "must be a whole number from 0"),
        (ROUTER, f"{TARGETS}, retry_ratio: 1.5", "must be a number from 0 to 1"),
        (ROUTER, f"{TARGETS}, retry_ratio: '0.1'", "`proxy.retry_ratio` must be a number"),
        (ROUTER, f"{TARGETS}, retry_ratio: true", "`proxy.retry_ratio` must be a number"),
        (ROUTER, f"{TARGETS}, hedge_delay: fast", "`proxy.hedge_delay`"),
        (ROUTER, f"{TARGETS}, freshness_interval: 0s", "must be longer than zero"),
        (ROUTER, f"{TARGETS}, min_lsn_wait: 1", "`proxy.min_lsn_wait` must be a duration"),
        (ROUTER, f"{TARGETS}, maxlag: 1s", "`proxy` has no key `maxlag`: did you mean `max_lag`?"),
    ],
)
def test_rejected(load: Load, services: list[str], section: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            f"metastore_read_replica_uri: {REPLICA}\nproxy: {{{section}}}",
            services=services,
        )
    (found,) = caught.value.problems
    assert problem in found


def test_a_router_without_a_primary_warns(load: Load) -> None:
    config = load("proxy: {replicas: ['b:1']}", services=ROUTER)
    assert any("`proxy.primary` is not set" in warning for warning in config.warnings)


@pytest.mark.parametrize("services", [ROUTER, ["metastore_read_replica"]])
@pytest.mark.parametrize("seeds", ["", "peer_seeds: [seed]\n"])
def test_with_gossip_no_target_is_needed_but_a_seed(
    load: Load, services: list[str], seeds: str
) -> None:
    text = (
        f"metastore_read_replica_uri: {REPLICA}\n{seeds}proxy: {{discovery: gossip, forward: true}}"
    )
    config = load(text, services=services)
    assert config.proxy.discovery == "gossip"
    assert config.routes
    assert any("`peer_seeds` is not set" in one for one in config.warnings) is (not seeds)


def test_a_client_of_its_own_cannot_follow_gossip(load: Load) -> None:
    config = load("proxy: {discovery: gossip}", services=ROUTER)
    with pytest.raises(ValueError, match=r"proxy\.joining\.gossip_client"):
        RoutingClient.from_config(config)


def test_defaults(load: Load) -> None:
    options = ClientOptions.from_config(load(f"proxy: {{{TARGETS}}}", services=ROUTER))
    assert options.max_lag is None
    assert options.serve_stale
    assert options.fallback_concurrency == 32
    assert options.retry_ratio == 0.18
    assert options.retry_reserve == 10
    assert options.hedge_delay is None
    assert options.slow_start == 5.0
    assert options.freshness_interval == 0.25
    assert options.availability_zone is None


def test_settings_reach_the_client(load: Load) -> None:
    section = (
        f"{TARGETS}, max_lag: 1500ms, serve_stale: false, fallback_concurrency: 4, "
        "retry_ratio: 0.1, retry_reserve: 3, hedge_delay: 20ms, slow_start: 1s, "
        "freshness_interval: 100ms"
    )
    config = load(
        f"proxy: {{{section}}}\ngrpc: {{max_message_size: 2MiB}}",
        services=ROUTER,
        environ={"QW_AVAILABILITY_ZONE": "zone-a"},
    )
    options = ClientOptions.from_config(config)
    assert options.max_lag == 1.5
    assert not options.serve_stale
    assert options.fallback_concurrency == 4
    assert options.retry_ratio == 0.1
    assert options.retry_reserve == 3
    assert options.hedge_delay == 0.02
    assert options.slow_start == 1.0
    assert options.freshness_interval == 0.1
    assert options.availability_zone == "zone-a"
    assert options.max_message_size == 2 * 1024 * 1024
    described = describe(config)["proxy"]
    assert described["max_lag"] == "1.5s"
    assert described["serve_stale"] is False
    assert described["hedge_delay"] == "20ms"


def test_forwarding_is_off_unless_asked_for(load: Load) -> None:
    uri = f"metastore_read_replica_uri: {REPLICA}"
    services = ["metastore_read_replica"]
    assert not load(f"{uri}\nproxy: {{{TARGETS}}}", services=services).routes
    assert load(f"{uri}\nproxy: {{{TARGETS}, forward: true}}", services=services).routes
    # One file for all roles: the key concerns the replicas.
    shared = load(f"proxy: {{{TARGETS}, forward: true}}", services=["metastore"])
    assert not shared.routes
    assert shared.warnings == ()


def test_the_shipped_file_is_usable_as_it_is(load: Load) -> None:
    config = load_config(SHIPPED, environ={})
    assert config.role is Role.ROUTER
    assert config.warnings == ()
    # Every key that it shows is the default, so that removing one changes nothing.
    shown = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["proxy"]
    targets = {key: shown[key] for key in ("primary", "replicas")}
    plain = load(f"proxy: {json.dumps(targets)}", services=ROUTER)
    assert config.proxy == plain.proxy
