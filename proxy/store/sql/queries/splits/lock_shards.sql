-- Lock the shards that a publish advances, in one order, and read their position and owner.
SELECT shard_id, publish_position_inclusive, publish_token
FROM shards
WHERE index_uid = $1 AND source_id = $2 AND shard_id = ANY($3::text[])
ORDER BY shard_id
FOR UPDATE
