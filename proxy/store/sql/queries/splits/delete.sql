-- Delete the named splits unless one is staged or published; answer those and how many exist.
-- The UID to change by is that of the rows: of a constant that is new to its statistics, PostgreSQL
-- expects one row at most, and reads all splits of the index again for each that is named. Without
-- statistics it expects far too many, unless they are joined with the names; the limit cuts nothing.
WITH named AS MATERIALIZED (
    SELECT splits.index_uid, splits.split_id, splits.split_state
    FROM (SELECT DISTINCT unnest($2::text[]) AS split_id) AS wanted
    INNER JOIN splits ON splits.index_uid = $1 AND splits.split_id = wanted.split_id
    ORDER BY splits.split_id
    LIMIT cardinality($2::text[])
    FOR UPDATE OF splits
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
