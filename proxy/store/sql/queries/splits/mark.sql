-- Mark staged and published splits for deletion; answer how many of the named splits exist.
-- The UID to change by is that of the rows: of a constant that is new to its statistics, PostgreSQL
-- expects one row at most, and reads all splits of the index again for each that is named.
WITH named AS MATERIALIZED (
    SELECT index_uid, split_id, split_state
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
        splits.index_uid = named.index_uid
        AND splits.split_id = named.split_id
        AND named.split_state IN ('Staged', 'Published')
)
SELECT count(*) FROM named
