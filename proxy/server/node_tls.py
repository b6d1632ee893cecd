"""The TLS of a node's ports: where each port's files are, and their reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.config import NodeConfig, TlsSettings
from proxy.metrics import NodeMetrics
from proxy.server.tls_front import TlsFront
from proxy.tls import Kind, TlsFiles
from proxy.tls.source import Reload, TlsSource

# What the connections of a port carry.
_PROTOCOLS: Final = {"grpc": ("h2",), "rest": ("http/1.1",)}


class NodeTls:
    """What `grpc.tls` and `rest.tls` ask for; a port without such a section speaks plain text.

    `open` reads the files and begins to watch them; `TlsError` when they cannot be used.
    """

    def __init__(self, config: NodeConfig, metrics: NodeMetrics) -> None:
        self._metrics = metrics
        self._sources: dict[str, TlsSource] = {}
        self.grpc = self._front("grpc", config.grpc.tls)
        self.rest = self._front("rest", config.rest_tls)

    def _front(self, name: str, settings: TlsSettings | None) -> TlsFront | None:
        if settings is None:
            return None
        metrics = self._metrics
        source = TlsSource(
            _files(name, settings),
            poll_interval=settings.cert_poll_interval,
            on_reload=metrics.tls_reloaded,
        )
        self._sources[name] = source

        def expiry() -> float | None:
            certificate = source.material.certificate
            return None if certificate is None else certificate.not_after.timestamp()

        def count(kind: Kind) -> None:
            metrics.tls_refused(name, kind.value)

        metrics.watch_certificate(name, expiry)
        return TlsFront(name, source, on_refusal=count)

    async def open(self) -> None:
        """Read the files of all ports. Idempotent."""
        for source in self._sources.values():
            await source.open()

    async def stage(self, config: NodeConfig) -> Callable[[], None]:
        """Read the files that another configuration names; return what takes them into use.

        `TlsError` when those of any port cannot be used. A port stays what it is, TLS or plain.
        """
        staged = []
        for name, settings in (("grpc", config.grpc.tls), ("rest", config.rest_tls)):
            source = self._sources.get(name)
            if source is not None and settings is not None:
                files = await source.stage(_files(name, settings))
                staged.append((source, files, settings.cert_poll_interval))

        def commit() -> None:
            for source, files, poll_interval in staged:
                source.adopt(files, poll_interval)

        return commit

    async def reload(self) -> tuple[Reload, ...]:
        """Look at the files of all ports now. A port whose files are bad keeps what it has."""
        return tuple([await source.reload() for source in self._sources.values()])

    async def close(self) -> None:
        """Close the ports that are still open, and watch no more. Idempotent."""
        for source in self._sources.values():
            await source.close()
        for front in (self.grpc, self.rest):
            if front is not None:
                await front.close(0.0)


def _files(name: str, settings: TlsSettings) -> TlsFiles:
    return settings.files(f"{name}.tls", _PROTOCOLS[name])
