-- Delete splits, or none when one of them is staged or published; return those, if any.
WITH locked AS (
    SELECT split_id, split_state IN ('Staged', 'Published') AS is_in_use
    FROM parquet_splits
    WHERE index_uid = $1 AND split_id = ANY ($2)
    ORDER BY split_id
    FOR UPDATE
),
deleted AS (
    DELETE FROM parquet_splits
    USING locked
    WHERE
        parquet_splits.split_id = locked.split_id
        AND NOT EXISTS (SELECT 1 FROM locked WHERE is_in_use)
)
SELECT split_id FROM locked WHERE is_in_use
