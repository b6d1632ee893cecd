"""The texts of the command line's help: what a subcommand is for, and how it is used."""

from __future__ import annotations

from typing import Final

DESCRIPTION: Final = """\
A gRPC metastore for Quickwit in front of PostgreSQL: writes go to the primary, stale-tolerant
reads to streaming replicas.
"""
STATUS: Final = """\
Ask a node of any role what it knows of its cluster: the primary with all its addresses, and of
every other member its role, whether it is ready, its lag and its version. All nodes tell the
same, as soon as gossip has reached them. Above that, what its status page shows as well: where
calls go as this node sees it, what is wrong and what to do; below it lags, calls per second by
route, the cap in use and readiness.
"""
DRAIN: Final = """\
Take a node of this host out of service without losing a call. It turns not ready for everybody
who looks (health, readyz, gossip), goes on serving, and finishes the calls in flight; this command
shows how far it is and returns when no call is left. The node then waits for SIGTERM, and serves
until that comes. There is no way back but a restart.

The node is found by a socket in its `data_dir`, so run this where the node runs: on its host, in
its container, as its user or root. Nothing of this can be reached from the network.
"""

# Of the whole, and of each subcommand.
ALL_EXAMPLES: Final = """\
examples:
  metastore-proxy demo                                   a guided tour (brings its own PostgreSQL)
  metastore-proxy run --config node.yaml                 the role is `enabled_services` of the file
  metastore-proxy run --config node.yaml --service metastore_read_replica
  QW_METASTORE_URI=postgresql://user:password@host/db metastore-proxy run --service metastore
  metastore-proxy check-config --config node.yaml        the resolved config, secrets redacted
  metastore-proxy migrate --check --config node.yaml     which migrations the database lacks
  metastore-proxy call ListIndexesMetadata '{"index_id_patterns": ["*"]}' \\
      --primary 127.0.0.1:7281 --replica 127.0.0.1:7381
  metastore-proxy explain ListSplits --max-lag 1s --router 127.0.0.1:7281
  metastore-proxy status --node 127.0.0.1:7281           who the primary is, and who else is there
  metastore-proxy drain --config node.yaml               before the node is stopped

exit status: 0 done, 1 failed, 2 wrong usage or configuration
"""
EXAMPLES: Final = {
    "run": """\
examples:
  metastore-proxy run --config node.yaml
  metastore-proxy run --config node.yaml --service metastore_read_replica
  metastore-proxy run --config node.yaml --log-format json
  QW_METASTORE_URI=postgresql://user:password@primary/quickwit metastore-proxy run
  RUST_LOG=info,proxy.client=debug metastore-proxy run --config node.yaml

  curl http://127.0.0.1:7280/health/readyz?verbose     what the node waits for

exit status: 0 after a signal, 1 failed, 2 wrong usage or configuration
""",
    "migrate": """\
examples:
  metastore-proxy migrate --config node.yaml --check     what is missing; changes nothing
  metastore-proxy migrate --config node.yaml
  QW_METASTORE_URI=postgresql://owner:password@primary/quickwit metastore-proxy migrate

exit status: 0 the schema is complete, 1 it is not or failed, 2 wrong usage or configuration
""",
    "check-config": """\
examples:
  metastore-proxy check-config --config node.yaml
  metastore-proxy check-config --config node.yaml --service metastore_router
  QW_CONFIG=node.yaml metastore-proxy check-config > /dev/null && echo fine

exit status: 0 `run` would take it, 2 it would be refused
""",
    "call": """\
examples:
  metastore-proxy call ListIndexesMetadata '{"index_id_patterns": ["*"]}' --primary 127.0.0.1:7281
  metastore-proxy call IndexMetadata '{"index_id": "hdfs-logs"}' \\
      --primary metastore:7281 --replica replica-1:7281 --replica replica-2:7281
  metastore-proxy call GetClusterIdentity --config node.yaml --allow-writes
  metastore-proxy call DeleteIndex '{"index_uid": {"index_id": "hdfs-logs", "incarnation_id":
      "01K33Z58DJRFAEBXG71GMKMJTW"}}' --primary metastore:7281 --allow-writes

exit status: 0 answered, 1 failed, 2 wrong usage
""",
    "explain": """\
examples:
  metastore-proxy explain ListSplits --router 127.0.0.1:7281
  metastore-proxy explain ListSplits --router 127.0.0.1:7281 --max-lag 500ms
  metastore-proxy explain IndexMetadata --min-lsn 16/B374D848 --config node.yaml
  metastore-proxy explain ListShards --allow-replica --primary metastore:7281 --replica replica:7281

exit status: 0 a node would take the call, 1 none would or none answers, 2 wrong usage
""",
    "status": """\
examples:
  metastore-proxy status                                 the node of QW_CONFIG and the other QW_
                                                         variables; without any 127.0.0.1:7281
  metastore-proxy status --node metastore-0.internal:7281
  metastore-proxy status --config node.yaml              the node of this file, then those it names
  metastore-proxy status --watch                         again every 2 s, until Ctrl-C
  metastore-proxy status --json | jq -r '.primaries[0].grpc_address'
  metastore-proxy status --json | jq -r '.status.findings[].text'
  metastore-proxy status > /dev/null || echo "no primary"

exit status: 0 there is a primary, 1 there is none or no node answers, 2 wrong usage
""",
    "drain": """\
examples:
  metastore-proxy drain                                  the node of QW_CONFIG, QW_DATA_DIR
  metastore-proxy drain --config node.yaml && systemctl stop metastore-proxy
  metastore-proxy drain --data-dir /var/lib/metastore    also while the config file is broken
  metastore-proxy drain --timeout 10 || echo "callers are still there"
  kubectl exec metastore-0 -- metastore-proxy drain

  # Kubernetes; terminationGracePeriodSeconds is at least `proxy.drain_timeout` and 5 s more
  lifecycle: {preStop: {exec: {command: [metastore-proxy, drain]}}}

A drain takes `proxy.drain_timeout` at most. It can be asked for again, and SIGTERM goes on where it
is; a second SIGTERM ends it.

exit status: 0 drained, 1 not drained in time or no node there, 2 wrong usage
""",
    "demo": """\
examples:
  metastore-proxy demo            the tour; then commands to try, until Ctrl-C
  metastore-proxy demo --exit     the tour alone
""",
}
