-- Open a shard: open, at the beginning. No row comes back when the shard is already there.
INSERT INTO shards (
    index_uid, source_id, shard_id, leader_id, follower_id, doc_mapping_uid, publish_token,
    update_timestamp
)
VALUES ($1, $2, $3, $4, NULL, $5, $6, $7)
ON CONFLICT (index_uid, source_id, shard_id) DO NOTHING
RETURNING
    index_uid, source_id, shard_id, leader_id, shard_state::text, publish_position_inclusive,
    publish_token, doc_mapping_uid,
    floor(extract(epoch FROM update_timestamp))::bigint AS update_timestamp
