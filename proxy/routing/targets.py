"""Addresses as people write them: `host:port`, `[v6]:port` and `dns:///name:port`.

A plain target is one backend. A `dns:///` target is a name whose every address is a backend.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_DNS_SCHEME: Final = "dns:///"
TARGET_FORMS: Final = "`host:port`, `[v6]:port` or `dns:///name:port`"
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target. `host` has no brackets; `is_name` tells a `dns:///` target."""

    host: str
    port: int
    is_name: bool = False

    @property
    def address(self) -> str:
        """The text `host:port`, an IPv6 host in brackets."""
        return join_address(self.host, self.port)

    def __str__(self) -> str:
        return f"{_DNS_SCHEME if self.is_name else ''}{self.address}"


def join_address(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_target(text: str) -> Target:
    """Return the target that `text` names. `ValueError` that quotes it when it is malformed."""
    is_name = text.startswith(_DNS_SCHEME)
    rest = text.removeprefix(_DNS_SCHEME)
    if "/" in rest:
        raise ValueError(f"target {text!r} is not an address: write {TARGET_FORMS}")
    host, colon, digits = rest.rpartition(":")
    if not colon or not host:
        raise ValueError(f"target {text!r} has no port or no host: write {TARGET_FORMS}")
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits[:6]) <= 65535):
        raise ValueError(f"target {text!r} needs a port from 1 to 65535, got {digits!r}")
    return Target(_host(host, text), int(digits), is_name)


def parse_seed(text: str, default_port: int) -> Target:
    """Return the gossip address that an item of `peer_seeds` names; `ValueError` for none.

    Facts: Quickwit takes a host or an address with or without a port, an IPv6 address without one
    also without brackets; the port is then that of the node's own gossip.
    """
    try:
        return Target(str(ipaddress.ip_address(text)), default_port)
    except ValueError:
        if ":" not in text:
            return Target(_host(text, text), default_port)
    target = parse_target(text)
    if target.is_name:
        raise ValueError(f"seed {text!r} must be a host with or without a port")
    return target


def parse_targets(texts: Iterable[str], field: str) -> tuple[Target, ...]:
    """Return the targets of a list, without repeats. `ValueError` that also names `field`."""
    if isinstance(texts, str):
        raise ValueError(f"{field} must be a list of targets, got the text {texts!r}")
    try:
        return tuple(dict.fromkeys(parse_target(text) for text in texts))
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def _host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise ValueError(f"target {text!r} has a bad IPv6 address in brackets") from error
    if ":" in host:
        raise ValueError(
            f"target {text!r} holds an IPv6 address without brackets: write {TARGET_FORMS}"
        )
    if not _HOST.fullmatch(host):
        raise ValueError(f"target {text!r} has a bad host {host!r}: write {TARGET_FORMS}")
    return host
