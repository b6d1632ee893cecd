-- Lock the row of an index ID until the end of the transaction and read its metadata.
SELECT
    index_metadata_json,
    floor(extract(EPOCH FROM create_timestamp))::bigint AS create_timestamp
FROM indexes
WHERE index_id = $1
FOR UPDATE
