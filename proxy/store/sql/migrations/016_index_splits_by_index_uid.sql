-- Find the splits of an index without reading the whole table.

CREATE INDEX IF NOT EXISTS splits_index_uid_idx ON splits USING hash (index_uid);
