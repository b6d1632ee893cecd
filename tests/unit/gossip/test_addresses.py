"""Which address of a host others are told."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy import errors
from proxy.gossip.addresses import (
    Interface,
    advertised_ip,
    interfaces,
    listen_ip,
    private_address,
)

LOOPBACK = ("lo", "127.0.0.1", 8)
DOCKER = ("docker0", "172.17.0.1", 16)
LAN = ("eth0", "192.168.1.70", 24)
PUBLIC = ("eth0", "8.8.8.8", 24)
LOCAL6 = ("eth0", "fe80::1", 64)
PRIVATE6 = ("eth0", "fd00::2", 64)


@pytest.mark.parametrize(
    ("found", "with_ipv6", "chosen"),
    [
        ([], True, None),
        ([LOOPBACK, PUBLIC, LOCAL6], True, None),
        ([LOOPBACK, DOCKER, LAN], True, "192.168.1.70"),
        ([LOOPBACK, PRIVATE6, DOCKER], True, "172.17.0.1"),
        ([LOOPBACK, PRIVATE6, PUBLIC], True, "fd00::2"),
        ([LOOPBACK, PRIVATE6, PUBLIC], False, None),
        ([("a", "10.1.2.3", 8), ("b", "10.1.2.4", 32), ("c", "10.1.2.5", 24)], True, "10.1.2.4"),
        ([("a", "172.32.0.1", 16), ("b", "192.169.0.1", 16), ("c", "11.0.0.1", 8)], True, None),
    ],
)
def test_the_private_address_is_the_one_that_quickwit_takes(
    found: list[tuple[str, str, int]], with_ipv6: bool, chosen: str | None
) -> None:
    candidates = [Interface(name, ip_address(ip), prefix) for name, ip, prefix in found]
    one = private_address(candidates, with_ipv6=with_ipv6)
    assert (None if one is None else str(one.ip)) == chosen


def test_interfaces_are_those_of_this_host() -> None:
    loopback = {one.ip: one.prefix for one in interfaces() if one.ip.is_loopback}
    assert loopback[ip_address("127.0.0.1")] == 8


@pytest.mark.parametrize(
    ("advertise", "listen", "expected"),
    [
        (None, "10.0.0.1", "10.0.0.1"),
        (None, "::1", "::1"),
        ("10.9.9.9", "0.0.0.0", "10.9.9.9"),
        ("10.9.9.9", "10.0.0.1", "10.9.9.9"),
        # A name is never told; where it is of both families, IPv4 is.
        ("localhost", "0.0.0.0", "127.0.0.1"),
    ],
)
async def test_advertised_address(advertise: str | None, listen: str, expected: str) -> None:
    assert str(await advertised_ip(advertise, ip_address(listen))) == expected


@pytest.mark.parametrize(
    ("advertise", "message"),
    [
        ("no-such-host.invalid", "`advertise_address` 'no-such-host.invalid' cannot be resolved"),
        ("0.0.0.0", "`advertise_address` 0.0.0.0 is no address that others can reach"),
        (None, "set `advertise_address` (or QW_ADVERTISE_ADDRESS) to"),
    ],
)
async def test_no_address_to_tell_is_an_error(
    monkeypatch: pytest.MonkeyPatch, advertise: str | None, message: str
) -> None:
    monkeypatch.setattr("proxy.gossip.addresses.interfaces", lambda: ())
    with pytest.raises(errors.Io) as caught:
        await advertised_ip(advertise, ip_address("0.0.0.0"))
    assert message in str(caught.value)


async def test_every_interface_tells_a_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Interface(name, ip_address(ip), prefix) for name, ip, prefix in (LOOPBACK, LAN)]
    monkeypatch.setattr("proxy.gossip.addresses.interfaces", lambda: found)
    assert str(await advertised_ip(None, ip_address("0.0.0.0"))) == "192.168.1.70"


async def test_a_listen_address_may_be_a_name() -> None:
    assert str(await listen_ip("localhost")) == "127.0.0.1"
    with pytest.raises(errors.Io, match=r"`listen_address` 'no-such-host\.invalid' cannot be"):
        await listen_ip("no-such-host.invalid")
