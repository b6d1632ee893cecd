-- Delete one incarnation of an index; foreign keys cascade to most of what belongs to it.
DELETE FROM indexes
WHERE index_uid = $1
RETURNING 1 AS deleted
