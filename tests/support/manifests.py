"""The manifests of `config/kubernetes` as the tools render them, and what stands in them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support import kubetools

KUBERNETES: Final = Path(__file__).resolve().parents[2] / "config" / "kubernetes"
CHART: Final = KUBERNETES / "helm" / "metastore-proxy"
NAMESPACE: Final = "quickwit"
OVERLAYS: Final = ("replicas-only", "full")
# What makes the chart render what each overlay does.
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "replicas-only": (),
    "full": ("--set", "metastore.enabled=true"),
}

Manifest = dict[str, Any]


# The one in C takes a tenth of the time.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _parsed(text: str) -> str:
    return json.dumps([document for document in yaml.load_all(text, _LOADER) if document])


def parse(text: str) -> list[Manifest]:
    """Return the objects of a stream of YAML documents, the caller's own."""
    found: list[Manifest] = json.loads(_parsed(text))
    return found


@cache
def _kustomize(directory: Path) -> str:
    return _or_skip("kubectl", "kustomize", directory)


@cache
def _helm(release: str, arguments: tuple[str, ...]) -> str:
    return _or_skip("helm", "template", release, CHART, "--namespace", NAMESPACE, *arguments)


def _or_skip(name: str, *arguments: str | Path) -> str:
    try:
        return kubetools.rendered(name, *arguments)
    except kubetools.Missing as missing:
        pytest.skip(str(missing))


def kustomize(directory: Path) -> list[Manifest]:
    """Return what an overlay renders to. Skips where the tool cannot be had."""
    return parse(_kustomize(directory))


def with_components(name: str, *components: str, **added: Any) -> list[Manifest]:
    """Return what an overlay renders to with components that its users may add.

    `added` are more keys of the kustomization.
    """
    return parse(_with_components(name, components, json.dumps(added)))


@cache
def _with_components(name: str, components: tuple[str, ...], added: str) -> str:
    # kustomize takes relative paths alone.
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made).resolve()
        parts = {
            "resources": [KUBERNETES / "overlays" / name],
            "components": [KUBERNETES / "components" / component for component in components],
        }
        relative = {
            key: [os.path.relpath(path, directory) for path in paths]
            for key, paths in parts.items()
        }
        document = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        path = directory / "kustomization.yaml"
        path.write_text(
            yaml.safe_dump({**document, **relative, **json.loads(added)}), encoding="utf-8"
        )
        return _or_skip("kubectl", "kustomize", directory)


def overlay(name: str) -> list[Manifest]:
    """Return what one of `OVERLAYS` renders to."""
    return kustomize(KUBERNETES / "overlays" / name)


def helm(*arguments: str, release: str = "metastore-proxy") -> list[Manifest]:
    """Return what the chart renders to with these arguments."""
    return parse(_helm(release, arguments))


def everything() -> Iterator[tuple[str, list[Manifest]]]:
    """Yield what both tools render for both overlays, each with a name."""
    for name in OVERLAYS:
        yield f"kustomize {name}", overlay(name)
        yield f"helm {name}", helm(*VALUES[name])


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """Return the objects of some kinds."""
    return [one for one in manifests if one["kind"] in kinds]


def named(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """Return one object; a generated name may have a hash after `name`."""
    found = [
        one
        for one in manifests
        if one["kind"] == kind
        and (one["metadata"]["name"] == name or one["metadata"]["name"].startswith(f"{name}-"))
    ]
    exact = [one for one in found if one["metadata"]["name"] == name]
    (only,) = exact or found
    return only


def pod_template(workload: Manifest) -> Manifest:
    """Return the pod template of a Deployment or a Job."""
    template: Manifest = workload["spec"]["template"]
    return template


def container_of(workload: Manifest) -> Manifest:
    """Return the one container of a Deployment or a Job."""
    (container,) = pod_template(workload)["spec"]["containers"]
    found: Manifest = container
    return found


def selects(labels: Mapping[str, str], selector: Mapping[str, Any]) -> bool:
    """Whether a label selector picks a thing with these labels; an empty one picks everything."""
    unknown = set(selector) - {"matchLabels"}
    assert not unknown, f"the tests know no selector by {unknown}"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
