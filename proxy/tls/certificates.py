"""What an X.509 certificate says that a person needs to know: for which names, and until when.

Read by hand, because the standard library only shows a certificate that it has verified, and the
one to explain is the one that was refused. Nothing here judges a certificate.

Facts: RFC 5280, section 4.1: Certificate ::= SEQUENCE { tbsCertificate, ... }; tbsCertificate has
an optional [0] version, serial, algorithm, issuer, validity, subject, key, and [3] extensions;
2.5.29.17 is subjectAltName, in which [2] is a DNS name and [7] an IP address.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_SEQUENCE: Final = 0x30
_BOOLEAN: Final = 0x01
_UTC_TIME: Final = 0x17
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_SUBJECT_ALT_NAME: Final = bytes([0x06, 3, 0x55, 0x1D, 0x11])
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87
# A list of names in a message ends here.
_SHOWN: Final = 5


@dataclass(frozen=True)
class Certificate:
    """The names that a certificate is for, DNS names and IP addresses, and when it is valid."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    @property
    def names_text(self) -> str:
        """The names for a message, the first few of them."""
        shown = ", ".join(self.names[:_SHOWN])
        rest = len(self.names) - _SHOWN
        return f"{shown} and {rest} more" if rest > 0 else shown or "no name"

    @property
    def expiry(self) -> str:
        """The end of its validity for a message, such as `2027-01-31 12:00 UTC`."""
        return self.not_after.strftime("%Y-%m-%d %H:%M UTC")


def read_certificate(der: bytes) -> Certificate:
    """Return what a certificate in DER says. `ValueError` when it is none."""
    try:
        (certificate,) = _elements(der)
        body = _first(_content(certificate, _SEQUENCE))
        fields = [item for item in _elements(_content(body, _SEQUENCE)) if item[0] != _VERSION]
        _serial, _algorithm, _issuer, validity, *rest = fields
        not_before, not_after = (_time(item) for item in _elements(_content(validity, _SEQUENCE)))
        names = tuple(name for item in rest if item[0] == _EXTENSIONS for name in _names(item[1]))
    except (IndexError, OverflowError) as error:
        raise ValueError("not an X.509 certificate") from error
    return Certificate(names, not_before, not_after)


def first_in_pem(text: str) -> Certificate:
    """Return what the first certificate of a PEM text says. `ValueError` when there is none."""
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    if begin < 0 or end < begin:
        raise ValueError("no certificate in PEM form")
    return read_certificate(ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)]))


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element. `ValueError` for one that is cut short."""
    place = 0
    while place < len(data):
        tag, length = data[place], data[place + 1]
        place += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[place : place + size])
            place += size
        if place + length > len(data):
            raise ValueError("not an X.509 certificate: an element is cut short")
        yield tag, data[place : place + length]
        place += length


def _first(data: bytes) -> tuple[int, bytes]:
    for element in _elements(data):
        return element
    raise ValueError("not an X.509 certificate: an element is empty")


def _content(element: tuple[int, bytes], tag: int) -> bytes:
    if element[0] != tag:
        raise ValueError("not an X.509 certificate: an element is of another kind")
    return element[1]


def _time(element: tuple[int, bytes]) -> datetime:
    text = element[1].decode("ascii")
    if element[0] == _UTC_TIME:
        # Two digits of the year: those from 50 on are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _names(extensions: bytes) -> Iterator[str]:
    for extension in _elements(_content(_first(extensions), _SEQUENCE)):
        content = _content(extension, _SEQUENCE)
        if not content.startswith(_SUBJECT_ALT_NAME):
            continue
        parts = [item for item in _elements(content) if item[0] != _BOOLEAN]
        for tag, value in _elements(_content(_first(parts[1][1]), _SEQUENCE)):
            if tag == _DNS_NAME:
                yield value.decode("ascii")
            elif tag == _IP_ADDRESS:
                yield str(ipaddress.ip_address(value))
