-- Published, mature splits that deletes up to an opstamp have not been applied to, stalest first.
-- Comes after `splits/list`.
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
