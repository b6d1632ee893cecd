"""Every manifest is what the three newest versions of Kubernetes take, without a cluster."""

from __future__ import annotations

import pytest

from tests.support.kube_schemas import newest_versions, problems
from tests.support.manifests import NAMESPACE, OVERLAYS, VALUES, helm, overlay, with_components

# Every switch of the chart in both positions, in few renderings.
COMBINATIONS = {
    "all that is optional": (
        "--set=metastore.enabled=true,monitoring.podMonitor=true,monitoring.rules=true",
        "--set=monitoring.labels.release=prometheus,autoscaling.inFlightCalls=8",
        "--set=podAnnotations.team=search,imagePullSecrets[0].name=registry",
        "--set=readReplica.nodeSelector.disk=ssd,readReplica.tolerations[0].key=search",
        "--set=router.extraEnv[0].name=RUST_LOG,router.extraEnv[0].value=debug",
        "--set=networkPolicy.extraEgress[0].to[0].ipBlock.cidr=10.9.0.0/16",
        "--set=extraVolumes[0].name=tls,extraVolumes[0].secret.secretName=metastore-proxy-tls",
        "--set=extraVolumeMounts[0].name=tls,extraVolumeMounts[0].mountPath=/quickwit/tls",
    ),
    "as little as there can be": (
        "--set=router.enabled=false,autoscaling.enabled=false,networkPolicy.enabled=false",
    ),
    "metastore nodes alone, databases elsewhere": (
        "--set=metastore.enabled=true,migrate.enabled=false,readReplica.enabled=false",
        "--set=networkPolicy.primary.cidr=10.0.8.20/32,monitoring.serviceMonitor=true",
        "--set=networkPolicy.callers=null,image.tag=1.2.3,config.proxy.max_lag=5s",
    ),
    "databases outside the cluster": (
        "--set=metastore.enabled=true,networkPolicy.primary.cidr=10.0.8.20/32",
        "--set=networkPolicy.replica.cidr=10.0.8.21/32,networkPolicy.databasePort=6432",
    ),
}


def test_they_are_the_three_newest_versions() -> None:
    """Kubernetes 1.37 is of August 2026; newer ones come with the package's next version."""
    versions = newest_versions()
    assert len(versions) == 3
    assert tuple(map(int, versions[-1].split(".")[:2])) >= (1, 37)


@pytest.mark.parametrize("version", newest_versions())
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays(name: str, version: str) -> None:
    assert [found for one in overlay(name) for found in problems(one, version)] == []


@pytest.mark.parametrize("version", newest_versions())
@pytest.mark.parametrize("name", OVERLAYS)
def test_chart(name: str, version: str) -> None:
    manifests = helm(*VALUES[name])
    assert [found for one in manifests for found in problems(one, version)] == []


@pytest.mark.parametrize("version", newest_versions())
@pytest.mark.parametrize("name", COMBINATIONS)
def test_values_of_the_chart(name: str, version: str) -> None:
    manifests = helm(*COMBINATIONS[name])
    assert [found for one in manifests for found in problems(one, version)] == []


@pytest.mark.parametrize("monitor", ["pod-monitor", "service-monitor"])
def test_components(monitor: str) -> None:
    """What an overlay can add."""
    manifests = with_components("full", monitor, "rules", "in-flight")
    version = newest_versions()[-1]
    assert [found for one in manifests for found in problems(one, version)] == []
    assert len(manifests) == len(overlay("full")) + 2


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("Deployment", ("spec", "template", "spec", "tolerance"), [], "tolerance"),
        ("Deployment", ("spec", "minReadySeconds"), "soon", "soon"),
        ("NetworkPolicy", ("spec", "podSelector", "labels"), {}, "labels"),
        ("PrometheusRule", ("spec", "rules"), [], "rules"),
        ("PodMonitor", ("spec", "endpoints"), [], "endpoints"),
    ],
)
def test_a_mistake_is_found(kind: str, path: tuple[str, ...], value: object, said: str) -> None:
    manifests = with_components("full", "pod-monitor", "rules")
    manifest = next(one for one in manifests if one["kind"] == kind)
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    for version in newest_versions():
        assert any(said in found for found in problems(manifest, version))


def test_all_is_in_the_namespace_of_quickwit() -> None:
    for name in OVERLAYS:
        for one in overlay(name):
            assert one["metadata"]["namespace"] == NAMESPACE
