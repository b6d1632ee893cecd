-- Turn shard IDs into text, give new shards a state and position, and delete them with their index.

ALTER TABLE shards DROP CONSTRAINT shards_index_uid_fkey;
ALTER TABLE shards
    ALTER COLUMN shard_id TYPE varchar(255),
    ALTER COLUMN shard_id SET NOT NULL,
    ALTER COLUMN shard_state SET DEFAULT 'open',
    ALTER COLUMN publish_position_inclusive SET DEFAULT '',
    ADD CONSTRAINT shards_index_uid_fkey
        FOREIGN KEY (index_uid) REFERENCES indexes (index_uid) ON DELETE CASCADE;
