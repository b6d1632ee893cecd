"""Pods of the rendered manifests as containers of `tests.support.deployed`.

What a kubelet makes of a pod: the image's entry point with the pod's arguments, the environment
from ConfigMaps, Secrets, fields of the pod and other variables, and files from ConfigMaps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.demo.postgres import PostgresPair
from tests.support.deployed import Container, Probe
from tests.support.image import ROOT, image
from tests.support.manifests import Manifest, container_of, named, pod_template

# Of each Secret its keys, which stand nowhere in the manifests.
Secrets = Mapping[str, Mapping[str, str]]

# The database of `config/postgres`.
DATABASE: Final = "quickwit"
_ZONE: Final = "topology.kubernetes.io/zone"
_REFERENCE: Final = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class PodFacts:
    """What the cluster decides: a pod's name, its address, and the zone of its node."""

    name: str
    address: str
    zone: str = "zone-a"


class Pods:
    """Makes containers of what the manifests and the Secrets say."""

    def __init__(self, manifests: list[Manifest], secrets: Secrets, directory: Path) -> None:
        self.manifests = manifests
        self._secrets = secrets
        self._directory = directory

    def container(self, workload: Manifest, facts: PodFacts) -> Container:
        """Return the one container of a pod. KeyError for a reference to what is not there."""
        described = container_of(workload)
        assert "command" not in described, "the image's entry point is used"
        return Container(
            facts.name,
            (*image().entrypoint, *described.get("args", image().command)),
            {**image().environment, **self._environment(workload, facts)},
            {**_image_files(), **self._mounts(workload, facts)},
        )

    def _environment(self, workload: Manifest, facts: PodFacts) -> dict[str, str]:
        described = container_of(workload)
        found: dict[str, str] = {}
        for source in described.get("envFrom", []):
            found |= self._map(source["configMapRef"]["name"])
        for variable in described.get("env", []):
            # As a kubelet does: a reference is to what was defined before it.
            value = variable.get("value")
            found[variable["name"]] = (
                self._value(variable["valueFrom"], workload, facts)
                if value is None
                else _REFERENCE.sub(lambda match: found[match[1]], value)
            )
        return found

    def _value(self, source: Mapping[str, Any], workload: Manifest, facts: PodFacts) -> str:
        if reference := source.get("secretKeyRef"):
            secret: str = self._secrets[reference["name"]][reference["key"]]
            return secret
        labels = {**pod_template(workload)["metadata"]["labels"], _ZONE: facts.zone}
        fields = {
            "metadata.name": facts.name,
            "status.podIP": facts.address,
            **{f"metadata.labels['{key}']": value for key, value in labels.items()},
        }
        return fields[source["fieldRef"]["fieldPath"]]

    def _mounts(self, workload: Manifest, facts: PodFacts) -> dict[str, Path]:
        spec = pod_template(workload)["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounts = {}
        for mount in container_of(workload).get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                text = self._map(volume["configMap"]["name"])[mount["subPath"]]
                path = self._directory / f"{facts.name}.{mount['subPath']}"
                path.write_text(text, encoding="utf-8")
                mounts[mount["mountPath"]] = path
            elif "secret" in volume:
                # A test has put its files where the pods have them.
                assert Path(mount["mountPath"]).is_dir()
            else:
                # A directory of the container's own, as its home is here.
                assert "emptyDir" in volume
        return mounts

    def _map(self, name: str) -> dict[str, str]:
        found: dict[str, str] = named(self.manifests, "ConfigMap", name)["data"]
        return found


def _image_files() -> dict[str, Path]:
    """Return the files that the image has, for containers that mount none over them."""
    copies = [one.value.split() for one in image().stages[-1] if one.name == "COPY"]
    return {target: ROOT / source for source, target in (it for it in copies if len(it) == 2)}


def probe_of(container: Mapping[str, Any], kind: str) -> Probe:
    """Return a probe, its port by its name."""
    asked = container[kind]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    return Probe(port=ports[asked["port"]], path=asked["path"])


def database_uri(pair: PostgresPair, role: str, port: int) -> str:
    """Return the URI of one of the roles of `config/postgres` for a server of the pair."""
    assert pair.setup is not None
    return f"postgresql://{role}:{pair.setup.passwords[role]}@127.0.0.1:{port}/{DATABASE}"


def secrets_for(pair: PostgresPair) -> Secrets:
    """Return the Secrets that the README tells to make."""
    primary, standby = pair.primary.port, pair.standbys[0].port
    owner, writer, reader = (
        database_uri(pair, role, port)
        for role, port in (
            ("quickwit_owner", primary),
            ("quickwit_rw", primary),
            ("quickwit_ro", standby),
        )
    )
    return {
        "metastore-proxy-owner": {"QW_METASTORE_URI": owner},
        "metastore-proxy-primary": {"QW_METASTORE_URI": writer},
        "metastore-proxy-replica": {"QW_METASTORE_READ_REPLICA_URI": reader},
    }
