-- The state of this server: recovery, WAL position, clock and the newest heartbeat it can see.
SELECT
    pg_is_in_recovery() AS in_recovery,
    CASE
        WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_lsn()
    END::text AS lsn,
    extract(EPOCH FROM clock_timestamp())::float8 AS clock,
    (SELECT value FROM kv WHERE key = $1) AS heartbeat
