-- Publish staged splits and mark the published ones they replace; return how many of each.
-- A trigger stamps the publish time of those that become published. Rows are locked in one order,
-- so that no deadlock with a concurrent marking or deletion is possible.
WITH locked AS (
    SELECT split_id
    FROM parquet_splits
    WHERE index_uid = $1 AND (split_id = ANY ($2) OR split_id = ANY ($3))
    ORDER BY split_id
    FOR UPDATE
),
published AS (
    UPDATE parquet_splits
    SET split_state = 'Published', update_timestamp = current_timestamp AT TIME ZONE 'UTC'
    FROM locked
    WHERE
        parquet_splits.split_id = locked.split_id
        AND parquet_splits.split_id = ANY ($2)
        AND parquet_splits.split_state = 'Staged'
    RETURNING parquet_splits.split_id
),
marked AS (
    UPDATE parquet_splits
    SET split_state = 'MarkedForDeletion', update_timestamp = current_timestamp AT TIME ZONE 'UTC'
    FROM locked
    WHERE
        parquet_splits.split_id = locked.split_id
        AND parquet_splits.split_id = ANY ($3)
        AND parquet_splits.split_state = 'Published'
    RETURNING parquet_splits.split_id
)
SELECT
    (SELECT count(*) FROM published) AS published,
    (SELECT count(*) FROM marked) AS marked
