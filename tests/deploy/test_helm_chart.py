"""The chart has what the overlays have, and refuses values that it cannot use."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.support import kubetools
from tests.support.kube_schemas import newest_versions, problems
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    OVERLAYS,
    VALUES,
    Manifest,
    helm,
    named,
    of_kind,
    overlay,
    pod_template,
    with_components,
)

# What a tool adds for its own sake.
_TOOLS_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")
_HOOK = ("helm.sh/hook", "helm.sh/hook-weight", "helm.sh/hook-delete-policy")
_TOOLS_ANNOTATIONS = ("checksum/config", *_HOOK)
# Of a ConfigMap that kustomize makes.
_HASH = re.compile(r"(metastore-proxy-(?:config|cluster))-[a-z0-9]{10}")


def _by_name(manifests: list[Manifest]) -> dict[str, Any]:
    found = {}
    for manifest in manifests:
        one = json.loads(_HASH.sub(r"\1", json.dumps(manifest)))
        _strip(one)
        found[f"{one['kind']}/{one['metadata']['name']}"] = _comparable(one)
    return found


def _strip(manifest: Manifest) -> None:
    for holder in (manifest, manifest.get("spec", {}).get("template", {})):
        metadata = holder.get("metadata", {})
        metadata.pop("namespace", None)
        for key, names in (("labels", _TOOLS_LABELS), ("annotations", _TOOLS_ANNOTATIONS)):
            for name in names:
                metadata.get(key, {}).pop(name, None)
            if not metadata.get(key, True):
                del metadata[key]
    if manifest["kind"] == "ConfigMap" and "node.yaml" in manifest["data"]:
        manifest["data"]["node.yaml"] = yaml.safe_load(manifest["data"]["node.yaml"])


def _comparable(value: Any) -> Any:
    """Return a value with lists of named things by their names, where their order is nothing."""
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_comparable(item) for item in value]
        if all(isinstance(item, dict) and "name" in item for item in items):
            return sorted(items, key=lambda item: str(item["name"]))
        return items
    return value


@pytest.mark.parametrize("name", OVERLAYS)
def test_chart_and_overlay_are_the_same(name: str) -> None:
    assert _by_name(helm(*VALUES[name])) == _by_name(overlay(name))


def test_so_are_all_their_options() -> None:
    options = "monitoring.podMonitor=true,monitoring.rules=true,autoscaling.inFlightCalls=8"
    charted = _by_name(helm(*VALUES["full"], f"--set={options}"))
    assert charted == _by_name(with_components("full", "pod-monitor", "rules", "in-flight"))
    serviced = _by_name(helm("--set=monitoring.serviceMonitor=true"))
    assert serviced == _by_name(with_components("replicas-only", "service-monitor"))


def test_lint() -> None:
    try:
        done = kubetools.run("helm", "lint", "--strict", CHART)
    except kubetools.Missing as missing:
        pytest.skip(str(missing))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("readReplicas.replicas=3", "readReplicas"),
        ("readReplica.replicas=0", "minimum"),
        ("readReplica.replica=3", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("secrets.primary.uri=postgresql://user@host/db", "uri"),
        ("secrets.replica.name=", "minLength"),
        ("cluster.id=", "minLength"),
        ("networkPolicy.primary.cidr=10.0.8.20", "pattern"),
        ("config.proxy.drain_timeout=26s", "terminationGracePeriodSeconds"),
        ("monitoring.podMonitor=true,monitoring.serviceMonitor=true", "choose one"),
    ],
)
def test_values_that_are_refused(setting: str, said: str) -> None:
    try:
        done = kubetools.run("helm", "template", "x", CHART, f"--set={setting}")
    except kubetools.Missing as missing:
        pytest.skip(str(missing))
    assert done.returncode != 0
    # Helm 3 and 4 word it differently; both name the value or the rule.
    key = setting.split("=", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1]
    assert said in done.stderr or key in done.stderr


@pytest.mark.parametrize(
    ("setting", "seconds"),
    [
        ("drain_timeout=24s 999ms", None),
        ("drain_timeout=26s", 31),
        ("drain_timeout=1min", 65),
        ("drain_timeout=1m 1500msec", 67),
        ("shutdown_delay=40s", 45),
    ],
)
def test_pods_have_the_time_to_drain(setting: str, seconds: int | None) -> None:
    """The kubelet kills them when their grace is over; of both bounds the longer one counts."""
    try:
        done = kubetools.run("helm", "template", "x", CHART, f"--set=config.proxy.{setting}")
    except kubetools.Missing as missing:
        pytest.skip(str(missing))
    assert ("set it to" in done.stderr) is (seconds is not None), done.stderr
    assert seconds is None or f"set it to {seconds}\n" in done.stderr


def test_tls_is_told_to_those_who_connect() -> None:
    """Prometheus asks by https, and nothing says of the gRPC port that it is in plain text."""
    tls = "config.grpc.tls.cert_path=/tls/tls.crt,config.rest.tls.cert_path=/tls/tls.crt"
    to_verify = "monitoring.tlsConfig.serverName=metastore.example.org"
    for monitor, kind, endpoints in (
        ("podMonitor", "PodMonitor", "podMetricsEndpoints"),
        ("serviceMonitor", "ServiceMonitor", "endpoints"),
    ):
        manifests = helm(f"--set=monitoring.{monitor}=true,{to_verify},{tls}")
        (endpoint,) = named(manifests, kind, "metastore-proxy")["spec"][endpoints]
        assert endpoint["scheme"] == "https"
        assert endpoint["tlsConfig"] == {"serverName": "metastore.example.org"}
        version = newest_versions()[-1]
        assert [found for one in manifests for found in problems(one, version)] == []
    for deployment in of_kind(manifests, "Deployment"):
        annotations = pod_template(deployment)["metadata"]["annotations"]
        assert annotations["prometheus.io/scheme"] == "https"
    assert "appProtocol" not in json.dumps(of_kind(manifests, "Service"))


def test_what_the_migration_needs_is_there_before_it() -> None:
    """It runs before all else of a release, also where a namespace denies what none allows."""
    manifests = helm(*VALUES["full"])
    job = named(manifests, "Job", "metastore-proxy-migrate")
    policy = named(manifests, "NetworkPolicy", "metastore-proxy-migrate")
    job_hook, policy_hook = (
        [one["metadata"]["annotations"].get(name, "0") for name in _HOOK] for one in (job, policy)
    )
    assert policy_hook[0] == job_hook[0] == "pre-install,pre-upgrade"
    assert int(policy_hook[1]) < int(job_hook[1])
    assert "serviceAccountName" not in pod_template(job)["spec"]
    assert "configMap" not in json.dumps(job)


def test_two_releases_do_not_touch_each_other() -> None:
    """A second standby is a second release: no name and no selector of the first fits it."""
    first = helm()
    second = helm("--set=router.enabled=false", release="standby-b")
    names = {f"{one['kind']}/{one['metadata']['name']}" for one in first}
    assert not names & {f"{one['kind']}/{one['metadata']['name']}" for one in second}
    other = pod_template(named(second, "Deployment", "standby-b-metastore-proxy-read-replica"))
    selector = named(first, "Deployment", "metastore-proxy-read-replica")["spec"]["selector"]
    assert other["metadata"]["labels"].items() & selector["matchLabels"].items() == {
        ("app.kubernetes.io/name", "metastore-proxy"),
        ("app.kubernetes.io/component", "read-replica"),
    }


def test_a_changed_config_starts_the_pods_anew() -> None:
    def annotation(*arguments: str) -> str:
        deployment = named(helm(*arguments), "Deployment", "metastore-proxy-router")
        found: str = pod_template(deployment)["metadata"]["annotations"]["checksum/config"]
        return found

    assert len({annotation(), annotation("--set=config.proxy.max_lag=5s")}) == 2
    config = named(helm("--set=config.proxy.max_lag=5s"), "ConfigMap", "metastore-proxy-config")
    changed = yaml.safe_load(config["data"]["node.yaml"])
    assert changed["proxy"]["max_lag"] == "5s"
    del changed["proxy"]["max_lag"]
    assert changed == yaml.safe_load((KUBERNETES / "base" / "node.yaml").read_text("utf-8"))


def test_the_namespace_is_the_release_s() -> None:
    assert all("namespace" not in one["metadata"] for one in helm()), NAMESPACE
