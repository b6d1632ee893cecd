"""TLS towards the backends: what is trusted, what is presented, and which name is looked for.

Facts: as in Quickwit only the certificates of `ca_path` are trusted, and a certificate must be for
`expected_name`, or else for the host that is connected to; for a `dns:///` target that is the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, Self

from proxy.tls import TlsFiles

_POLL_INTERVAL: Final = 300.0


class TlsSection(Protocol):
    """What the client reads of the `grpc.tls` section of a node's configuration."""

    @property
    def cert_path(self) -> str: ...

    @property
    def key_path(self) -> str: ...

    @property
    def ca_path(self) -> str: ...

    @property
    def expected_name(self) -> str | None: ...

    @property
    def verify_client_cert(self) -> bool: ...

    @property
    def cert_poll_interval(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """The files, in PEM, and the name. All backends speak TLS, or none does.

    ca_path         the CAs that are trusted; no other is
    cert_path, key_path   what the client presents; without them it presents nothing
    expected_name   what a backend's certificate must be for, instead of its host
    poll_interval   seconds between two looks at the files; changed ones are taken into use
    section         how messages name the settings
    """

    ca_path: str
    cert_path: str = ""
    key_path: str = ""
    expected_name: str | None = None
    poll_interval: float = _POLL_INTERVAL
    section: str = "tls"

    @classmethod
    def from_config(cls, section: TlsSection) -> Self:
        """Return what a node uses towards others: it presents its own certificate in mutual TLS."""
        is_mutual = section.verify_client_cert
        return cls(
            ca_path=section.ca_path,
            cert_path=section.cert_path if is_mutual else "",
            key_path=section.key_path if is_mutual else "",
            expected_name=section.expected_name,
            poll_interval=section.cert_poll_interval,
            section="grpc.tls",
        )

    @property
    def hint(self) -> str:
        """What to set so that a certificate is presented."""
        if self.section == "grpc.tls":
            return "set `grpc.tls.verify_client_cert` here as well"
        return f"set `{self.section}.cert_path` and `{self.section}.key_path`"

    @property
    def files(self) -> TlsFiles:
        """The files, to be loaded."""
        return TlsFiles(
            cert_path=self.cert_path,
            key_path=self.key_path,
            ca_path=self.ca_path,
            is_mutual=bool(self.cert_path or self.key_path),
            section=self.section,
        )

    def name_of(self, address: str, authority: str | None) -> str:
        """Return what the certificate of a backend must be for."""
        return self.expected_name or host_of(authority or address)


def host_of(address: str) -> str:
    """Return the host of `host:port` or `[v6]:port`."""
    return address.rpartition(":")[0].strip("[]")
