-- Read the metadata of the index that has an ID now.
SELECT
    index_metadata_json,
    floor(extract(EPOCH FROM create_timestamp))::bigint AS create_timestamp
FROM indexes
WHERE index_id = $1
