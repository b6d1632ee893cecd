"""Who may reach whom, by the NetworkPolicies as both tools render them."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.manifests import (
    NAMESPACE,
    OVERLAYS,
    VALUES,
    Manifest,
    helm,
    named,
    overlay,
    pod_template,
)
from tests.support.policies import Pod, Policies

NAMESPACES: Final = (NAMESPACE, "kube-system", "monitoring", "shop")
GRPC, REST, GOSSIP, HEALTH, SQL = 7281, 7280, 7282, 7283, 5432


def _quickwit(component: str) -> Pod:
    labels = {
        "app.kubernetes.io/name": "quickwit",
        "app.kubernetes.io/instance": "quickwit",
        "app.kubernetes.io/component": component,
    }
    return Pod(component, labels)


def _database(role: str) -> Pod:
    labels = {"cnpg.io/cluster": "quickwit-postgres", "cnpg.io/instanceRole": role}
    return Pod(f"{role} database", labels)


# Pods of others. Labels of Quickwit's: its chart's, by component.
SEARCHER, INDEXER = _quickwit("searcher"), _quickwit("indexer")
QUICKWIT_METASTORE = _quickwit("metastore")
PRIMARY_DB, REPLICA_DB = _database("primary"), _database("replica")
OTHER_DB = Pod("another database", {"cnpg.io/cluster": "shop", "cnpg.io/instanceRole": "primary"})
CALLER = Pod("caller", {"metastore-proxy/client": "true"})
STRANGER = Pod("stranger", {"app": "shop"})
ELSEWHERE = Pod("stranger of another namespace", {"metastore-proxy/client": "true"}, "shop")
IMPOSTOR = Pod("impostor", {"app.kubernetes.io/name": "quickwit"}, "shop")
PROMETHEUS = Pod("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring")
DNS = Pod("dns", {"k8s-app": "kube-dns"}, "kube-system")
# On each node, outside all namespaces.
NODE_DNS = Pod("DNS cache", {}, "", "169.254.20.10")
API = Pod("the API server", {}, "", "10.96.0.1")
INTERNET = Pod("the internet", {}, "", "93.184.215.14")


def _ours(manifests: list[Manifest], component: str) -> Pod:
    """Return a pod with the very labels that the manifests give it."""
    kind = "Job" if component == "migrate" else "Deployment"
    workload = named(manifests, kind, f"metastore-proxy-{component}")
    return Pod(component, pod_template(workload)["metadata"]["labels"])


@pytest.fixture(params=["kustomize", "helm"])
def rendered(request: pytest.FixtureRequest) -> dict[str, list[Manifest]]:
    """Both overlays, or the chart with their values."""
    if request.param == "kustomize":
        return {name: overlay(name) for name in OVERLAYS}
    return {name: helm(*VALUES[name]) for name in OVERLAYS}


Pair = tuple[Pod | str, Pod | str, int]

# From, to, port: what gets through in both overlays, and what in neither.
ALLOWED: Final[list[Pair]] = [
    (SEARCHER, "read-replica", GRPC),
    (SEARCHER, "router", GRPC),
    (INDEXER, "read-replica", GRPC),
    (CALLER, "router", GRPC),
    ("router", "read-replica", GRPC),
    ("router", QUICKWIT_METASTORE, GRPC),
    ("read-replica", "read-replica", GRPC),
    ("read-replica", QUICKWIT_METASTORE, GRPC),
    ("read-replica", REPLICA_DB, SQL),
    (REPLICA_DB, PRIMARY_DB, SQL),
    (PROMETHEUS, "read-replica", REST),
    (PROMETHEUS, "router", REST),
    (PROMETHEUS, REPLICA_DB, 9187),
]
DENIED: Final[list[Pair]] = [
    (SEARCHER, REPLICA_DB, SQL),
    (INDEXER, REPLICA_DB, SQL),
    (CALLER, REPLICA_DB, SQL),
    (STRANGER, REPLICA_DB, SQL),
    (ELSEWHERE, REPLICA_DB, SQL),
    (PROMETHEUS, REPLICA_DB, SQL),
    ("router", REPLICA_DB, SQL),
    ("router", PRIMARY_DB, SQL),
    ("read-replica", PRIMARY_DB, SQL),
    ("read-replica", OTHER_DB, SQL),
    ("read-replica", REPLICA_DB, 22),
    (STRANGER, "router", GRPC),
    (STRANGER, "read-replica", GRPC),
    (CALLER, "read-replica", GRPC),
    (ELSEWHERE, "router", GRPC),
    (IMPOSTOR, "router", GRPC),
    (STRANGER, "router", REST),
    (SEARCHER, "router", REST),
    (PROMETHEUS, "router", GRPC),
    (PROMETHEUS, "router", HEALTH),
    ("router", INDEXER, GRPC),
    ("router", API, 443),
    ("read-replica", API, 443),
    ("router", INTERNET, 443),
    ("read-replica", INTERNET, SQL),
]
# Where there are `metastore` nodes of ours.
ALLOWED_FULL: Final[list[Pair]] = [
    (SEARCHER, "metastore", GRPC),
    (INDEXER, "metastore", GRPC),
    ("router", "metastore", GRPC),
    ("read-replica", "metastore", GRPC),
    ("metastore", PRIMARY_DB, SQL),
    ("migrate", PRIMARY_DB, SQL),
    (PROMETHEUS, "metastore", REST),
]
DENIED_FULL: Final[list[Pair]] = [
    (SEARCHER, PRIMARY_DB, SQL),
    (INDEXER, PRIMARY_DB, SQL),
    (QUICKWIT_METASTORE, PRIMARY_DB, SQL),
    (CALLER, PRIMARY_DB, SQL),
    (STRANGER, PRIMARY_DB, SQL),
    (ELSEWHERE, PRIMARY_DB, SQL),
    ("metastore", REPLICA_DB, SQL),
    ("metastore", "read-replica", GRPC),
    ("metastore", INTERNET, SQL),
    ("migrate", REPLICA_DB, SQL),
    ("migrate", "metastore", GRPC),
    (CALLER, "metastore", GRPC),
    (STRANGER, "metastore", GRPC),
    (STRANGER, "migrate", REST),
]


def _mistakes(manifests: list[Manifest], pairs: list[Pair], *, expected: bool) -> list[str]:
    policies = Policies(manifests, NAMESPACE, NAMESPACES)
    wrong = []
    for sender, receiver, port in pairs:
        one = _ours(manifests, sender) if isinstance(sender, str) else sender
        other = _ours(manifests, receiver) if isinstance(receiver, str) else receiver
        if policies.allow(one, other, port) is not expected:
            wrong.append(f"{one.name} -> {other.name}:{port}")
    return wrong


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_gets_through(rendered: dict[str, list[Manifest]], name: str) -> None:
    assert _mistakes(rendered[name], ALLOWED, expected=True) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_does_not(rendered: dict[str, list[Manifest]], name: str) -> None:
    assert _mistakes(rendered[name], DENIED, expected=False) == []


def test_metastore_nodes(rendered: dict[str, list[Manifest]]) -> None:
    assert _mistakes(rendered["full"], ALLOWED_FULL, expected=True) == []
    assert _mistakes(rendered["full"], DENIED_FULL, expected=False) == []


def test_the_primary_is_not_touched_beside_quickwit_s_own_metastore(
    rendered: dict[str, list[Manifest]],
) -> None:
    """`replicas-only` says nothing of a database that Quickwit's nodes use."""
    pairs: list[Pair] = [(QUICKWIT_METASTORE, PRIMARY_DB, SQL)]
    assert _mistakes(rendered["replicas-only"], pairs, expected=True) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_gossip_and_names(rendered: dict[str, list[Manifest]], name: str) -> None:
    manifests = rendered[name]
    policies = Policies(manifests, NAMESPACE, NAMESPACES)
    components = ["read-replica", "router", *(["metastore"] if name == "full" else [])]
    ours = [_ours(manifests, component) for component in components]
    for one in ours:
        for other in [*ours, SEARCHER, INDEXER]:
            assert policies.allow(one, other, GOSSIP, "UDP")
            assert policies.allow(other, one, GOSSIP, "UDP")
            assert not policies.allow(other, one, GOSSIP, "TCP")
        for other in (STRANGER, CALLER, ELSEWHERE, IMPOSTOR, PROMETHEUS):
            assert not policies.allow(other, one, GOSSIP, "UDP"), f"{other.name} -> {one.name}"
        for dns in (DNS, NODE_DNS):
            assert policies.allow(one, dns, 53, "UDP")
            assert policies.allow(one, dns, 53, "TCP")
        assert not policies.allow(one, DNS, 443)
    if name == "full":
        assert policies.allow(_ours(manifests, "migrate"), DNS, 53, "UDP")


def test_databases_outside_the_cluster() -> None:
    manifests = helm(
        "--set=metastore.enabled=true,networkPolicy.databasePort=6432",
        "--set=networkPolicy.primary.cidr=10.0.8.20/32,networkPolicy.replica.cidr=10.0.8.21/32",
    )
    primary, replica = Pod("primary", {}, "", "10.0.8.20"), Pod("replica", {}, "", "10.0.8.21")
    allowed: list[Pair] = [
        ("metastore", primary, 6432),
        ("migrate", primary, 6432),
        ("read-replica", replica, 6432),
    ]
    denied: list[Pair] = [
        ("metastore", replica, 6432),
        ("read-replica", primary, 6432),
        ("read-replica", replica, 5432),
        ("router", replica, 6432),
        ("router", primary, 6432),
        ("metastore", PRIMARY_DB, 6432),
    ]
    assert _mistakes(manifests, allowed, expected=True) == []
    assert _mistakes(manifests, denied, expected=False) == []


def test_nodes_of_another_release_are_members() -> None:
    """A second standby's nodes reach the first's, and not their database."""
    first, second = helm(), helm("--set=router.enabled=false", release="standby-b")
    policies = Policies([*first, *second], NAMESPACE, NAMESPACES)
    one = _ours(first, "read-replica")
    other = Pod("b", {**one.labels, "app.kubernetes.io/instance": "standby-b"})
    assert policies.allow(one, other, GOSSIP, "UDP")
    assert policies.allow(other, one, GOSSIP, "UDP")
    assert policies.allow(_ours(first, "router"), other, GRPC)


@pytest.mark.parametrize("policy", ["members", "read-replica", "router", "to-replica-database"])
def test_every_policy_matters(policy: str) -> None:
    """Without it something that should pass does not, or the other way round."""
    manifests = [
        one
        for one in overlay("full")
        if (one["kind"], one["metadata"]["name"]) != ("NetworkPolicy", f"metastore-proxy-{policy}")
    ]
    wrong = _mistakes(manifests, ALLOWED + ALLOWED_FULL, expected=True)
    wrong += _mistakes(manifests, DENIED + DENIED_FULL, expected=False)
    assert wrong
