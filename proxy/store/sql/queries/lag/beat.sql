-- Stamp the heartbeat row with this server's clock and WAL position, unless it is fresh already.
INSERT INTO kv AS stamp (key, value)
SELECT
    $1,
    json_build_object(
        'at', extract(EPOCH FROM clock_timestamp())::float8,
        'lsn', pg_current_wal_lsn()::text,
        'node', $2::text
    )::text
ON CONFLICT (key) DO UPDATE
SET value = excluded.value
WHERE (stamp.value::json ->> 'at')::float8
    NOT BETWEEN extract(EPOCH FROM clock_timestamp())::float8 - $3::float8
    AND extract(EPOCH FROM clock_timestamp())::float8
