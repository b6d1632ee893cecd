-- Whether this very incarnation of an index exists.
SELECT EXISTS (SELECT 1 FROM indexes WHERE index_uid = $1)
