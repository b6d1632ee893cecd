"""`GetClusterInfo`: who the primary is and who else is a member, by gossip or by asking.

An answer has a primary that is alive, ready and whose every endpoint is known; where there is none
the call is `Unavailable` and says what is wrong with each member that might be one. Of Quickwit's
own nodes gossip tells the gRPC and the gossip address: these are all that they can have here.

Where gossip is off, or knows no member that takes writes, a `metastore` node names itself. Any
other asks those that `proxy.primary` names: what they are, only they can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from proxy import errors
from proxy.gossip import keys
from proxy.gossip.services import is_primary, rest_address
from proxy.gossip.view import ClusterView, MemberView
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role
from proxy.routing.targets import Target
from proxy.unanswered import NoAnswerError

GOSSIP: Final = "gossip"
STATIC: Final = "static"

# A version or a zone is a few characters. Others write these texts, and the answer is not theirs to
# fill.
_MOST: Final = 128
# Nor is an error that says why of each of them.
_MOST_REASON: Final = 256
# Seconds for those who are asked, and the part of the caller's time that they may take of it.
_PATIENCE: Final = 2.0
_SHARE: Final = 0.8

Answers = Mapping[str, pb.GetClusterInfoResponse | NoAnswerError | errors.MetastoreError]


class Asker(Protocol):
    """Whoever asks each node that a target names, which answers without asking on."""

    def __call__(self, target: Target, /, *, timeout: float) -> Awaitable[Answers]:
        """Return what came of it, by address, within `timeout` seconds."""


@dataclass(frozen=True, slots=True)
class NamedPrimary:
    """Whom the configuration names. `problem` is what is known to be wrong; empty for nothing."""

    target: Target
    problem: str = ""


class ClusterInfo:
    """Answers from `view`, else from `itself` or `named`; each is asked for each answer.

    The view is None where gossip is off (`is_on` False), and until the node has joined. A node that
    is a primary is described by `itself`, which is None for any other and returns None until it
    knows its endpoints.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        node_id: str,
        is_on: bool,
        view: Callable[[], ClusterView | None],
        itself: Callable[[], pb.ClusterMember | None] | None = None,
        named: Callable[[], Sequence[NamedPrimary]] = tuple,
        ask: Asker,
    ) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._is_on = is_on
        self._view = view
        self._itself = itself
        self._named = named
        self._ask = ask

    async def answer(
        self, *, own_only: bool = False, time_left: float | None = None
    ) -> pb.GetClusterInfoResponse:
        """Answer `GetClusterInfo`. `Unavailable` when no primary, or none of it all, is known.

        Other nodes are asked for 2 seconds or most of `time_left`, whichever is less; with
        `own_only` not at all, and a node that is no primary is `Unavailable`.
        """
        if own_only and self._itself is None:
            raise errors.Unavailable(
                f"node `{self._node_id}` is no primary: name `metastore` nodes in `proxy.primary`"
            )
        view = self._view()
        if view is not None and any(_may_be_primary(member) for member in view.members):
            answer = self._by_gossip(view)
        elif self._itself is not None:
            answer = self._of_itself(self._itself())
        else:
            answer = await self._by_asking(view, time_left)
        answer.cluster_id = self._cluster_id
        answer.answered_by = self._node_id
        return answer

    def primary_address(self) -> str | None:
        """Return another node's gRPC address to which a call for the primary can be sent.

        That of a ready primary, the first by node ID; where gossip knows none, the first that the
        configuration names, whatever its state. None when neither is known.
        """
        view = self._view()
        for member in view.members if view is not None else ():
            if is_primary(member) and member.is_ready and not member.is_self:
                return member.grpc_address
        return next((one.target.address for one in self._named()), None)

    def _by_gossip(self, view: ClusterView) -> pb.GetClusterInfoResponse:
        candidates = [member for member in view.members if _may_be_primary(member)]
        primaries = [member for member in candidates if not problem(member)]
        if not primaries:
            wrong = [f"`{member.node_id}`: {problem(member)}" for member in candidates]
            raise _none_can_be_named(wrong)
        named = {member.node_id for member in primaries}
        return pb.GetClusterInfoResponse(
            source=GOSSIP,
            primaries=[describe(member, view) for member in primaries],
            members=[
                describe(member, view)
                for member in view.members
                if member.node_id not in named and is_of_cluster(member)
            ],
        )

    def _of_itself(self, me: pb.ClusterMember | None) -> pb.GetClusterInfoResponse:
        if me is None:
            raise errors.Unavailable(f"node `{self._node_id}` has not joined its cluster yet")
        if me.problem:
            raise _none_can_be_named([f"`{me.node_id}`: {me.problem}"])
        return pb.GetClusterInfoResponse(source=STATIC, primaries=[me])

    async def _by_asking(
        self, view: ClusterView | None, time_left: float | None
    ) -> pb.GetClusterInfoResponse:
        named = self._named()
        if not named:
            raise errors.Unavailable(f"no primary is known: {self._why_none(view)}")
        bound = _PATIENCE if time_left is None else min(_PATIENCE, max(0.0, time_left * _SHARE))
        asked = [one.target for one in named if not one.problem]
        came = await asyncio.gather(*(self._ask(target, timeout=bound) for target in asked))
        found: dict[str, pb.ClusterMember] = {}
        wrong = [f"{one.target}: {one.problem}" for one in named if one.problem]
        for address, answer in (item for answers in came for item in answers.items()):
            if reason := self._why_not(answer):
                wrong.append(f"{address}: {reason[:_MOST_REASON]}")
            elif isinstance(answer, pb.GetClusterInfoResponse):
                for one in answer.primaries:
                    # What a node says of itself goes before what another says of it.
                    if one.node_id == answer.answered_by or one.node_id not in found:
                        found[one.node_id] = one
        if not found:
            raise _none_can_be_named(wrong)
        return pb.GetClusterInfoResponse(
            source=STATIC, primaries=[found[node_id] for node_id in sorted(found)]
        )

    def _why_not(
        self, answer: pb.GetClusterInfoResponse | NoAnswerError | errors.MetastoreError
    ) -> str:
        """Return why an answer names no primary that can be told; empty when it does."""
        if isinstance(answer, NoAnswerError):
            what = "its endpoints cannot be read" if answer.is_stranger else "it does not answer"
            return f"{what}: {answer.reason}"
        if isinstance(answer, errors.MetastoreError):
            return str(answer)
        if answer.cluster_id != self._cluster_id:
            return (
                f"it is of cluster `{answer.cluster_id[:_MOST]}`, and this node of "
                f"`{self._cluster_id}`: check `cluster_id`"
            )
        if not answer.primaries or not all(map(_is_whole, answer.primaries)):
            return "its endpoints cannot be read: its answer does not have them all"
        return ""

    def _why_none(self, view: ClusterView | None) -> str:
        if not self._is_on:
            return (
                "gossip is off (`proxy.gossip`) and `proxy.primary` names no node: turn gossip on, "
                "or name the `metastore` nodes"
            )
        if view is None:
            return f"node `{self._node_id}` has not joined its cluster yet"
        if not any(member.is_live and not member.is_self for member in view.members):
            return (
                f"this node sees no other member of cluster `{view.cluster_id}`: check "
                "`peer_seeds`, `cluster_id`, and that UDP gets through to the gossip ports"
            )
        return f"no member of cluster `{view.cluster_id}` has the service `metastore`: start one"


def _may_be_primary(member: MemberView) -> bool:
    return is_primary(member) or member.keys.get(keys.ROLE) == Role.METASTORE.value


def is_of_cluster(member: MemberView) -> bool:
    """Tell whether a member has said what it is; one that just listens, or is new, has not."""
    return keys.ENABLED_SERVICES in member.keys or keys.ROLE in member.keys


def problem(member: MemberView) -> str:
    """Return what keeps a member from being used, in words; empty when nothing does."""
    if not member.is_live:
        return "it gives no sign of life"
    known = member.keys
    if keys.ENABLED_SERVICES not in known:
        return f"its key `{keys.ENABLED_SERVICES}` is missing"
    if member.grpc_address is None:
        return _unreadable(member, keys.GRPC_ADVERTISE_ADDR)
    if keys.ROLE in known and rest_address(member) is None:
        return _unreadable(member, keys.REST_ADVERTISE_ADDR)
    if keys.READINESS not in known:
        return f"its key `{keys.READINESS}` is missing"
    return "" if member.is_ready else "it says that it is not ready"


def _unreadable(member: MemberView, key: str) -> str:
    if key not in member.keys:
        return f"its key `{key}` is missing"
    return f"its key `{key}` holds no address `ip:port`, but {member.keys[key][:64]!r}"


def describe(member: MemberView, view: ClusterView) -> pb.ClusterMember:
    """Return a member as the answer has it. A field is left out where nothing is known."""
    known, services = member.keys, sorted(member.services)
    is_twice = member.node_id in view.duplicates
    return pb.ClusterMember(
        node_id=member.node_id,
        role=_short(known.get(keys.ROLE)) or ",".join(services) or None,
        services=services,
        live=member.is_live,
        ready=member.is_ready,
        generation=member.generation,
        grpc_address=member.grpc_address,
        rest_address=rest_address(member),
        gossip_address=member.gossip_address,
        availability_zone=_short(member.availability_zone),
        version=_short(known.get(keys.VERSION)),
        lag_at_most=keys.lag_of(known.get(keys.LAG_AT_MOST)),
        problem=problem(member) or ("two processes have its node ID" if is_twice else ""),
    )


def _is_whole(primary: pb.ClusterMember) -> bool:
    has_rest = bool(primary.rest_address) or primary.role != Role.METASTORE.value
    return bool(primary.node_id) and bool(primary.grpc_address) and has_rest


def _none_can_be_named(wrong: Sequence[str]) -> errors.Unavailable:
    return errors.Unavailable(f"no primary can be named ({'; '.join(wrong)})")


def _short(text: str | None) -> str | None:
    return None if text is None else text[:_MOST]
