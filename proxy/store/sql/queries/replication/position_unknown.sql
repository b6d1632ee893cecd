-- What every server tells: whether it is a standby, since when it runs, and its clock.
SELECT
    pg_is_in_recovery() AS in_recovery,
    pg_postmaster_start_time()::text AS incarnation,
    NULL::text AS lsn,
    NULL::int AS segment_offset,
    NULL::int AS timeline,
    NULL::text AS identity,
    extract(EPOCH FROM clock_timestamp())::float8 AS clock,
    NULL::float8 AS sender_ahead
