-- Take the lock of those who migrate this database, if it is free.
SELECT pg_try_advisory_lock($1)
