-- Insert new splits as Staged and overwrite those that are Staged; answer the IDs written.
-- The row of the index is locked before the first split, in the order in which a publish locks.
-- Splits come in the database's own order, like everywhere: calls wait instead of deadlocking.
WITH locked AS MATERIALIZED (
    SELECT index_uid FROM indexes WHERE index_uid = $1 FOR KEY SHARE
)
INSERT INTO splits AS stored (
    index_uid, split_id, split_state, time_range_start, time_range_end, tags,
    split_metadata_json, delete_opstamp, maturity_timestamp, node_id
)
SELECT
    COALESCE((SELECT index_uid FROM locked), $1),
    staged.split_id,
    'Staged',
    staged.time_range_start,
    staged.time_range_end,
    ARRAY(SELECT json_array_elements_text(staged.tags_json::json)),
    staged.split_metadata_json,
    staged.delete_opstamp,
    to_timestamp(staged.maturity_timestamp) AT TIME ZONE 'UTC',
    staged.node_id
FROM unnest(
    $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::text[]
) AS staged (
    split_id, time_range_start, time_range_end, tags_json, split_metadata_json, delete_opstamp,
    maturity_timestamp, node_id
)
ORDER BY staged.split_id
ON CONFLICT (index_uid, split_id) DO UPDATE SET
    time_range_start = excluded.time_range_start,
    time_range_end = excluded.time_range_end,
    tags = excluded.tags,
    split_metadata_json = excluded.split_metadata_json,
    delete_opstamp = excluded.delete_opstamp,
    maturity_timestamp = excluded.maturity_timestamp,
    node_id = excluded.node_id,
    create_timestamp = CURRENT_TIMESTAMP AT TIME ZONE 'UTC',
    update_timestamp = CURRENT_TIMESTAMP AT TIME ZONE 'UTC'
WHERE stored.split_state = 'Staged'
RETURNING split_id
