"""Kubernetes' own schemas for the three newest versions, and ours for the Prometheus operator.

The former come with the package `kubernetes-validate`, which takes them from Kubernetes' OpenAPI
documents; its strict ones refuse unknown fields. The latter are in `tests/facts`, and know the
fields that our objects have.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions
from referencing import Registry, Resource

from tests.support.manifests import Manifest

_OPERATOR: Final = Path(__file__).resolve().parents[1] / "facts" / "prometheus_operator.json"
_OPERATOR_GROUP: Final = "monitoring.coreos.com/v1"


def newest_versions() -> list[str]:
    """Return the three newest versions of Kubernetes that there are schemas for, oldest first."""
    return sorted(set(all_versions()), key=_order)[-3:]


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def problems(manifest: Manifest, version: str) -> list[str]:
    """Return what is wrong with an object for a version of Kubernetes."""
    validator = _validator(manifest["apiVersion"], manifest["kind"], version)
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    return [
        f"{name} ({version}) {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(manifest)
    ]


@cache
def _validator(api_version: str, kind: str, version: str) -> Draft202012Validator:
    if api_version == _OPERATOR_GROUP:
        schemas = json.loads(_OPERATOR.read_text(encoding="utf-8"))
        return Draft202012Validator({**schemas, "$ref": f"#/$defs/{kind}"})
    group, _, suffix = api_version.rpartition("/")
    stem = "-".join(filter(None, [kind.lower(), group.split(".")[0], suffix]))
    schema = _read(version, f"{stem}.json")
    return Draft202012Validator(schema, registry=_registry(version))


@cache
def _registry(version: str) -> Registry[Any]:
    return Resource.from_contents(_read(version, "_definitions.json")) @ Registry()


def _read(version: str, name: str) -> Any:
    directory = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    path = directory / f"v{version}-local-strict" / name
    return json.loads(path.read_text(encoding="utf-8"))
