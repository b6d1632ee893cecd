"""The program `metastore-proxy`: one command, its errors in words, its exit status."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from proxy import errors, logs
from proxy.commands.parsing import parser
from proxy.commands.refusal import UsageError
from proxy.commands.usage import told
from proxy.config import ConfigError
from proxy.tls import TlsError
from proxy.unanswered import NoAnswerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit status.

    Errors are one line on standard error: what is wrong, and what to do next.
    """
    logs.quiet_grpc_core(os.environ)
    options = parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = int(asyncio.run(options.command(options)))
        sys.stdout.flush()
    except (ConfigError, UsageError, TlsError) as error:
        print(f"metastore-proxy: {told(error)}", file=sys.stderr)  # noqa: T201 - its output
        return 2
    except (errors.MetastoreError, NoAnswerError) as error:
        print(f"metastore-proxy: {told(error)}", file=sys.stderr)  # noqa: T201 - its output
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough, as with `| head`; what is still buffered must
        # not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
