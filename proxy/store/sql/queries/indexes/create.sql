-- Store a new index; its creation time is the column's default.
INSERT INTO indexes (index_uid, index_id, index_metadata_json)
VALUES ($1, $2, $3)
