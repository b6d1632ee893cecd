-- One shard as it is.
SELECT
    index_uid, source_id, shard_id, leader_id, shard_state::text, publish_position_inclusive,
    publish_token, doc_mapping_uid,
    floor(extract(epoch FROM update_timestamp))::bigint AS update_timestamp
FROM shards
WHERE index_uid = $1 AND source_id = $2 AND shard_id = $3
