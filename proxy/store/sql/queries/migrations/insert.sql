-- Record a migration as applied, in its own transaction; how long it took is not known yet.
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
VALUES ($1, $2, true, $3, -1)
