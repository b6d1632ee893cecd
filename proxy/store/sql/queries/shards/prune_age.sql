-- Delete a source's shards that were last updated before a moment.
DELETE FROM shards
WHERE index_uid = $1 AND source_id = $2 AND update_timestamp < $3
