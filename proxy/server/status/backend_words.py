"""What is wrong with the backends of a node that passes calls on, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.server.status.nodes import PRIMARY, REPLICA
from proxy.server.status.phrases import (
    backends,
    joined,
    of_kind,
    reads_go,
    seconds,
    serves_itself,
    takes_writes,
)

# The lag that is worth a warning where `proxy.max_lag` sets no bound.
LARGE_LAG: Final = 10.0

_ADVICE: Final = {
    "down": (
        "see whether its process runs and what its log ends with; if it runs, whether this node "
        "reaches its gRPC port"
    ),
    "not_serving": (
        "its own status page, or `/health/readyz?verbose` on its REST port, says why; most often "
        "its database is down"
    ),
    "foreign": "check the database URI of that node: it belongs to another cluster's database",
    "ejected": "its log says why calls fail; it is tried again by itself",
    "unknown_lag": (
        "is a primary up and are the two on one timeline? does its own status page say that its "
        "database tells no position? else on that database look at pg_stat_wal_receiver"
    ),
    "too_old": (
        "on its database look at pg_stat_wal_receiver (is there a row?), "
        "pg_is_wal_replay_paused() and pg_stat_activity: a paused replay, a long query or a slow "
        "disk holds replay back"
    ),
    "standby": "promote that database, or point the node's `metastore_uri` at the primary",
}
# What these do passes by itself.
_FINE: Final = frozenset({"eligible", "connecting", "filling"})


@dataclass(frozen=True, slots=True)
class Found:
    """Something that is wrong; `key` stays the same for as long as it lasts."""

    key: str
    is_error: bool
    text: str
    advice: str


def about_backends(status: pb.GetStatusResponse) -> Iterator[Found]:
    """Yield what is wrong, what matters most first; nothing at a node that passes no calls on."""
    if not status.HasField("protection"):
        return
    if not takes_writes(status):
        yield from _no_primary(status)
        # While no primary tells its position every replica's lag grows: that is no news of them.
        silent = {"too_old", "unknown_lag"}
    else:
        yield from _of_primaries(status)
        yield from _no_replica(status)
        silent = set()
    for node in backends(status, REPLICA):
        if node.reason not in _FINE | silent:
            yield _of_replica(status, node)
        elif node.eligible and not status.HasField("max_lag"):
            yield from _unbounded(node)
    yield from _of_limits(status)


def _no_primary(status: pb.GetStatusResponse) -> Iterator[Found]:
    known = backends(status, PRIMARY)
    if any(node.reason == "connecting" for node in known) and all(
        node.reason == "connecting" for node in backends(status)
    ):
        text = "this node is connecting to its backends"
        yield Found("connecting", True, text, _ADVICE["down"])
        return
    reads = reads_go(status).replace("reads go", "reads still go")
    if not known:
        named = [node.name for node in of_kind(status, PRIMARY)]
        what = f"primary {joined(named)} is down" if named else "no primary is known"
        advice = _ADVICE["down"] if named else "name it in `proxy.primary`, or start it"
        yield Found("primary", True, f"{what}: writes fail; {reads}", advice)
        return
    for node in known:
        what = _trouble(node) if node.verdict else "does not serve"
        yield Found(
            f"primary/{node.grpc_address}",
            True,
            f"primary {_named(node)} {what}: writes fail; {reads}",
            _ADVICE.get(node.reason, _ADVICE["down"]),
        )


def _of_primaries(status: pb.GetStatusResponse) -> Iterator[Found]:
    """Yield what is wrong with one of several primaries."""
    takers = joined([node.name for node in backends(status, PRIMARY) if node.eligible])
    for node in backends(status, PRIMARY):
        if node.reason not in _FINE:
            text = f"primary {_named(node)} {_trouble(node)}; {takers} takes the writes"
            yield Found(f"primary/{node.grpc_address}", False, text, _ADVICE.get(node.reason, ""))


def _no_replica(status: pb.GetStatusResponse) -> Iterator[Found]:
    known, members = backends(status, REPLICA), of_kind(status, REPLICA)
    if serves_itself(status) or any(n.eligible or n.reason == "filling" for n in known):
        return
    go = reads_go(status)
    if any(node.state == "serving" for node in known):
        what, advice = "no replica is fresh enough", "each replica below says why"
    elif members:
        what, advice = "no replica is up", "each replica below says why; start one to relieve it"
    else:
        what = "no replica is known"
        advice = "name them in `proxy.replicas`, or set `proxy.discovery: gossip`"
    yield Found("no_replica", False, f"{what}: {go}", advice)


def _of_replica(status: pb.GetStatusResponse, node: pb.StatusNode) -> Found:
    bound = status.max_lag
    if node.reason == "too_old" and node.HasField("lag"):
        text = f"{node.name} replays {seconds(node.lag)} behind; bound {seconds(bound)}"
    else:
        text = f"{_named(node)} {_trouble(node)}"
    if any(one.eligible for one in backends(status, REPLICA)):
        # Otherwise where reads go is said once, for all of them.
        text = f"{text}; {reads_go(status)}"
    return Found(f"replica/{node.grpc_address}", False, text, _ADVICE.get(node.reason, ""))


def _unbounded(node: pb.StatusNode) -> Iterator[Found]:
    if node.lag > LARGE_LAG:
        text = (
            f"{node.name} replays {seconds(node.lag)} behind, and no bound is set: it goes on to "
            "get reads"
        )
        advice = f"set `proxy.max_lag`; {_ADVICE['too_old']}"
        yield Found(f"replica/{node.grpc_address}", False, text, advice)


def _of_limits(status: pb.GetStatusResponse) -> Iterator[Found]:
    now = status.protection
    if now.HasField("fallback_limit") and 0 < now.fallback_limit <= now.fallbacks:
        text = (
            f"the primary takes no more reads in place of replicas: {now.fallbacks} of "
            f"{now.fallback_limit} are in flight, others wait, get older answers, or fail"
        )
        advice = (
            "bring a replica back; or, if the primary bears it, raise `proxy.fallback_concurrency`"
        )
        yield Found("cap", True, text, advice)
    if now.retry_budget < 1.0:
        text = "the budget for retries is used up: a call that fails now is not tried again"
        yield Found("retries", False, text, "see which backend fails; the budget fills by itself")


def _named(node: pb.StatusNode) -> str:
    is_address = node.name == node.grpc_address
    return node.name if is_address else f"{node.name} at {node.grpc_address}"


def _trouble(node: pb.StatusNode) -> str:
    words = {
        "down": "is down",
        "not_serving": "is up and says that it does not serve",
        "foreign": "serves another cluster's database and gets no call",
        "ejected": "failed too many calls and is left alone for a while",
        "unknown_lag": "does not show how old its data is, which counts as too old",
        "too_old": "has data that is older than the bound",
        "standby": "has a database in recovery and takes no writes",
        "connecting": "is not connected yet",
    }
    text = words.get(node.reason, node.verdict)
    is_explained = node.reason in {"down", "not_serving"} and not node.verdict.startswith("it ")
    return f"{text} ({node.verdict})" if is_explained and node.verdict else text
