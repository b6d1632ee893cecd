-- Find an index that a broken concurrent build has left unusable, and the statement to drop it.
SELECT
    format('DROP INDEX CONCURRENTLY IF EXISTS %s', i.indexrelid::regclass) AS drop_statement,
    EXISTS (
        SELECT 1
        FROM pg_stat_progress_create_index AS p
        WHERE p.index_relid = i.indexrelid
    ) AS is_being_built
FROM pg_index AS i
WHERE i.indexrelid = to_regclass($1) AND NOT i.indisvalid
