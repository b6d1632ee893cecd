-- Delete the named splits unless one is staged or published; answer those and how many exist.
-- The UID to change by is that of the rows: of a constant that is new to its statistics, PostgreSQL
-- expects one row at most, and reads all splits of the index again for each that is named.
WITH named AS MATERIALIZED (
    SELECT index_uid, split_id, split_state
    FROM splits
    WHERE index_uid = $1 AND split_id = ANY($2::text[])
    ORDER BY split_id
    FOR UPDATE
),
deleted AS (
    DELETE FROM splits
    USING named
    WHERE
        splits.index_uid = named.index_uid
        AND splits.split_id = named.split_id
        AND NOT EXISTS (SELECT 1 FROM named WHERE split_state IN ('Staged', 'Published'))
)
SELECT
    count(*) AS found,
    array_agg(split_id ORDER BY split_id) FILTER (
        WHERE split_state IN ('Staged', 'Published')
    ) AS not_deletable
FROM named
