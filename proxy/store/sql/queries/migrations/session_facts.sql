-- Tell which database this is, and whether and why it cannot be written to.
SELECT
    current_database()::text AS database,
    current_setting('transaction_read_only') = 'on' AS is_read_only,
    pg_is_in_recovery() AS is_standby
