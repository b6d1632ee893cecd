-- Replace the metadata of an index; no row comes back if the UID is unknown.
UPDATE indexes
SET index_metadata_json = $2
WHERE index_uid = $1
RETURNING 1 AS updated
