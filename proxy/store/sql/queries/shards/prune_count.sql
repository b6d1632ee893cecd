-- Keep a source's most recently updated shards, delete the others.
DELETE FROM shards
WHERE
    index_uid = $1
    AND source_id = $2
    AND shard_id NOT IN (
        SELECT shard_id
        FROM shards
        WHERE index_uid = $1 AND source_id = $2
        ORDER BY update_timestamp DESC, shard_id DESC
        LIMIT $3
    )
