-- The shards of several sources, each source with or without a filter on the state.
-- OFFSET keeps the inner query apart, so that each source is looked up by its key: PostgreSQL does
-- not know how many are asked for, and would rather read all shards.
SELECT
    found.index_uid, found.source_id, found.shard_id, found.leader_id, found.shard_state,
    found.publish_position_inclusive, found.publish_token, found.doc_mapping_uid,
    found.update_timestamp
FROM (
    SELECT index_uid, source_id, array_agg(shard_state) AS states
    FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (index_uid, source_id, shard_state)
    GROUP BY index_uid, source_id
) AS wanted
CROSS JOIN LATERAL (
    SELECT
        index_uid, source_id, shard_id, leader_id, shard_state::text AS shard_state,
        publish_position_inclusive, publish_token, doc_mapping_uid,
        floor(extract(epoch FROM update_timestamp))::bigint AS update_timestamp
    FROM shards
    WHERE
        shards.index_uid = wanted.index_uid
        AND shards.source_id = wanted.source_id
        AND (
            array_position(wanted.states, NULL) IS NOT NULL
            OR shards.shard_state::text = ANY(wanted.states)
        )
    OFFSET 0
) AS found
ORDER BY index_uid, source_id, shard_id
