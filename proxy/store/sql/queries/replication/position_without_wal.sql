-- The state of a server that refuses to tell its position in the WAL.
SELECT
    pg_is_in_recovery() AS in_recovery,
    -- Tells one run of one server from every other.
    pg_postmaster_start_time()::text AS incarnation,
    NULL::text AS lsn,
    NULL::int AS segment_offset,
    NULL::int AS timeline,
    -- The same on a primary and its standbys.
    (SELECT system_identifier FROM pg_control_system())
    || '/'
    || (SELECT oid FROM pg_database WHERE datname = current_database()) AS identity,
    extract(EPOCH FROM clock_timestamp())::float8 AS clock,
    -- How far the sender's clock is ahead of this one, at least. Hidden from most users.
    (
        SELECT extract(EPOCH FROM last_msg_send_time - last_msg_receipt_time)::float8
        FROM pg_stat_wal_receiver
    ) AS sender_ahead
