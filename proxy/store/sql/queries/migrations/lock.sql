-- Wait for the lock of those who migrate this database.
SELECT pg_advisory_lock($1)
