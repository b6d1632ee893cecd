-- Stamp the heartbeat row on a server that refuses to tell its position in the WAL.
INSERT INTO kv (key, value)
SELECT
    $1,
    json_build_object(
        'at', extract(EPOCH FROM clock_timestamp())::float8,
        'node', $2::text,
        'cluster', $3::text,
        'generation', $4::int8,
        'gossip', $5::text
    )::text
ON CONFLICT (key) DO UPDATE
SET value = excluded.value
