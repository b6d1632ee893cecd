-- Read the metadata of all indexes named by ID or by UID.
SELECT
    index_uid,
    index_id,
    index_metadata_json,
    floor(extract(EPOCH FROM create_timestamp))::bigint AS create_timestamp
FROM indexes
WHERE
    index_id = ANY($1::text[])
    OR index_uid = ANY($2::text[])
