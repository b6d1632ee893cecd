-- Record how many nanoseconds a migration took.
UPDATE _sqlx_migrations SET execution_time = $2 WHERE version = $1
