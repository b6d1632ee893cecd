"""Log levels and formats, and the export of spans: variables of Quickwit's, and our keys."""

from __future__ import annotations

import pytest

from proxy.config import ConfigError, describe
from proxy.config.model import TracingSettings
from tests.unit.config.conftest import Load

EXPORTER = "QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER"


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ("debug", "debug"),
        ("WARNING", "warn"),
        ("'off'", "off"),
        ("'info,proxy.client=debug'", "info,proxy.client=debug"),
        ("'warn, proxy::store=Trace'", "warn,proxy.store=trace"),
    ],
)
def test_a_level_of_the_file(load: Load, given: str, level: str) -> None:
    config = load(f"proxy: {{log_level: {given}}}")
    assert config.proxy.log_level == level
    assert describe(config)["proxy"]["log_level"] == level


@pytest.mark.parametrize("given", ["loud", "proxy.client", "'info,other=debug'", "'proxy.x=loud'"])
def test_a_level_of_the_file_that_is_none(load: Load, given: str) -> None:
    with pytest.raises(ConfigError, match=r"`proxy\.log_level` must "):
        load(f"proxy: {{log_level: {given}}}")


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ("debug", "debug"),
        ("Warn", "warn"),
        ("quickwit=debug,tantivy=WARN", "proxy=debug"),
        ("info,quickwit_indexing=debug", "info"),
        (
            "info,quickwit_metastore=debug,proxy::client=trace",
            "info,proxy=debug,proxy.client=trace",
        ),
        # Nothing of these is for this program: the file's level stays.
        ("tantivy=WARN", "error"),
        ("nonsense", "error"),
        ("quickwit[span{field=1}]=info", "error"),
        ("", "error"),
    ],
)
def test_rust_log_beats_the_file_as_far_as_it_is_for_us(load: Load, given: str, level: str) -> None:
    config = load("proxy: {log_level: error}", environ={"RUST_LOG": given})
    assert config.proxy.log_level == level
    assert "RUST_LOG" not in str(config.warnings)


@pytest.mark.parametrize(
    ("given", "log_format"),
    [("json", "json"), ("JSON", "json"), ("ddg", "json"), ("full", "console"), (None, "json")],
)
def test_the_format_of_the_environment_beats_the_file(
    load: Load, given: str | None, log_format: str
) -> None:
    environ = {} if given is None else {"QW_LOG_FORMAT": given}
    assert load("proxy: {log_format: json}", environ=environ).proxy.log_format == log_format


@pytest.mark.parametrize(("given", "seconds"), [("250ms", 0.25), ("'0'", None), ("0s", None)])
def test_the_threshold_of_slow_calls(load: Load, given: str, seconds: float | None) -> None:
    assert load().proxy.slow_query_threshold == 1.0
    config = load(f"proxy: {{slow_query_threshold: {given}}}")
    assert config.proxy.slow_query_threshold == seconds


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, TracingSettings()),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, TracingSettings()),
        ({EXPORTER: "true"}, TracingSettings(enabled=True)),
        (
            {EXPORTER: "1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/proto"},
            TracingSettings(enabled=True, protocol="http/protobuf"),
        ),
        (
            {
                EXPORTER: "yes",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "nonsense",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            },
            TracingSettings(enabled=True, queue=100),
        ),
    ],
)
def test_spans_are_exported_as_quickwit_does(
    load: Load, environ: dict[str, str], settings: TracingSettings
) -> None:
    config = load(environ=environ)
    assert config.tracing == settings
    assert describe(config)["environment"][EXPORTER] is settings.enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
    ],
)
def test_an_export_that_cannot_be_is_refused(load: Load, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"environment variable `{name}` must be"):
        load(environ={EXPORTER: "true", name: value})


def test_tokens_of_the_exporter_are_secrets(load: Load) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20top-secret-token,tenant=a",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=another/secret",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:pass%40word@collector:4317",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[broken",
    }
    secrets = load(environ=environ).secrets
    for secret in (
        "Bearer top-secret-token",
        "Bearer%20top-secret-token",
        "top-secret-token",
        "another/secret",
        "pass@word",
        "pass%40word",
    ):
        assert secret in secrets
    # What is that short is no token, and would black out whole lines.
    assert "a" not in secrets


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (
            "environment=production, region=us-east-1 ",
            ("environment=production", "region=us-east-1"),
        ),
        ("  ", ()),
        # Quickwit's exporter writes this as `team_name`; a value may hold anything but a comma.
        ("team-name=a=b", ("team_name=a=b",)),
    ],
)
def test_labels_for_every_series(load: Load, given: str, labels: tuple[str, ...]) -> None:
    config = load(environ={"QW_METRICS_LABELS": given})
    assert tuple(f"{name}={value}" for name, value in config.metrics_labels) == labels
    assert describe(config)["environment"]["QW_METRICS_LABELS"] == ",".join(labels)


@pytest.mark.parametrize(
    "given",
    [
        "environment=production,region",
        " =production",
        "environment= ",
        "a=1,",
        "a=1,a=2",
        "1a=1",
        "__a=1",
    ],
)
def test_labels_that_are_none(load: Load, given: str) -> None:
    with pytest.raises(ConfigError, match="environment variable `QW_METRICS_LABELS` must "):
        load(environ={"QW_METRICS_LABELS": given})
