-- Delete all shards of a source.
DELETE FROM shards
WHERE index_uid = $1 AND source_id = $2
