"""TLS with nothing but the standard library: files, certificates, and what failures mean.

Shared by the servers, which take connections, and the client, which makes them. `source` has the
files that change while they are used, and `handshake` tries one.
"""

from proxy.tls.certificates import Certificate, read_certificate
from proxy.tls.files import Material, TlsError, TlsFiles, load
from proxy.tls.reasons import Cause, Kind, Peer, client_sees, server_sees

__all__ = [
    "Cause",
    "Certificate",
    "Kind",
    "Material",
    "Peer",
    "TlsError",
    "TlsFiles",
    "client_sees",
    "load",
    "read_certificate",
    "server_sees",
]
