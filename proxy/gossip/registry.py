"""Who there is, and who of them is alive.

A member's way, as one node sees it (facts: chitchat; `grace` is 15 min in Quickwit):

| from | on | to |
|---|---|---|
| unknown | it is named in a digest | dead: one heartbeat proves nothing |
| dead | three rising heartbeats, the last two within 10 s | live |
| live | silence, see `detector` | dead |
| dead | `grace / 2` | leaving: told to nobody any more |
| leaving | `grace` | forgotten, but for its heartbeat |
| forgotten | a higher heartbeat | as unknown |
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from proxy.gossip.detector import Sampler
from proxy.gossip.identity import MemberId
from proxy.gossip.limits import Count, Limits
from proxy.gossip.state import MemberRecord, MemberState
from proxy.gossip.view import MemberView, member_view
from proxy.gossip.wire import Digest

# How many forgotten members are remembered by their heartbeat.
MEMORY: Final = 5_000
# Heartbeats of a generation that rise this long after another one appeared, this often and over
# this time, are no leftovers that other members still hand round. In gossip intervals.
_SETTLING: Final = 10
_LATE_RISES: Final = 5
_LATE_SPAN: Final = 5


class Generations:
    """The members with one node id: normally one that is alive and those it was before."""

    __slots__ = ("contested_at", "members")

    def __init__(self) -> None:
        self.members: dict[bytes, Member] = {}
        # When the last of several appeared.
        self.contested_at: float | None = None

    def leader(self, span: float) -> Member:
        """Return the highest generation that lives, or else the highest.

        Once one has lived, an earlier one counts only if it surely lives on: who was frozen for a
        while may hand round a last heartbeat of it, by which it comes to life again, for half a
        minute and with all that it said before.
        """
        members = self.members.values()
        if len(members) == 1:
            return next(iter(members))
        lived = max((each.id for each in members if each.was_live), default=None)

        def rank(each: Member) -> tuple[bool, MemberId]:
            return each.is_live and (each.id == lived or each.is_late(span)), each.id

        return max(members, key=rank)


class Member:
    """What is known of one member."""

    __slots__ = (
        "_late",
        "_view",
        "_view_of",
        "dead_since",
        "endpoint",
        "generations",
        "heartbeat",
        "id",
        "is_leaving",
        "is_live",
        "raw",
        "sampler",
        "state",
        "was_live",
    )

    def __init__(self, member_id: MemberId, generations: Generations, interval: float) -> None:
        self.id = member_id
        self.raw = member_id.raw
        self.endpoint = member_id.endpoint
        self.generations = generations
        self.state = MemberState()
        self.sampler = Sampler(interval)
        self.heartbeat = 0
        self.is_live = self.was_live = False
        self.is_leaving = False
        self.dead_since: float | None = None
        # Of the contest that began at the first: rises, when the first and the last one were.
        self._late: tuple[float, int, float, float] | None = None
        self._view: MemberView | None = None
        self._view_of = (-1, False, False)

    def rise(self, now: float, settling: float) -> None:
        """Note a heartbeat that is higher than the one before."""
        self.sampler.add(now)
        contested_at = self.generations.contested_at
        if contested_at is None or now < contested_at + settling:
            return
        late = self._late
        if late is None or late[0] != contested_at:
            late = (contested_at, 0, now, now)
        self._late = (contested_at, late[1] + 1, late[2], now)

    def is_late(self, span: float) -> bool:
        """Tell whether this member surely lives on although its node id has others."""
        late = self._late
        return (
            self.is_live
            and late is not None
            and late[0] == self.generations.contested_at
            and late[1] >= _LATE_RISES
            and late[3] - late[2] >= span
        )

    def record(self) -> MemberRecord:
        """Return the whole state."""
        state = self.state
        return MemberRecord(
            self.id, tuple(state.records()), state.max_version, state.last_gc_version
        )

    def view(self, *, is_self: bool) -> MemberView:
        """Return what others see; the same object as long as it is equal."""
        version = (self.state.revision, self.is_live, self.is_leaving)
        known = self._view
        if known is None or version != self._view_of:
            keys = self.state.plain_keys()
            made = member_view(
                *(self.id, keys),
                is_self=is_self,
                is_live=self.is_live,
                is_leaving=self.is_leaving,
            )
            self._view = known = known if known == made else made
            self._view_of = version
        return known


class Registry:
    """All members, this node included. `members` is by the identity's encoding."""

    def __init__(
        self,
        self_id: MemberId,
        *,
        now: float,
        limits: Limits,
        interval: float,
        grace: float,
        counters: Counter[Count],
    ) -> None:
        self.members: dict[bytes, Member] = {}
        self._limits = limits
        self._interval = interval
        self._grace = grace
        self._counters = counters
        self._groups: dict[str, Generations] = {}
        self._forgotten: OrderedDict[bytes, int] = OrderedDict()
        # Who has never been live, the first heard of first: the first to make way.
        self._strangers: dict[bytes, Member] = {}
        self._ordered: list[Member] | None = None
        self.me = self._add(self_id, now)
        del self._strangers[self.me.raw]
        self.me.heartbeat, self.me.is_live = 1, True

    # What digests say

    def report(self, digest: Digest, now: float) -> None:
        """Take in the heartbeats of a digest."""
        members, me, settling = self.members, self.me, _SETTLING * self._interval
        for raw, (heartbeat, _, _) in digest.items():
            member = members.get(raw)
            if member is None:
                member = self._discover(raw, heartbeat, now)
                if member is None:
                    continue
            if heartbeat > member.heartbeat and member is not me:
                # The first value proves nothing: it may be all that is left of a dead member.
                if member.heartbeat != 0:
                    member.rise(now, settling)
                member.heartbeat = heartbeat

    def _discover(self, raw: bytes, heartbeat: int, now: float) -> Member | None:
        """Add a member, unless it was forgotten and has not moved since, or there is no room."""
        remembered = self._forgotten.get(raw)
        if remembered is not None and heartbeat <= remembered:
            self._forgotten.move_to_end(raw)
            return None
        return self.add(MemberId.from_raw(raw), now)

    def add(self, member_id: MemberId, now: float) -> Member | None:
        """Add a member, dead until its heartbeats rise; None if there is no room for it."""
        is_long = len(member_id.node_id.encode()) > self._limits.node_id
        if is_long or not self._has_room():
            self._counters[Count.MEMBERS_DROPPED] += 1
            return None
        self._forgotten.pop(member_id.raw, None)
        return self._add(member_id, now)

    def _has_room(self) -> bool:
        """Tell whether one more member may be added; who never lived makes way for it.

        Else names that one spoofed datagram made up would keep all newcomers out until `grace`.
        """
        if len(self.members) < self._limits.members:
            return True
        stranger = next(iter(self._strangers.values()), None)
        if stranger is None:
            return False
        self._counters[Count.MEMBERS_DROPPED] += 1
        self._forget(stranger)
        return True

    def _add(self, member_id: MemberId, now: float) -> Member:
        group = self._groups.setdefault(member_id.node_id, Generations())
        if group.members:
            group.contested_at = now
        member = Member(member_id, group, self._interval)
        self.members[member.raw] = group.members[member.raw] = member
        self._strangers[member.raw] = member
        self._ordered = None
        return member

    def is_forgotten(self, raw: bytes) -> bool:
        """Tell whether a member was dropped for having been dead too long."""
        return raw in self._forgotten

    # What time does

    def refresh(self, now: float) -> None:
        """Notice who is alive and who is not, and forget who has been dead for too long."""
        gone = []
        for member in self.members.values():
            if member is self.me:
                continue
            if member.sampler.is_alive(now):
                member.is_live = member.was_live = True
                self._strangers.pop(member.raw, None)
                member.is_leaving, member.dead_since = False, None
                continue
            if member.is_live or member.dead_since is None:
                member.is_live, member.dead_since = False, now
                member.sampler.clear()
            dead_for = now - member.dead_since
            member.is_leaving = dead_for > self._grace / 2
            if dead_for >= self._grace:
                gone.append(member)
        for member in gone:
            self._forget(member)
        self._counters[Count.MEMBERS_FORGOTTEN] += len(gone)

    def _forget(self, member: Member) -> None:
        del self.members[member.raw]
        self._strangers.pop(member.raw, None)
        del member.generations.members[member.raw]
        if not member.generations.members:
            del self._groups[member.id.node_id]
        self._ordered = None
        self._forgotten[member.raw] = member.heartbeat
        self._forgotten.move_to_end(member.raw)
        if len(self._forgotten) > MEMORY:
            self._forgotten.popitem(last=False)

    # What there is

    def ordered(self) -> list[Member]:
        """Return all members by identity."""
        if self._ordered is None:
            self._ordered = sorted(self.members.values(), key=lambda member: member.id.sort_key)
        return self._ordered

    def current(self) -> list[Member]:
        """Return whom each node id stands for, see `Generations`; for its own, this node."""
        span = _LATE_SPAN * self._interval
        chosen = [
            self.me if self.me.raw in group.members else group.leader(span)
            for group in self._groups.values()
        ]
        return sorted(chosen, key=lambda member: member.id.node_id)

    def duplicates(self) -> tuple[str, ...]:
        """Return the node ids of which more than one generation surely lives, sorted."""
        span = _LATE_SPAN * self._interval
        return tuple(
            sorted(
                node_id
                for node_id, group in self._groups.items()
                if len(group.members) > 1
                and sum(each is self.me or each.is_late(span) for each in group.members.values())
                > 1
            )
        )
