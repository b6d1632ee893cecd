-- Drop an index on shards that their primary key makes superfluous.

DROP INDEX IF EXISTS shards_index_uid_idx;
