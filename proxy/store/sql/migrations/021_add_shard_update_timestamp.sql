-- Record when a shard was last changed; a fixed date stands for the time before this was known.

ALTER TABLE shards
    ADD COLUMN IF NOT EXISTS update_timestamp timestamp NOT NULL
        DEFAULT timestamp '2024-01-01 00:00:00';
