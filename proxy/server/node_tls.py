"""The TLS of a node's ports: where each port's files are, and their reload."""

from __future__ import annotations

from proxy.config import NodeConfig, TlsSettings
from proxy.metrics import NodeMetrics
from proxy.server.tls_front import TlsFront
from proxy.tls import Kind, Reload, TlsSource


class NodeTls:
    """What `grpc.tls` and `rest.tls` ask for; a port without such a section speaks plain text.

    `open` reads the files and begins to watch them; `TlsError` when they cannot be used.
    """

    def __init__(self, config: NodeConfig, metrics: NodeMetrics) -> None:
        self._metrics = metrics
        self._sources: list[TlsSource] = []
        self.grpc = self._front("grpc", config.grpc.tls, ("h2",))
        self.rest = self._front("rest", config.rest_tls, ("http/1.1",))

    def _front(
        self,
        name: str,
        settings: TlsSettings | None,
        protocols: tuple[str, ...],
    ) -> TlsFront | None:
        if settings is None:
            return None
        metrics = self._metrics
        source = TlsSource(
            settings.files(f"{name}.tls", protocols),
            poll_interval=settings.cert_poll_interval,
            on_reload=metrics.tls_reloaded,
        )
        self._sources.append(source)

        def expiry() -> float | None:
            certificate = source.material.certificate
            return None if certificate is None else certificate.not_after.timestamp()

        def count(kind: Kind) -> None:
            metrics.tls_refused(name, kind.value)

        metrics.watch_certificate(name, expiry)
        return TlsFront(name, source, on_refusal=count)

    async def open(self) -> None:
        """Read the files of all ports. Idempotent."""
        for source in self._sources:
            await source.open()

    async def reload(self) -> tuple[Reload, ...]:
        """Look at the files of all ports now. A port whose files are bad keeps what it has."""
        return tuple([await source.reload() for source in self._sources])

    async def close(self) -> None:
        """Close the ports that are still open, and watch no more. Idempotent."""
        for source in self._sources:
            await source.close()
        for front in (self.grpc, self.rest):
            if front is not None:
                await front.close(0.0)
