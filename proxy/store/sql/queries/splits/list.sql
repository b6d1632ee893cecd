-- The columns that a Split is rendered from, times in floored Unix seconds; filters are appended.
SELECT
    split_state,
    floor(date_part('epoch', update_timestamp))::bigint AS update_timestamp,
    floor(date_part('epoch', publish_timestamp))::bigint AS publish_timestamp,
    floor(date_part('epoch', create_timestamp))::bigint AS create_timestamp,
    index_uid,
    COALESCE(delete_opstamp, 0) AS delete_opstamp,
    split_metadata_json
FROM splits
