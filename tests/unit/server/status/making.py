"""Parts of a status, as short as tests want them."""

from __future__ import annotations

from typing import Any

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb

NOW = 1_800_000_000.0


def node(name: str, kind: str, state: str = "ready", **more: Any) -> pb.StatusNode:
    """Return a node; its address is its name's, and it has been in its state for a minute."""
    known: dict[str, Any] = {"grpc_address": f"{name}:7281", "since": NOW - 60.0}
    return pb.StatusNode(name=name, kind=kind, state=state, **known | more)


def backend(name: str, kind: str, reason: str = "eligible", **more: Any) -> pb.StatusNode:
    """Return a node that the one that answers sends calls to, or would."""
    down = {"down", "not_serving", "connecting"}
    state = reason if reason in down else "serving"
    return node(name, kind, state, eligible=reason == "eligible", reason=reason, **more)


def status(*nodes: pb.StatusNode, role: str = "metastore_router", **more: Any) -> Any:
    """Return a status of a node that is well but for what is said."""
    known: dict[str, Any] = {
        "cluster_id": "cluster-a",
        "node_id": "router-1",
        "version": "0.1.0",
        "time": NOW,
        "started": NOW - 7300.0,
        "ready": True,
    }
    if role == "metastore_router":
        known["protection"] = pb.Protection(fallback_limit=32, retry_budget=10.0, serve_stale=True)
    return pb.GetStatusResponse(role=role, nodes=nodes, **known | more)
