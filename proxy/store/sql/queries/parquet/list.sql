-- The splits of an index that satisfy the conditions of a query, by ID.
SELECT
    split_id,
    split_state,
    extract(epoch FROM update_timestamp)::bigint AS update_timestamp,
    split_metadata_json
FROM parquet_splits
WHERE :conditions
ORDER BY split_id
