"""What is told to whom, in which order; and that telling each other ends in agreement."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.identity import MemberId
from proxy.gossip.limits import Limits
from proxy.gossip.messages import (
    Ack,
    KeyRecord,
    NodeDelta,
    Syn,
    SynAck,
    decode,
    decode_delta,
    encode,
)
from proxy.gossip.reconcile import build_delta
from proxy.gossip.state import Applied, MemberState
from proxy.gossip.wire import Digest
from tests.unit.gossip.making import member

CODEC = BlockCodec()
A, B, C, D = (member(name) for name in "abcd")


def state(last_gc: int, max_version: int, *records: tuple[str, int]) -> MemberState:
    """Return a state with keys at versions."""
    made = MemberState()
    keys = [KeyRecord(key, f"value-{version}", version, 0) for key, version in records]
    assert made.replace(keys, (last_gc, max_version), 0.0)
    return made


def told(
    states: dict[MemberId, MemberState],
    digest: dict[MemberId, tuple[int, int]],
    budget: int = 65_503,
    seed: int = 1,
) -> list[NodeDelta]:
    """Return what a member with this digest of (last_gc_version, max_version) is told."""
    data = build_delta(
        [(key.raw, value) for key, value in states.items()],
        {key.raw: (1, *versions) for key, versions in digest.items()},
        budget,
        rng=Random(seed),
        codec=CODEC,
    )
    assert len(data) <= max(budget, 1)
    return decode_delta(CODEC.read(data, 0)[0])


def test_from_where_a_member_is_told() -> None:
    mine = {A: state(5, 9, ("x", 4), ("y", 8), ("z", 9))}

    def start(last_gc: int, max_version: int) -> list[tuple[int, int, list[int]]]:
        return [
            (each.last_gc_version, each.from_version, [key.version for key in each.records])
            for each in told(mine, {A: (last_gc, max_version)})
        ]

    assert start(0, 0) == [(5, 0, [4, 8, 9])]
    # It may have missed a deletion: from the beginning.
    assert start(4, 4) == [(5, 0, [4, 8, 9])]
    assert start(0, 5) == [(5, 5, [8, 9])]
    assert start(5, 4) == [(5, 4, [8, 9])]
    assert start(0, 8) == [(5, 8, [9])]
    assert start(0, 9) == start(0, 12) == []
    # It has forgotten deletions that we never heard of.
    assert start(9, 4) == [(5, 4, [8, 9])]
    assert start(10, 4) == []


def test_a_member_that_does_not_fit_ends_the_delta() -> None:
    mine = {each: state(0, 1, ("x" * 30, 1)) for each in (A, B, C)}
    assert [len(each.records) for each in told(mine, {}, 170)] == [1, 0]
    assert [len(each.records) for each in told(mine, {}, 100)] == [1]


def test_the_highest_version_is_told_only_where_there_is_no_key_to_tell() -> None:
    mine = {A: state(0, 9, ("x", 4))}
    (delta,) = told(mine, {A: (0, 4)})
    assert (delta.max_version, delta.records) == (9, [])
    (delta,) = told(mine, {A: (0, 3)})
    assert (delta.max_version, len(delta.records)) == (4, 1)


def test_unknown_members_first_the_smallest_first_then_those_that_lack_most() -> None:
    mine = {
        A: state(0, 30, ("x", 29), ("y", 30)),
        B: state(0, 20, ("x", 20)),
        C: state(0, 3, ("x", 1), ("y", 2), ("z", 3)),
        D: state(0, 50, ("x", 1)),
    }
    order = [each.raw for each in told(mine, {A: (0, 28), B: (0, 1)})]
    assert order == [C.raw, D.raw, A.raw, B.raw]


def test_ties_are_broken_at_random() -> None:
    mine = {each: state(0, 1, ("x", 1)) for each in (A, B)}
    assert {told(mine, {}, seed=seed)[0].raw for seed in range(20)} == {A.raw, B.raw}


def test_no_delta_below_a_hundred_bytes() -> None:
    mine = {A: state(0, 1, ("x", 1))}
    assert told(mine, {}, 99) == told(mine, {}, 0) == told(mine, {}, -5_000) == []
    assert len(told(mine, {}, 100)) == 1


@given(st.integers(100, 2_000), st.integers(0, 60))
def test_a_delta_that_is_cut_short_is_a_contiguous_beginning(budget: int, known: int) -> None:
    keys = [(f"key-{n % 37}-{n}", n) for n in range(1, 61) if n % 7]
    mine = {A: state(0, 60, *keys)}
    for delta in told(mine, {A: (0, known)}, budget):
        newer = [version for _, version in keys if version > known]
        told_of = [each.version for each in delta.records]
        assert told_of == newer[: len(told_of)]
        assert delta.max_version == (told_of[-1] if told_of else 60 if not newer else 0)


# Properties

ids = st.builds(
    MemberId,
    st.text(max_size=12),
    st.integers(0, 2**64 - 1),
    st.ip_addresses(),
    st.integers(0, 65_535),
)
numbers = st.integers(0, 2**64 - 1)
digests = st.dictionaries(ids.map(lambda each: each.raw), st.tuples(numbers, numbers, numbers))


@st.composite
def node_deltas(draw: st.DrawFn, raw: bytes) -> NodeDelta:
    versions = sorted(draw(st.sets(st.integers(1, 2**64 - 1), max_size=5)))
    text = st.text(max_size=20)
    records = [
        KeyRecord(draw(text), draw(text), version, draw(st.integers(0, 2))) for version in versions
    ]
    most = versions[-1] if versions else draw(numbers)
    return NodeDelta(raw, draw(numbers), draw(numbers), most, records)


@st.composite
def deltas(draw: st.DrawFn) -> list[NodeDelta]:
    raws = draw(st.lists(ids.map(lambda each: each.raw), max_size=4, unique=True))
    return [draw(node_deltas(raw)) for raw in raws]


@given(st.integers(0, 1), digests, st.text(max_size=30), deltas())
def test_messages_survive_the_wire(
    version: int, digest: Digest, name: str, delta: list[NodeDelta]
) -> None:
    for message in (
        Syn(version, digest, name),
        SynAck(version, digest, delta),
        Ack(version, delta),
    ):
        assert decode(encode(message, CODEC), CODEC) == message


@given(ids, ids)
def test_an_identity_is_its_encoding(one: MemberId, other: MemberId) -> None:
    assert MemberId.from_raw(one.raw) == one
    assert (one == other) is (one.raw == other.raw)
    assert (one < other) is (one.sort_key < other.sort_key)


small = st.integers(0, 12)


@st.composite
def small_deltas(draw: st.DrawFn) -> NodeDelta:
    versions = sorted(draw(st.sets(st.integers(1, 12), max_size=4)))
    records = [
        KeyRecord(draw(st.sampled_from("abcd")), "", version, draw(st.integers(0, 2)))
        for version in versions
    ]
    most = versions[-1] if versions else draw(small)
    return NodeDelta(A.raw, draw(small), draw(small), most, records)


@given(st.lists(small_deltas(), max_size=12), st.integers(0, 5), st.integers(0, 2_000))
def test_versions_never_decrease_whatever_comes(
    many: list[NodeDelta], keys: int, room: int
) -> None:
    made, limits = MemberState(), Limits(keys=keys or 100)
    for now, delta in enumerate(many):
        before = (made.last_gc_version, made.max_version)
        applied = made.apply(delta, float(now), limits, room)
        after = (made.last_gc_version, made.max_version)
        assert after >= before
        assert after == before or applied in (Applied.APPLIED, Applied.RESET)
        made.collect(float(now), 3.0)
        assert (made.last_gc_version, made.max_version) >= after
        versions = [record.version for record in made.records()]
        assert versions == sorted(set(versions))
        assert all(version <= made.max_version for version in versions)
        assert made.size == sum(len(each.key) + 256 for each in made.records())


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 60), st.booleans()), max_size=30),
    st.integers(200, 1_500),
    st.integers(0, 2**32),
)
def test_two_members_agree_after_enough_exchanges(
    writes: list[tuple[str, int, bool]], budget: int, seed: int
) -> None:
    """Each owns a state that it writes and at times collects; every exchange tells a budget."""
    rng, limits = Random(seed), Limits()
    sides = [{each: MemberState() for each in (A, B)} for _ in range(2)]
    for now, (key, size, is_deleted) in enumerate(writes):
        owned = sides[now % 2][(A, B)[now % 2]]
        if is_deleted:
            owned.delete(key, float(now))
        else:
            owned.set(key, "v" * size + str(now))
        if rng.random() < 0.3:
            owned.collect(float(now), 4.0)
        if rng.random() < 0.3:
            tell(sides[0], sides[1], budget, rng, limits)
    for _ in range(40):
        tell(sides[0], sides[1], budget, rng, limits)
        tell(sides[1], sides[0], budget, rng, limits)
    for each in (A, B):
        one, other = (side[each] for side in sides)
        assert one.plain_keys() == other.plain_keys()
        assert one.max_version == other.max_version


def tell(
    teller: dict[MemberId, MemberState],
    told_one: dict[MemberId, MemberState],
    budget: int,
    rng: Random,
    limits: Limits,
) -> None:
    """Let one side tell the other what it lacks."""
    digest = {
        key.raw: (1, value.last_gc_version, value.max_version) for key, value in told_one.items()
    }
    states = [(key.raw, value) for key, value in teller.items()]
    data = build_delta(states, digest, budget, rng=rng, codec=CODEC)
    by_raw = {key.raw: value for key, value in told_one.items()}
    for delta in decode_delta(CODEC.read(data, 0)[0]):
        applied = by_raw[delta.raw].apply(delta, 0.0, limits, 1 << 30)
        assert applied in (Applied.APPLIED, Applied.RESET, Applied.STALE)
