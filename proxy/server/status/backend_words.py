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
from proxy.server.status.reasons import REASONS, advice_for

# The lag that is worth a warning where `proxy.max_lag` sets no bound.
LARGE_LAG: Final = 10.0

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
        yield Found("connecting", True, text, advice_for("down"))
        return
    reads = reads_go(status).replace("reads go", "reads still go")
    if not known:
        named = [node.name for node in of_kind(status, PRIMARY)]
        what = f"primary {joined(named)} is down" if named else "no primary is known"
        advice = advice_for("down") if named else "name it in `proxy.primary`, or start it"
        yield Found("primary", True, f"{what}: writes fail; {reads}", advice)
        return
    for node in known:
        what = _trouble(node) if node.verdict else "does not serve"
        yield Found(
            f"primary/{node.grpc_address}",
            True,
            f"primary {_named(node)} {what}: writes fail; {reads}",
            advice_for(node.reason) or advice_for("down"),
        )


def _of_primaries(status: pb.GetStatusResponse) -> Iterator[Found]:
    """Yield what is wrong with one of several primaries."""
    takers = joined([node.name for node in backends(status, PRIMARY) if node.eligible])
    for node in backends(status, PRIMARY):
        if node.reason not in _FINE:
            text = f"primary {_named(node)} {_trouble(node)}; {takers} takes the writes"
            yield Found(f"primary/{node.grpc_address}", False, text, advice_for(node.reason))


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
    return Found(f"replica/{node.grpc_address}", False, text, advice_for(node.reason))


def _unbounded(node: pb.StatusNode) -> Iterator[Found]:
    if node.lag > LARGE_LAG:
        text = (
            f"{node.name} replays {seconds(node.lag)} behind, and no bound is set: it goes on to "
            "get reads"
        )
        advice = f"set `proxy.max_lag`; {advice_for('too_old')}"
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
    reason = REASONS.get(node.reason)
    if reason is None:
        return node.verdict
    has_more = reason.is_told and node.verdict not in {"", reason.verdict}
    return f"{reason.trouble} ({node.verdict})" if has_more else reason.trouble
