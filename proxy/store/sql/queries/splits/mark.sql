-- Mark staged and published splits for deletion; answer how many of the named splits exist.
WITH named AS MATERIALIZED (
    SELECT split_id, split_state
    FROM splits
    WHERE index_uid = $1 AND split_id = ANY($2::text[])
    ORDER BY split_id
    FOR UPDATE
),
marked AS (
    UPDATE splits SET
        split_state = 'MarkedForDeletion',
        update_timestamp = CURRENT_TIMESTAMP AT TIME ZONE 'UTC'
    FROM named
    WHERE
        splits.index_uid = $1
        AND splits.split_id = named.split_id
        AND named.split_state IN ('Staged', 'Published')
)
SELECT count(*) FROM named
