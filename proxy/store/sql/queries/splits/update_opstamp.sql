-- Set the delete opstamp of splits in any state; the update time moves only where it changes.
-- The UID to change by is that of the rows: of a constant that is new to its statistics, PostgreSQL
-- expects one row at most, and reads all splits of the index again for each that is named.
WITH named AS MATERIALIZED (
    SELECT index_uid, split_id
    FROM splits
    WHERE index_uid = $1 AND split_id = ANY($2::text[])
    ORDER BY split_id
    FOR UPDATE
),
updated AS (
    UPDATE splits SET
        delete_opstamp = $3::bigint,
        update_timestamp = CASE
            WHEN splits.delete_opstamp <> $3::bigint THEN CURRENT_TIMESTAMP AT TIME ZONE 'UTC'
            ELSE splits.update_timestamp
        END
    FROM named
    WHERE splits.index_uid = named.index_uid AND splits.split_id = named.split_id
)
SELECT count(*) FROM named
