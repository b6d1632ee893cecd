-- Read the metadata of all indexes that match some wanted pattern and no unwanted one.
SELECT
    index_metadata_json,
    floor(extract(EPOCH FROM create_timestamp))::bigint AS create_timestamp
FROM indexes
WHERE
    (index_id = ANY($1::text[]) OR index_id LIKE ANY($2::text[]))
    AND NOT (index_id = ANY($3::text[]) OR index_id LIKE ANY($4::text[]))
