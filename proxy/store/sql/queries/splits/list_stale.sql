-- Published, mature splits that deletes up to an opstamp have not been applied to, stalest first.
-- The columns are those of `splits/list`.
SELECT
    COALESCE(
        CASE split_state
            WHEN 'Published' THEN '{"split_state":"Published","update_timestamp":'
            WHEN 'Staged' THEN '{"split_state":"Staged","update_timestamp":'
            WHEN 'MarkedForDeletion' THEN '{"split_state":"MarkedForDeletion","update_timestamp":'
            -- Names of older versions.
            WHEN 'New' THEN '{"split_state":"Staged","update_timestamp":'
            WHEN 'ScheduledForDeletion'
                THEN '{"split_state":"MarkedForDeletion","update_timestamp":'
        END
        || floor(date_part('epoch', update_timestamp))::bigint
        || ',"publish_timestamp":'
        || COALESCE(floor(date_part('epoch', publish_timestamp))::bigint::text, 'null'),
        '?' || split_state
    ) AS head,
    floor(date_part('epoch', create_timestamp))::bigint::text AS create_timestamp,
    index_uid,
    COALESCE(delete_opstamp, 0)::text AS delete_opstamp,
    split_metadata_json
FROM splits
WHERE
    index_uid = $1
    AND split_state = 'Published'
    AND delete_opstamp < $2::bigint
    AND (
        maturity_timestamp = TIMESTAMP '1970-01-01'
        OR maturity_timestamp <= CURRENT_TIMESTAMP AT TIME ZONE 'UTC'
    )
ORDER BY splits.delete_opstamp, splits.publish_timestamp
LIMIT $3::bigint
