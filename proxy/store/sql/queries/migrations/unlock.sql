-- Give back the lock of those who migrate this database.
SELECT pg_advisory_unlock($1)
