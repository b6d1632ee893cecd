"""TLS with nothing but the standard library: files, certificates, and what failures mean.

Shared by the servers, which take connections, and the client, which makes them.
"""

from proxy.tls.certificates import Certificate, read_certificate
from proxy.tls.files import Material, TlsError, TlsFiles, load
from proxy.tls.reasons import Cause, Kind, Peer, client_sees, server_sees
from proxy.tls.source import Reload, Staged, TlsSource

__all__ = [
    "Cause",
    "Certificate",
    "Kind",
    "Material",
    "Peer",
    "Reload",
    "Staged",
    "TlsError",
    "TlsFiles",
    "TlsSource",
    "client_sees",
    "load",
    "read_certificate",
    "server_sees",
]
