-- List the recorded migrations.
SELECT version, description, success, checksum
FROM _sqlx_migrations
ORDER BY version
