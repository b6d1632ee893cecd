"""The addresses of this host: what to listen on, and what to tell others.

Facts: Quickwit resolves `advertise_address` to one IP at start; without one it takes the listen
address, and where that is unspecified a private address of an interface that is up, IPv4 first, the
smallest network first. Members of a cluster never tell each other names.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from proxy import errors
from proxy.gossip.identity import IpAddress

# Seconds for one look-up of a name.
RESOLVE_BOUND: Final = 10.0

_PRIVATE: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_UP: Final = 0x1


@dataclass(frozen=True, slots=True)
class Interface:
    """An address of one of the host's interfaces, with the length of its network's prefix."""

    name: str
    ip: IpAddress
    prefix: int


async def resolve(host: str, port: int = 0) -> tuple[IpAddress, ...]:
    """Return the addresses of a name, or the one that a literal is. `OSError` when it has none."""
    try:
        return (ip_address(host),)
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_BOUND):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except TimeoutError:
        raise OSError(f"no answer within {RESOLVE_BOUND:g} s") from None
    except UnicodeError as error:
        raise OSError("it is no host name") from error
    # The zone of a link-local address is of no use to others.
    hosts = (str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found)
    return tuple(dict.fromkeys(ip_address(one) for one in hosts))


async def listen_ip(host: str) -> IpAddress:
    """Return the IP address to listen on. `Io` when a name has none."""
    return await _one(host, "listen_address")


async def advertised_ip(advertise_address: str | None, listen: IpAddress) -> IpAddress:
    """Return the IP address that others are told. `Io`, saying what to set, when there is none."""
    if advertise_address is not None:
        ip = await _one(advertise_address, "advertise_address")
        if ip.is_unspecified:
            raise errors.Io(
                f"`advertise_address` {ip} is no address that others can reach: set it (or "
                "QW_ADVERTISE_ADDRESS) to an address of this host"
            )
        return ip
    if not listen.is_unspecified:
        return listen
    found = private_address(interfaces(), with_ipv6=listen.version == 6)
    if found is None:
        raise errors.Io(
            f"`listen_address` {listen} is every interface, and none of them has a private "
            "address to tell other nodes: set `advertise_address` (or QW_ADVERTISE_ADDRESS) to "
            "the address at which they reach this node"
        )
    return found.ip


async def _one(host: str, key: str) -> IpAddress:
    try:
        found = await resolve(host)
    except OSError as error:
        reason = error.strerror or str(error)
        raise errors.Io(
            f"`{key}` {host!r} cannot be resolved ({reason}): set it to an IP address, or to a "
            "name that this host can resolve"
        ) from error
    # Where a name is both, as `localhost` may be, IPv4 is what most peers can reach.
    return min(found, key=lambda ip: ip.version)


def private_address(candidates: Iterable[Interface], *, with_ipv6: bool = True) -> Interface | None:
    """Return the interface whose address Quickwit would tell others, None without any.

    An IPv6 address is of no use to a node that listens on IPv4 alone (`with_ipv6` False).
    """
    private = [
        one
        for one in candidates
        if any(one.ip in network for network in _PRIVATE) and (with_ipv6 or one.ip.version == 4)
    ]
    return min(private, key=lambda one: (one.ip.version, -one.prefix), default=None)


class _Sockaddr(ctypes.Structure):
    """The head of `struct sockaddr`; BSD has a length where Linux has half of the family."""

    _fields_ = (("head", ctypes.c_uint8 * 2), ("data", ctypes.c_uint8 * 26))


class _Ifaddrs(ctypes.Structure):
    """`struct ifaddrs`, which Linux and BSD lay out alike as far as it is read here."""


_Ifaddrs._fields_ = (
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_Sockaddr)),
    ("netmask", ctypes.POINTER(_Sockaddr)),
)


def interfaces() -> Sequence[Interface]:
    """Return the addresses of the interfaces that are up; none where the system does not tell."""
    library = ctypes.CDLL(None, use_errno=True)
    head = ctypes.POINTER(_Ifaddrs)()
    try:
        failed = library.getifaddrs(ctypes.byref(head))
    except AttributeError:
        return ()
    if failed:
        return ()
    found = []
    try:
        entry = head
        while entry:
            if (one := _read(entry.contents)) is not None:
                found.append(one)
            entry = entry.contents.next
    finally:
        library.freeifaddrs(head)
    return found


def _read(entry: _Ifaddrs) -> Interface | None:
    if not entry.flags & _UP or not entry.address:
        return None
    address = _packed(entry.address.contents)
    if address is None:
        return None
    mask = _packed(entry.netmask.contents, len(address)) if entry.netmask else None
    ip = IPv4Address(address) if len(address) == 4 else IPv6Address(address)
    prefix = 0 if mask is None else int.from_bytes(mask, "big").bit_count()
    return Interface(entry.name.decode(errors="replace"), ip, prefix)


def _packed(address: _Sockaddr, size: int | None = None) -> bytes | None:
    """Return the octets of an address; of a mask, whose family may be missing, `size` of them."""
    family = address.head[1] or address.head[0]
    if family == socket.AF_INET or size == 4:
        return bytes(address.data[2:6])
    if family == socket.AF_INET6 or size == 16:
        return bytes(address.data[6:22])
    return None
