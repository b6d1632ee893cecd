"""`peer_seeds` as addresses; names are looked up again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from ipaddress import ip_address

import pytest

from proxy.gossip.identity import IpAddress
from proxy.gossip.seeds import Seed, Seeds
from tests.support.waiting import until


class Names:
    """A stand-in for the resolver: names can come, change and go."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.stuck: set[str] = set()

    async def __call__(self, host: str, _port: int = 0) -> Sequence[IpAddress]:
        self.asked.append(host)
        if host in self.stuck:
            await asyncio.Event().wait()
        if host not in self.addresses:
            raise OSError(-2, "Name or service not known")
        return tuple(ip_address(text) for text in self.addresses[host])


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names()
    monkeypatch.setattr("proxy.gossip.seeds.resolve", found)
    monkeypatch.setattr("proxy.gossip.seeds.REFRESH", 0.01)
    monkeypatch.setattr("proxy.gossip.seeds.RETRY", 0.01)
    return found


async def test_literals_are_known_at_once_and_need_no_look_up(names: Names) -> None:
    told: list[Collection[Seed]] = []
    seeds = Seeds(["10.0.0.1", "10.0.0.2:99", "::1", "[::2]:99"], 7280, told.append)
    seeds.open()
    await seeds.close()
    assert told == [{("10.0.0.1", 7280), ("10.0.0.2", 99), ("::1", 7280), ("::2", 99)}]
    assert names.asked == []


async def test_names_follow_what_the_resolver_says(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Collection[Seed]] = []
    names.addresses = {"a": ["10.0.0.1", "fd00::1"]}
    seeds = Seeds(["a", "b:99", "10.0.0.9"], 7280, told.append)
    seeds.open()
    literal = ("10.0.0.9", 7280)
    both = {literal, ("10.0.0.1", 7280), ("fd00::1", 7280)}
    try:
        await until(lambda: told[-1] == both)
        names.addresses = {"b": ["10.0.0.3"]}
        await until(lambda: told[-1] == {literal, ("10.0.0.3", 99)})
    finally:
        await seeds.close()
    assert told[0] == {literal}
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    # Once for each name that fails, however often it is tried.
    assert lines == ["a name in `peer_seeds` cannot be resolved: it is tried again"] * 2


async def test_a_look_up_that_hangs_is_ended_with_the_node(names: Names) -> None:
    names.stuck = {"a"}
    seeds = Seeds(["a"], 7280, lambda _: None)
    seeds.open()
    await until(lambda: names.asked)
    await asyncio.wait_for(seeds.close(), 5)
    await seeds.close()


@pytest.mark.parametrize("seed", ["a:b", "a:0", "dns:///a:1", "a b", "[::1]", "[::1", "a:1:2", ""])
def test_a_malformed_seed_is_refused(seed: str) -> None:
    with pytest.raises(ValueError, match=r"target|seed"):
        Seeds([seed], 7280, lambda _: None)
