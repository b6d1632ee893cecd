"""What a manifest names is there: pods of a selector, ports, Secrets, ConfigMaps, Deployments."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.config import NodeConfig, load_config
from tests.support.image import image
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    Manifest,
    container_of,
    everything,
    helm,
    named,
    of_kind,
    pod_template,
    selects,
    with_components,
)
from tests.support.pod_security import violations

ROOT: Final = KUBERNETES.parents[1]
# The Secrets that the README tells to make, with the key of each.
SECRETS: Final = {
    "metastore-proxy-owner": "QW_METASTORE_URI",
    "metastore-proxy-primary": "QW_METASTORE_URI",
    "metastore-proxy-replica": "QW_METASTORE_READ_REPLICA_URI",
}
# Who may have which of them.
HOLDERS: Final = {
    "metastore-proxy-owner": {"metastore-proxy-migrate"},
    "metastore-proxy-primary": {"metastore-proxy-metastore"},
    "metastore-proxy-replica": {"metastore-proxy-read-replica"},
}


@pytest.fixture(
    params=["kustomize replicas-only", "kustomize full", "helm replicas-only", "helm full"]
)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return dict(everything())[request.param]


def _workloads(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "Deployment", "Job")


def _picked(manifests: list[Manifest], selector: Mapping[str, Any]) -> list[str]:
    return [
        one["metadata"]["name"]
        for one in _workloads(manifests)
        if selects(pod_template(one)["metadata"]["labels"], selector)
    ]


def _values(document: Any, key: str) -> Iterator[Any]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(document, list):
        for item in document:
            yield from _values(item, key)


def test_secrets_are_referred_to(manifests: list[Manifest]) -> None:
    """Each pod has no more than it needs, by reference; nothing like one is written out."""
    assert not of_kind(manifests, "Secret")
    found: dict[str, set[str]] = {}
    for workload in _workloads(manifests):
        for reference in _values(workload, "secretKeyRef"):
            assert reference["key"] == SECRETS[reference["name"]]
            found.setdefault(reference["name"], set()).add(workload["metadata"]["name"])
        assert not list(_values(workload, "secretRef"))
    assert found == {name: HOLDERS[name] for name in found}
    assert "metastore-proxy-replica" in found
    text = yaml.safe_dump(manifests)
    assert not re.search(r"postgres(?:ql)?://|password", text, re.IGNORECASE)


def test_selectors_pick_pods(manifests: list[Manifest]) -> None:
    for workload in of_kind(manifests, "Deployment"):
        own = workload["metadata"]["name"]
        assert _picked(manifests, workload["spec"]["selector"]) == [own]
    for service in of_kind(manifests, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        picked = _picked(manifests, selector)
        name = service["metadata"]["name"].removesuffix("-headless")
        deployments = [one["metadata"]["name"] for one in of_kind(manifests, "Deployment")]
        assert sorted(picked) == (sorted(deployments) if name.endswith("-gossip") else [name])
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert _picked(manifests, budget["spec"]["selector"]) == [budget["metadata"]["name"]]
    for policy in of_kind(manifests, "NetworkPolicy"):
        is_guard = policy["metadata"]["name"] in {
            "metastore-proxy-primary-database",
            "metastore-proxy-replica-database",
        }
        assert bool(_picked(manifests, policy["spec"]["podSelector"])) is not is_guard


def test_every_workload_has_what_it_needs(manifests: list[Manifest]) -> None:
    """A budget for each, and an autoscaler only where the Deployment leaves the number to it."""
    deployments = {one["metadata"]["name"]: one for one in of_kind(manifests, "Deployment")}
    budgets = {one["metadata"]["name"] for one in of_kind(manifests, "PodDisruptionBudget")}
    assert budgets == set(deployments)
    scaled = set()
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["apiVersion"], target["kind"]) == ("apps/v1", "Deployment")
        assert scaler["spec"]["minReplicas"] >= 2
        scaled.add(target["name"])
    assert scaled == {"metastore-proxy-read-replica", "metastore-proxy-router"}
    for name, deployment in deployments.items():
        assert ("replicas" in deployment["spec"]) is (name not in scaled)
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": 1,
            "maxUnavailable": 0,
        }


def test_ports(manifests: list[Manifest], tmp_path: Path) -> None:
    """The ports of Services, probes and annotations are ports of the containers, as configured."""
    config = _config(manifests, tmp_path, "metastore_router", {})
    for deployment in of_kind(manifests, "Deployment"):
        container = container_of(deployment)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {
            "grpc": config.grpc_listen_port,
            "rest": config.rest_listen_port,
            "gossip": config.gossip_listen_port,
            "health": config.health_listen_port,
        }
        for probe, path in (
            ("startupProbe", "/health/livez"),
            ("livenessProbe", "/health/livez"),
            ("readinessProbe", "/health/readyz"),
        ):
            assert container[probe]["httpGet"] == {"path": path, "port": "health"}
        annotations = pod_template(deployment)["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(ports["rest"])
        for service in of_kind(manifests, "Service"):
            for port in service["spec"]["ports"]:
                assert port["port"] == ports[port["targetPort"]]


def test_maps_volumes_and_variables(manifests: list[Manifest]) -> None:
    maps = {one["metadata"]["name"] for one in of_kind(manifests, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in of_kind(manifests, "ServiceAccount")}
    for workload in _workloads(manifests):
        spec = pod_template(workload)["spec"]
        used = {one["name"] for one in _values(spec, "configMapRef")}
        used |= {one["name"] for one in _values(spec, "configMap")}
        assert used <= maps
        assert spec.get("serviceAccountName", next(iter(accounts))) in accounts
        known: set[str] = set()
        for variable in container_of(workload).get("env", []):
            assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= known
            assert variable["name"] not in known
            known.add(variable["name"])


def test_restricted_pods(manifests: list[Manifest]) -> None:
    for workload in _workloads(manifests):
        assert violations(pod_template(workload)["spec"]) == []
    for account in of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("securityContext", "runAsNonRoot"), False, "runAsNonRoot"),
        (("securityContext", "seccompProfile", "type"), "Unconfined", "seccompProfile"),
        (("hostNetwork",), True, "hostNetwork"),
        (("automountServiceAccountToken",), None, "automountServiceAccountToken"),
        (("containers", 0, "securityContext", "capabilities", "drop"), [], "capabilities"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "readOnly"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
        (("containers", 0, "ports", 0, "hostPort"), 7281, "hostPort"),
        (("volumes", 1), {"name": "data", "hostPath": {"path": "/"}}, "hostPath"),
    ],
)
def test_a_lax_pod_is_found(path: tuple[Any, ...], value: object, said: str) -> None:
    spec: Any = pod_template(named(helm(), "Deployment", "metastore-proxy-router"))["spec"]
    place = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(said in found for found in violations(spec))


def _config(
    manifests: list[Manifest], directory: Path, service: str, environ: dict[str, str]
) -> NodeConfig:
    """Return what a pod's node makes of the ConfigMap."""
    document = named(manifests, "ConfigMap", "metastore-proxy-config")["data"]["node.yaml"]
    path = directory / "node.yaml"
    path.write_text(document, encoding="utf-8")
    return load_config(path, environ=environ, services=[service])


def test_the_config_of_every_role(manifests: list[Manifest], tmp_path: Path) -> None:
    """It is accepted without a warning; a pod's grace is longer than its drain."""
    cluster = named(manifests, "ConfigMap", "metastore-proxy-cluster")["data"]
    for deployment in of_kind(manifests, "Deployment"):
        container = container_of(deployment)
        command, flag, service = container["args"]
        assert (command, flag) == ("run", "--service")
        environ = {**cluster, "QW_NODE_ID": "pod-1", "QW_ADVERTISE_ADDRESS": "10.244.0.9"}
        for variable in container["env"]:
            if "secretKeyRef" in variable.get("valueFrom", {}):
                environ[variable["name"]] = "postgresql://quickwit@10.0.8.20:5432/quickwit"
            elif variable["name"] in {"QW_ENABLED_SERVICES", "QW_POSTGRES_SKIP_MIGRATIONS"}:
                environ[variable["name"]] = variable["value"]
        assert environ["QW_ENABLED_SERVICES"] == service
        config = _config(manifests, tmp_path, service, environ)
        assert config.warnings == ()
        assert config.peer_seeds == ("quickwit-headless", "metastore-proxy-gossip")
        assert config.cluster_id == "quickwit-quickwit"
        assert config.proxy.router.advertise_as == ()
        # The bound of the whole drain; Services are slower than gossip.
        grace = pod_template(deployment)["spec"]["terminationGracePeriodSeconds"]
        assert config.proxy.drain_timeout + 5 <= grace
        assert config.proxy.shutdown_delay >= 5


def test_the_seeds_are_services(manifests: list[Manifest]) -> None:
    seeds = named(manifests, "ConfigMap", "metastore-proxy-cluster")["data"]["QW_PEER_SEEDS"]
    assert seeds.split(",")[1:] == ["metastore-proxy-gossip"]
    service = named(manifests, "Service", "metastore-proxy-gossip")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True


def test_monitors_find_every_pod_once() -> None:
    """By pods, or by the one Service that names them all."""
    by_pod = with_components("full", "pod-monitor")
    (monitor,) = of_kind(by_pod, "PodMonitor")
    deployments = [one["metadata"]["name"] for one in of_kind(by_pod, "Deployment")]
    assert sorted(_picked(by_pod, monitor["spec"]["selector"])) == sorted(deployments)
    by_service = with_components("full", "service-monitor")
    (monitor,) = of_kind(by_service, "ServiceMonitor")
    (service,) = [
        one
        for one in of_kind(by_service, "Service")
        if selects(one["metadata"]["labels"], monitor["spec"]["selector"])
    ]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["spec"]["jobLabel"] in service["metadata"]["labels"]


def test_what_the_image_has(manifests: list[Manifest], tmp_path: Path) -> None:
    """Its user, and the directory that this user may write to: a volume at the config's path."""
    user, group = map(int, image().last("USER").value.split(":"))
    for workload in _workloads(manifests):
        security = pod_template(workload)["spec"]["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (user, group)
        assert security["fsGroup"] == group
    data_dir = _config(manifests, tmp_path, "metastore_router", {}).data_dir
    assert image().environment["QW_DATA_DIR"] == data_dir
    for deployment in of_kind(manifests, "Deployment"):
        mounts = {one["mountPath"]: one["name"] for one in _mounts(deployment)}
        volumes = {one["name"]: one for one in pod_template(deployment)["spec"]["volumes"]}
        assert "emptyDir" in volumes[mounts[data_dir]]
        assert "emptyDir" in volumes[mounts["/tmp"]]


def _mounts(workload: Manifest) -> list[Manifest]:
    found: list[Manifest] = container_of(workload)["volumeMounts"]
    return found


def test_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == version
    for _, manifests in everything():
        for workload in _workloads(manifests):
            assert container_of(workload)["image"] == f"metastore-proxy:{version}"


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, KUBERNETES / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["replicas-only", "full"])
def test_the_examples_of_an_overlay_work(name: str) -> None:
    """Its last comment, on databases outside the cluster, is taken out of comment and rendered."""
    text = (KUBERNETES / "overlays" / name / "kustomization.yaml").read_text("utf-8")
    patches = re.search(r"^# patches:\n(?:#.*\n)+", text, re.MULTILINE)
    assert patches is not None
    added = yaml.safe_load(re.sub("(?m)^# ?", "", patches[0]))
    manifests = with_components(name, **added)
    replica, primary = "10.0.8.21/32", "10.0.8.20/32"
    expected = {"to-replica-database": replica}
    if name == "full":
        expected |= {"to-primary-database": primary, "migrate": primary}
    for policy in of_kind(manifests, "NetworkPolicy"):
        short_name = policy["metadata"]["name"].removeprefix("metastore-proxy-")
        if (address := expected.pop(short_name, None)) is not None:
            assert policy["spec"]["egress"][0]["to"] == [{"ipBlock": {"cidr": address}}]
    assert expected == {}
