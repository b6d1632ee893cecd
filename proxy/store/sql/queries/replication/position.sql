-- The state of this server: role, position, timeline, cluster, clock. Needs no table.
WITH server AS MATERIALIZED (
    SELECT pg_is_in_recovery() AS in_recovery
),

-- One look: a position that is read twice may be two positions.
reached AS MATERIALIZED (
    SELECT
        in_recovery,
        CASE
            WHEN in_recovery THEN pg_last_wal_replay_lsn()
            ELSE pg_current_wal_insert_lsn()
        END AS lsn
    FROM server
)

SELECT
    in_recovery,
    -- Tells one run of one server from every other.
    pg_postmaster_start_time()::text AS incarnation,
    lsn::text AS lsn,
    CASE WHEN NOT in_recovery THEN (pg_walfile_name_offset(lsn)).file_offset END AS segment_offset,
    -- A standby's history holds every one of these timelines; the highest is the one it follows.
    CASE
        WHEN in_recovery
            THEN greatest(
                (SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT timeline_id FROM pg_control_checkpoint())
            )
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    END AS timeline,
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
FROM reached
