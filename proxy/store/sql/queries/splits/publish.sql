-- Publish staged splits and mark the replaced ones, all or none; answer the IDs that prevent it.
-- The UID to change by is that of the rows: of a constant that is new to its statistics, PostgreSQL
-- expects one row at most, and reads all splits of the index again for each that is named. Without
-- statistics it expects far too many, unless they are joined with the names; the limit cuts nothing.
WITH named AS MATERIALIZED (
    -- Locked in one order, so that calls naming the same splits wait instead of deadlocking.
    SELECT splits.index_uid, splits.split_id, splits.split_state
    FROM (SELECT DISTINCT unnest($2::text[] || $3::text[]) AS split_id) AS wanted
    INNER JOIN splits ON splits.index_uid = $1 AND splits.split_id = wanted.split_id
    ORDER BY splits.split_id
    LIMIT cardinality($2::text[] || $3::text[])
    FOR UPDATE OF splits
),
expected AS (
    SELECT split_id, 'Staged' AS split_state FROM unnest($2::text[]) AS staged (split_id)
    UNION
    SELECT split_id, 'Published' FROM unnest($3::text[]) AS replaced (split_id)
),
compared AS MATERIALIZED (
    SELECT
        expected.split_id,
        expected.split_state AS expected_state,
        named.split_state AS actual_state
    FROM expected LEFT JOIN named USING (split_id)
),
changed AS (
    UPDATE splits SET
        split_state = CASE named.split_state
            WHEN 'Staged' THEN 'Published'
            ELSE 'MarkedForDeletion'
        END,
        update_timestamp = CURRENT_TIMESTAMP AT TIME ZONE 'UTC',
        publish_timestamp = CURRENT_TIMESTAMP AT TIME ZONE 'UTC'
    FROM named
    WHERE
        splits.index_uid = named.index_uid
        AND splits.split_id = named.split_id
        AND NOT EXISTS (
            SELECT 1 FROM compared WHERE actual_state IS DISTINCT FROM expected_state
        )
)
SELECT
    array_agg(split_id ORDER BY split_id) FILTER (WHERE actual_state IS NULL) AS missing,
    array_agg(split_id ORDER BY split_id) FILTER (
        WHERE expected_state = 'Staged' AND actual_state <> 'Staged'
    ) AS not_staged,
    array_agg(split_id ORDER BY split_id) FILTER (
        WHERE expected_state = 'Published' AND actual_state <> 'Published'
    ) AS not_published
FROM compared
