"""The tests. They start PostgreSQL from a process in which gRPC is at work."""

import os

# gRPC's handlers for fork break a child between fork and exec now and then, before it can say why.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
