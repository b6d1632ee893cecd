-- Delete shards that are fully indexed (or all, when forced); return those that had to stay.
WITH locked AS (
    SELECT shard_id, ($4 OR starts_with(publish_position_inclusive, '~')) AS is_deletable
    FROM shards
    WHERE index_uid = $1 AND source_id = $2 AND shard_id = ANY ($3)
    ORDER BY shard_id
    FOR UPDATE
),
deleted AS (
    DELETE FROM shards
    USING locked
    WHERE
        shards.index_uid = $1
        AND shards.source_id = $2
        AND shards.shard_id = locked.shard_id
        AND locked.is_deletable
)
SELECT shard_id
FROM locked
WHERE NOT is_deletable
