"""The settings of logs, traces and metrics that come from the environment.

Facts: the variables are Quickwit's: `RUST_LOG` is a level, or a comma list of `module=level`;
`QW_LOG_FORMAT` is `json`, `ddg` (JSON as well) or anything else for plain text;
`QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER` exports, by the protocol of
`OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, else `OTEL_EXPORTER_OTLP_PROTOCOL`, else `grpc`; the queue
holds 32,768 spans; `QW_METRICS_LABELS` is a comma list of `name=value`, for every series. What else
there is of `OTEL_*` is read by OpenTelemetry's SDK.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from proxy.config.model import TracingSettings
from proxy.config.problems import Findings, nearest, quoted, shape
from proxy.config.redact import secret_forms
from proxy.config.values import Kind, Values

METRICS_LABELS: Final = "QW_METRICS_LABELS"
EXPORTER: Final = "QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER"
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_QUEUE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

LEVELS: Final = ("trace", "debug", "info", "warn", "error", "off")
_SYNONYMS: Final = {"warning": "warn"}
_FORMATS: Final = ("console", "json")
# Quickwit's names for what this program is in its place.
_OURS: Final = {"quickwit": "proxy", "quickwit_metastore": "proxy"}
# Quickwit's exporter writes what no label's name may have as `_`.
_NO_LABEL: Final = re.compile(r"[^A-Za-z0-9_]", re.ASCII)
_MODULE: Final = re.compile(r"proxy(\.[a-z_]+)*")
# Shorter values of headers are names of tenants and the like, and would black out whole lines.
_SHORTEST_SECRET: Final = 8


def _level(text: str) -> str | None:
    level = text.strip().lower()
    level = _SYNONYMS.get(level, level)
    return level if level in LEVELS else None


def _module(text: str) -> str | None:
    name = text.strip().replace("::", ".").lower()
    name = _OURS.get(name, name)
    return name if _MODULE.fullmatch(name) else None


def _levels(value: object) -> str:
    """Check the levels of a file: `info`, or `info,proxy.client=debug`."""
    if not isinstance(value, str):
        words = ", ".join(f"`{level}`" for level in LEVELS)
        raise ValueError(f"must be one of {words}, it is {shape(value)}")
    kept: list[str] = []
    for item in value.split(","):
        name, equals, level = item.rpartition("=")
        if _level(level) is None:
            words = ", ".join(f"`{level}`" for level in LEVELS)
            raise ValueError(f"must be one of {words}, {nearest(level.strip().lower(), LEVELS)}")
        if equals and _module(name) is None:
            raise ValueError("must name modules of this program, such as `info,proxy.client=debug`")
        kept.append(f"{_module(name)}={_level(level)}" if equals else str(_level(level)))
    return ",".join(kept)


def _rust_log(text: str) -> str:
    """Return what of `RUST_LOG` concerns this program; it is shared with Quickwit's nodes."""
    kept: list[str] = []
    for item in text.split(","):
        name, equals, level = item.rpartition("=")
        found, module = _level(level), _module(name)
        if found is not None and not equals:
            kept.append(found)
        elif found is not None and module is not None:
            kept.append(f"{module}={found}")
    return ",".join(kept)


_LEVELS: Final = Kind(_levels, _rust_log)


def load_log_level(values: Values, default: str) -> str:
    """Return `proxy.log_level`, or what `RUST_LOG` says if any of it concerns this program."""
    concerns_us = bool(_rust_log(values.variable("RUST_LOG")))
    return values.get("proxy.log_level", _LEVELS, default, env="RUST_LOG" if concerns_us else "")


def _format(value: object) -> str:
    if value in _FORMATS:
        return str(value)
    hint = f", {nearest(value, _FORMATS)}" if isinstance(value, str) else ""
    raise ValueError(f"must be one of `console`, `json`{hint}")


_FORMAT: Final = Kind(
    _format, lambda text: "json" if text.strip().lower() in ("json", "ddg") else "console"
)


def load_log_format(values: Values, default: str) -> str:
    """Return `proxy.log_format`, or what `QW_LOG_FORMAT` stands for."""
    return values.get("proxy.log_format", _FORMAT, default, env="QW_LOG_FORMAT")


def load_tracing(values: Values, findings: Findings) -> TracingSettings:
    """Return whether and how spans are exported."""
    defaults = TracingSettings()
    if not values.flag(EXPORTER):
        return defaults
    return TracingSettings(
        enabled=True,
        protocol=_protocol(values, findings) or defaults.protocol,
        queue=_queue(values, findings) or defaults.queue,
    )


def _protocol(values: Values, findings: Findings) -> str:
    for name in PROTOCOLS:
        given = values.variable(name).strip().lower()
        if not given:
            continue
        if given in ("grpc", "http/protobuf"):
            return given
        if given == "http/proto":
            return "http/protobuf"
        findings.error(
            f"environment variable `{name}` must be `grpc` or `http/protobuf`: other protocols "
            "are not supported here"
        )
        return ""
    return ""


def _queue(values: Values, findings: Findings) -> int:
    given = values.variable(_QUEUE).strip()
    if not given:
        return 0
    if re.fullmatch(r"[1-9][0-9]{0,8}", given):
        return int(given)
    findings.error(f"environment variable `{_QUEUE}` must be a whole number of spans, 1 or more")
    return 0


def load_metrics_labels(values: Values, findings: Findings) -> tuple[tuple[str, str], ...]:
    """Return the labels that every sample gets."""
    given = values.variable(METRICS_LABELS)
    values.origins[METRICS_LABELS] = f"env {METRICS_LABELS}" if given.strip() else "default"
    if not given.strip():
        return ()
    found: dict[str, str] = {}
    for item in given.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        name = _NO_LABEL.sub("_", name)
        if not name or not value:
            findings.error(
                f"environment variable `{METRICS_LABELS}` must be a comma-separated list of "
                "`name=value`, neither of them empty"
            )
            return ()
        if name in found or name[0].isdigit() or name.startswith("__"):
            findings.error(
                f"environment variable `{METRICS_LABELS}` must name each label once; names begin "
                f"with a letter or one `_`: rename {quoted(name)}"
            )
            return ()
        found[name] = value
    return tuple(found.items())


def secrets_of(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the spellings of what the exporter's headers and endpoints keep secret."""
    for name in _HEADERS:
        for item in environ.get(name, "").split(","):
            written = item.partition("=")[2].strip()
            value = unquote(written)
            # `Bearer <token>`: the token shows up alone as well.
            for secret in {value, value.rpartition(" ")[2]}:
                if len(secret) >= _SHORTEST_SECRET:
                    yield from secret_forms(secret, written if secret == value else secret)
    for name in _ENDPOINTS:
        try:
            password = urlsplit(environ.get(name, "")).password
        except ValueError:
            continue
        if password:
            yield from secret_forms(unquote(password), password)
