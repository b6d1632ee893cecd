-- Record the doc mapping a shard was opened with; for the shards there are, the nil ULID.

ALTER TABLE shards ADD COLUMN IF NOT EXISTS doc_mapping_uid varchar(26);

UPDATE shards SET doc_mapping_uid = '00000000000000000000000000';

ALTER TABLE shards ALTER COLUMN doc_mapping_uid SET NOT NULL;
