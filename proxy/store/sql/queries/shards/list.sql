-- The shards of several sources, each source with or without a filter on the state.
SELECT
    index_uid, source_id, shard_id, leader_id, shard_state::text, publish_position_inclusive,
    publish_token, doc_mapping_uid,
    floor(extract(epoch FROM update_timestamp))::bigint AS update_timestamp
FROM shards
WHERE EXISTS (
    SELECT 1
    FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (index_uid, source_id, shard_state)
    WHERE
        wanted.index_uid = shards.index_uid
        AND wanted.source_id = shards.source_id
        AND (wanted.shard_state IS NULL OR wanted.shard_state = shards.shard_state::text)
)
ORDER BY index_uid, source_id, shard_id
