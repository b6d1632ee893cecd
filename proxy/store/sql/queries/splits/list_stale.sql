-- Published, mature splits that deletes up to an opstamp have not been applied to, stalest first.
SELECT
    split_state,
    floor(date_part('epoch', update_timestamp))::bigint AS update_timestamp,
    floor(date_part('epoch', publish_timestamp))::bigint AS publish_timestamp,
    floor(date_part('epoch', create_timestamp))::bigint AS create_timestamp,
    index_uid,
    COALESCE(delete_opstamp, 0) AS delete_opstamp,
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
