-- Read the metadata of all indexes that match some wanted pattern and no unwanted one.
SELECT
    index_metadata_json,
    floor(extract(EPOCH FROM create_timestamp))::bigint AS create_timestamp
FROM indexes
WHERE :wanted
