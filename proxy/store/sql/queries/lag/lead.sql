-- Take the lock of the node that stamps, for this transaction, and show the last stamp.
SELECT
    pg_try_advisory_xact_lock($1::bigint) AS locked,
    (SELECT value FROM kv WHERE key = $2) AS value,
    extract(EPOCH FROM clock_timestamp())::float8 AS clock
