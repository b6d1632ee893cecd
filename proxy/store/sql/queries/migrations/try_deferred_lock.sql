-- Take the lock of the one node that applies deferred migrations, if it is free.
SELECT pg_try_advisory_lock($1, $2)
