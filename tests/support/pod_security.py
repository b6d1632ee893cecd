"""What the "restricted" Pod Security Standard, and a little more, asks of a pod.

Facts: Kubernetes' Pod Security Standards, profile "restricted". Beyond it: a root file system that
is read-only, a numeric user that is not root, no token for the API, and resources that are told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Mapping[str, Any]) -> list[str]:
    """Return what in a pod's `spec` the profile does not allow."""
    return [*_of_pod(spec), *(found for one in _containers(spec) for found in _of(one, spec))]


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(key, [])


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is a {kinds}"
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "runAsNonRoot"
    if security.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile"
    if security.get("sysctls") or security.get("windowsOptions"):
        yield "sysctls or windowsOptions"
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken"


def _of(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name = container["name"]
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if security.get("privileged") or security.get("procMount", "Default") != "Default":
        yield f"{name}: privileged"
    capabilities = security.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield f"{name}: capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: readOnlyRootFilesystem"
    if security.get("runAsNonRoot") is False or security.get("runAsUser") == 0:
        yield f"{name}: runAsUser"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}: hostPort"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})):
        yield f"{name}: requests"
    if "memory" not in resources.get("limits", {}):
        yield f"{name}: limits"
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    if missing := mounted - {volume["name"] for volume in spec.get("volumes", [])}:
        yield f"{name}: mounts {missing}"
