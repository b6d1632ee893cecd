-- Copy the node that made a split from its metadata into a column, and find splits by it.

ALTER TABLE splits ADD COLUMN node_id varchar(253);

UPDATE splits SET node_id = split_metadata_json::json ->> 'node_id';

ALTER TABLE splits ALTER COLUMN node_id SET NOT NULL;

CREATE INDEX IF NOT EXISTS splits_node_id_idx ON splits USING hash (node_id);
