-- Delete the named splits unless one is staged or published; answer those and how many exist.
WITH named AS MATERIALIZED (
    SELECT split_id, split_state
    FROM splits
    WHERE index_uid = $1 AND split_id = ANY($2::text[])
    ORDER BY split_id
    FOR UPDATE
),
deleted AS (
    DELETE FROM splits
    USING named
    WHERE
        splits.index_uid = $1
        AND splits.split_id = named.split_id
        AND NOT EXISTS (SELECT 1 FROM named WHERE split_state IN ('Staged', 'Published'))
)
SELECT
    count(*) AS found,
    array_agg(split_id ORDER BY split_id) FILTER (
        WHERE split_state IN ('Staged', 'Published')
    ) AS not_deletable
FROM named
