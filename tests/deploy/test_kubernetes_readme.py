"""The commands of the README's section on Kubernetes, as far as they need no cluster."""

from __future__ import annotations

import re
import shlex
from typing import Final

import pytest
import yaml

from tests.support import kubetools
from tests.support.kube_schemas import newest_versions, problems
from tests.support.manifests import (
    KUBERNETES,
    container_of,
    named,
    of_kind,
    overlay,
    parse,
    pod_template,
)

ROOT: Final = KUBERNETES.parents[1]
README: Final = (ROOT / "README.md").read_text("utf-8")
(SECTION,) = re.findall(r"^## Deploy on Kubernetes\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS: Final = _commands()


def _run(name: str, *arguments: str) -> str:
    try:
        # Paths in the README are those from the root of the sources.
        return kubetools.rendered(
            name, *(str(ROOT / one) if one.startswith("config/") else one for one in arguments)
        )
    except kubetools.Missing as missing:
        pytest.skip(str(missing))


def _starting(*words: str) -> list[list[str]]:
    found = [one for one in COMMANDS if one[: len(words)] == list(words)]
    assert found, f"the README has no command `{' '.join(words)}`"
    return found


def test_every_kind_of_command_is_known() -> None:
    known = {"docker build", "docker push", "helm install", "kubectl -n", "kubectl apply"}
    assert {" ".join(words[:2]) for words in COMMANDS} == known


def test_the_secrets_are_those_that_the_pods_name() -> None:
    """`kubectl` makes of each command a Secret with the key that some pod takes."""
    made = {}
    for words in COMMANDS:
        if words[3:5] == ["create", "secret"]:
            (secret,) = parse(_run("kubectl", *words[1:], "--dry-run=client", "--output=yaml"))
            made[secret["metadata"]["name"]] = set(secret["data"])
    named_keys: dict[str, set[str]] = {}
    for workload in of_kind(overlay("full"), "Deployment", "Job"):
        for variable in container_of(workload)["env"]:
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                named_keys[reference["name"]] = {reference["key"]}
    assert made == named_keys


def test_what_is_applied_renders() -> None:
    for words in _starting("kubectl", "apply", "-k"):
        assert parse(_run("kubectl", "kustomize", words[3]))


def test_what_is_installed_renders() -> None:
    (words,) = _starting("helm", "install")
    manifests = parse(_run("helm", "template", *words[2:]))
    version = newest_versions()[-1]
    assert [found for one in manifests for found in problems(one, version)] == []
    deployment = named(manifests, "Deployment", "metastore-proxy-read-replica")
    assert container_of(deployment)["image"].startswith("registry.example.org/metastore-proxy:")
    cluster = named(manifests, "ConfigMap", "metastore-proxy-cluster")["data"]
    assert cluster["QW_PEER_SEEDS"] == "quickwit-headless,metastore-proxy-gossip"


def test_names_in_commands_and_text_are_there() -> None:
    """Deployments, Services, the Job and labels that the section names."""
    manifests = overlay("full")
    there = {one["metadata"]["name"] for one in manifests}
    for words in _starting("kubectl", "-n", "quickwit"):
        for kind, name in re.findall(
            r"(deployment|job)[ /](metastore-proxy-[\w-]+)", " ".join(words)
        ):
            assert named(manifests, kind.capitalize(), name)
    for name in re.findall(r"(metastore-proxy-[a-z-]+):7281", SECTION):
        assert name in there
    labels = pod_template(named(manifests, "Deployment", "metastore-proxy-router"))["metadata"]
    assert "-l app.kubernetes.io/name=metastore-proxy" in SECTION
    assert labels["labels"]["app.kubernetes.io/name"] == "metastore-proxy"
    policy = named(manifests, "NetworkPolicy", "metastore-proxy-router")
    (caller,) = policy["spec"]["ingress"][0]["from"]
    ((key, value),) = caller["podSelector"]["matchLabels"].items()
    assert f'`{key}: "{value}"`' in SECTION


def test_quickwit_s_values_are_yaml() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block) == {"config": {"searcher": {"use_metastore_read_replica": True}}}


def test_the_figures_are_those_of_the_manifests() -> None:
    manifests = overlay("full")
    deployments = of_kind(manifests, "Deployment")
    (ready,) = {one["spec"]["minReadySeconds"] for one in deployments}
    assert f"ready for {ready} s before" in SECTION
    config = named(manifests, "ConfigMap", "metastore-proxy-config")["data"]["node.yaml"]
    proxy = yaml.safe_load(config)["proxy"]
    for key in ("shutdown_delay", "drain_timeout"):
        assert f"`proxy.{key}` ({proxy[key].replace('s', ' s')})" in " ".join(SECTION.split())
    oldest, *_, newest = (version.rpartition(".")[0] for version in newest_versions())
    assert f"Kubernetes {oldest} to {newest}" in " ".join(SECTION.split())
