"""The subcommand `demo`: a guided tour on an embedded PostgreSQL pair."""

from __future__ import annotations

from argparse import Namespace

from proxy.demo.tour import run_tour


async def run(options: Namespace) -> int:
    """Run the guided tour."""
    return await run_tour(leave_running=not options.exit)
