-- Mark staged and published splits for deletion; anything else is left alone.
WITH locked AS (
    SELECT split_id
    FROM parquet_splits
    WHERE index_uid = $1 AND split_id = ANY ($2)
    ORDER BY split_id
    FOR UPDATE
)
UPDATE parquet_splits
SET split_state = 'MarkedForDeletion', update_timestamp = current_timestamp AT TIME ZONE 'UTC'
FROM locked
WHERE
    parquet_splits.split_id = locked.split_id
    AND parquet_splits.split_state IN ('Staged', 'Published')
