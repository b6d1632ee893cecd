"""What NetworkPolicies allow, worked out without a cluster.

Facts: the semantics are Kubernetes' (networking.k8s.io/v1). A pod that no policy selects for a
direction is open in it; once one does, only what some rule of such a policy allows gets through.
Policies add up. A connection needs the sender's egress and the receiver's ingress. A peer without
`namespaceSelector` is in the policy's namespace; both selectors in one peer must hold together. An
empty or missing `from` or `to` is anybody, and so is a missing `ports` any port.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.manifests import Manifest, of_kind, selects


@dataclass(frozen=True)
class Pod:
    """Something with an address: a pod of a namespace, or a host outside with neither."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "quickwit"
    address: str = "10.244.0.9"
    # Port names, as policies may use them.
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_outside(self) -> bool:
        """Whether this is no pod of the cluster."""
        return not self.namespace


class Policies:
    """All policies of a cluster, and the labels of its namespaces."""

    def __init__(
        self, manifests: Iterable[Manifest], namespace: str, namespaces: Iterable[str]
    ) -> None:
        self._policies = of_kind(manifests, "NetworkPolicy")
        self._namespace = namespace
        self._labels = {name: {"kubernetes.io/metadata.name": name} for name in namespaces}

    def allow(self, sender: Pod, receiver: Pod, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection, or a datagram, gets through."""
        return self._passes("Egress", sender, receiver, receiver, port, protocol) and self._passes(
            "Ingress", receiver, sender, receiver, port, protocol
        )

    def _passes(
        self, direction: str, here: Pod, there: Pod, receiver: Pod, port: int, protocol: str
    ) -> bool:
        selected = [
            policy["spec"]
            for policy in self._policies
            if policy["metadata"].get("namespace", self._namespace) == here.namespace
            and selects(here.labels, policy["spec"]["podSelector"])
            and direction in _types(policy["spec"])
        ]
        if not selected:
            return True
        key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return any(
            self._is_peer(there, rule.get(peers)) and _is_port(receiver, port, protocol, rule)
            for spec in selected
            for rule in spec.get(key) or []
        )

    def _is_peer(self, pod: Pod, peers: list[Mapping[str, Any]] | None) -> bool:
        return not peers or any(self._matches(pod, peer) for peer in peers)

    def _matches(self, pod: Pod, peer: Mapping[str, Any]) -> bool:
        unknown = set(peer) - {"podSelector", "namespaceSelector", "ipBlock"}
        assert peer, "an empty peer is refused by Kubernetes"
        assert not unknown, f"the tests know no peer by {unknown}"
        if "ipBlock" in peer:
            # Kubernetes leaves open whether a block matches pods: nothing here relies on it.
            block = peer["ipBlock"]
            address = ipaddress.ip_address(pod.address)
            inside = address in ipaddress.ip_network(block["cidr"])
            excluded = any(
                address in ipaddress.ip_network(cidr) for cidr in block.get("except", [])
            )
            return pod.is_outside and inside and not excluded
        if pod.is_outside:
            return False
        if "namespaceSelector" in peer:
            if not selects(self._labels[pod.namespace], peer["namespaceSelector"]):
                return False
        elif pod.namespace != self._namespace:
            return False
        return selects(pod.labels, peer.get("podSelector", {}))


def _types(spec: Mapping[str, Any]) -> list[str]:
    given: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] * ("egress" in spec))]
    return given


def _is_port(receiver: Pod, port: int, protocol: str, rule: Mapping[str, Any]) -> bool:
    allowed = rule.get("ports")
    if not allowed:
        return True
    for entry in allowed:
        if entry.get("protocol", "TCP") != protocol:
            continue
        first = entry.get("port")
        if first is None:
            return True
        if isinstance(first, str):
            first = receiver.ports.get(first, -1)
        if first <= port <= entry.get("endPort", first):
            return True
    return False
