-- Whether any incarnation of an index ID exists.
SELECT EXISTS (SELECT 1 FROM indexes WHERE index_id = $1)
