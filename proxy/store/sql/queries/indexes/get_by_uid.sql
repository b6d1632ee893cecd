-- Read the metadata of one incarnation of an index.
SELECT
    index_metadata_json,
    floor(extract(EPOCH FROM create_timestamp))::bigint AS create_timestamp
FROM indexes
WHERE index_uid = $1
