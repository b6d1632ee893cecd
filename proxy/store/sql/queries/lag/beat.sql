-- Stamp the heartbeat row with this server's clock, its WAL position, its timeline, and the node.
INSERT INTO kv (key, value)
SELECT
    $1,
    json_build_object(
        'at', extract(EPOCH FROM clock_timestamp())::float8,
        'lsn', pg_current_wal_insert_lsn()::text,
        'timeline', ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int,
        'node', $2::text,
        'cluster', $3::text,
        'generation', $4::int8,
        'gossip', $5::text
    )::text
ON CONFLICT (key) DO UPDATE
SET value = excluded.value
