"""The subcommand `check-config`: what `run` would use, or why it would not."""

from __future__ import annotations

import sys
from argparse import Namespace

from proxy.commands.node_config import load
from proxy.config import render
from proxy.tls import load as load_tls_files


async def run(options: Namespace) -> int:
    """Print the resolved config."""
    config = load(options, options.service)
    for warning in config.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write(f"{render(config)}\n")
    for section, tls in (("grpc.tls", config.grpc.tls), ("rest.tls", config.rest_tls)):
        if tls is not None:
            load_tls_files(tls.files(section))
    return 0
