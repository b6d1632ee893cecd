"""Certificates made for a test, as PEM files in its directory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme

from proxy.config import TlsSettings


@dataclass(frozen=True)
class Issued:
    """The files of one certificate."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority. `ca` is the file that makes a side trust it."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._authority = trustme.CA(organization_name=name)
        self.ca = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(
        self,
        name: str,
        *names: str,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Issued:
        """Issue a certificate for `names`, by default for 127.0.0.1, into files called `name`.

        Files of that name are replaced, as a tool that renews certificates replaces them.
        """
        made = self._authority.issue_cert(
            *(names or ("127.0.0.1",)), not_before=not_before, not_after=not_after
        )
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        issued = Issued(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        replace_file(issued.cert, chain)
        replace_file(issued.key, made.private_key_pem.bytes())
        return issued

    def issue_expired(self, name: str, *names: str) -> Issued:
        """Issue a certificate that was valid in 2020 only."""
        return self.issue(
            name,
            *names,
            not_before=datetime(2020, 1, 1, tzinfo=UTC),
            not_after=datetime(2020, 12, 31, 12, tzinfo=UTC),
        )


def replace_file(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one, in one step."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)


def tls_settings(
    own: Issued, ca: Path | None = None, *, mutual: bool = True, name: str | None = None
) -> TlsSettings:
    """Return a node's `grpc.tls` or `rest.tls`."""
    return TlsSettings(
        cert_path=str(own.cert),
        key_path=str(own.key),
        ca_path="" if ca is None else str(ca),
        expected_name=name,
        verify_client_cert=mutual,
    )
