"""The container's health check against servers that answer, refuse, or are not there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from proxy.config import ConfigError, TlsSettings, load_health_endpoint
from proxy.demo.postgres_host import free_port
from proxy.healthcheck import main
from tests.support.certificates import Authority, tls_settings

VARIABLES = ("QW_CONFIG", "QW_REST_LISTEN_PORT", "QW_LISTEN_ADDRESS", "QW_HEALTH_LISTEN_PORT")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller's reaches the check."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def answering(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a node's health paths, alive and not ready; lend the port."""

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=503, text="database_connected: no")

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="true")

    app = web.Application()
    app.router.add_get("/health/readyz", ready)
    app.router.add_get("/health/livez", alive)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        yield port
    finally:
        await runner.cleanup()


async def check(monkeypatch: pytest.MonkeyPatch, config: Path | str, *arguments: str) -> int:
    """Run the program as a container does."""
    monkeypatch.setenv("QW_CONFIG", str(config))
    return await asyncio.to_thread(main, arguments)


def written(directory: Path, **keys: object) -> Path:
    """Write a node's config."""
    path = directory / "node.yaml"
    path.write_text(yaml.safe_dump({"version": "0.8", **keys}))
    return path


async def test_it_tells_what_the_node_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with answering() as port:
        config = written(tmp_path, rest={"listen_port": port}, listen_address="0.0.0.0")
        assert await check(monkeypatch, config) == 1
        assert capsys.readouterr().out == "database_connected: no\n"
        assert await check(monkeypatch, config, "--live") == 0
        assert capsys.readouterr().out == "true\n"


async def test_nobody_there_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QW_REST_LISTEN_PORT", str(free_port()))
    assert await check(monkeypatch, "") == 1
    assert "no answer from 127.0.0.1:" in capsys.readouterr().out


@pytest.mark.parametrize("mutual", [False, True])
async def test_it_asks_a_port_that_speaks_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutual: bool
) -> None:
    authority = Authority(tmp_path)
    # As behind a name: the certificate is not for the address that is asked.
    own = authority.issue("node", "metastore.example.org")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.cert, own.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    settings = tls_settings(own, authority.ca, mutual=mutual)
    tls = {
        "cert_path": settings.cert_path,
        "key_path": settings.key_path,
        "ca_path": settings.ca_path,
        "verify_client_cert": mutual,
    }
    async with answering(context) as port:
        config = written(tmp_path, rest={"listen_port": port, "tls": tls})
        assert await check(monkeypatch, config, "--live") == 0


async def test_what_it_cannot_read_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await check(monkeypatch, tmp_path / "none.yaml") == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ("127.0.0.1", 7280)),
        ({"listen_address": "0.0.0.0"}, ("127.0.0.1", 7280)),
        ({"listen_address": "::"}, ("::1", 7280)),
        ({"listen_address": "10.0.0.5", "rest": {"listen_port": 80}}, ("10.0.0.5", 80)),
        # Neither the role nor what it needs is looked at.
        ({"enabled_services": ["metastore"], "health": {"listen_port": 7282}}, ("127.0.0.1", 7282)),
    ],
)
def test_the_config_says_where_to_ask(
    tmp_path: Path, keys: dict[str, object], expected: tuple[str, int]
) -> None:
    assert load_health_endpoint(written(tmp_path, **keys), {}) == (*expected, None)


def test_the_port_for_health_alone_is_in_plain_text(tmp_path: Path) -> None:
    tls = {"cert_path": "a", "key_path": "b"}
    config = written(tmp_path, rest={"tls": tls})
    assert load_health_endpoint(config, {})[2] == TlsSettings(cert_path="a", key_path="b")
    assert load_health_endpoint(config, {"QW_HEALTH_LISTEN_PORT": "1"})[1:] == (1, None)


def test_a_port_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`rest.listen_port` must be a whole number"):
        load_health_endpoint(written(tmp_path, rest={"listen_port": "x"}), {})
