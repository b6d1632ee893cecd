"""A node as several processes on one gRPC port (`run --workers N`).

A parent starts the workers, forwards signals, starts one again that ended, and passes on what they
have to tell each other. It loads neither gRPC nor a database driver (`parent`, `slot`, `link`,
`merging`, `ports` and `__main__` are all it needs), so that what it keeps in memory outlives any
fault in them. A worker is `metastore-proxy run` with the descriptor of a socket to the parent.
"""
