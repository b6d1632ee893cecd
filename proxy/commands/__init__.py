"""What `metastore-proxy` does: a module for each subcommand, with a function `run`.

The command line (`parsing`) loads the module of the one that was given and no other: what the
others need, such as gRPC, a database driver or an HTTP server, takes longer to load than most
subcommands take to run.
"""
