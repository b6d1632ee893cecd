-- Give shards to a publish token: a token with `/` always wins and never holds against a newer
-- plan; between two plan tokens the later string wins. Refused and unknown shards do not come back.
-- Rows are locked in one order, so that two overlapping acquisitions cannot deadlock.
WITH locked AS (
    SELECT index_uid, source_id, shard_id
    FROM shards
    WHERE index_uid = $1 AND source_id = $2 AND shard_id = ANY ($3)
    ORDER BY shard_id
    FOR UPDATE
),
acquired AS (
    UPDATE shards
    SET publish_token = $4
    FROM locked
    WHERE
        shards.index_uid = locked.index_uid
        AND shards.source_id = locked.source_id
        AND shards.shard_id = locked.shard_id
        AND (
            position('/' IN $4::text) > 0
            OR coalesce(shards.publish_token, '') = ''
            OR position('/' IN shards.publish_token) > 0
            OR shards.publish_token <= $4
        )
    RETURNING shards.*
)
SELECT
    index_uid, source_id, shard_id, leader_id, shard_state::text, publish_position_inclusive,
    publish_token, doc_mapping_uid,
    floor(extract(epoch FROM update_timestamp))::bigint AS update_timestamp
FROM acquired
ORDER BY shard_id
