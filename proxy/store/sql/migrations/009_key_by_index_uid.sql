-- Key indexes and what belongs to them by index UID; an index keeps its ID as its first UID.

ALTER TABLE indexes RENAME COLUMN index_id TO index_uid;
ALTER TABLE indexes ADD COLUMN index_id varchar(50) NOT NULL DEFAULT '';

UPDATE indexes SET index_id = index_uid;

ALTER TABLE indexes
    ALTER COLUMN index_uid TYPE varchar(64),
    ADD CONSTRAINT indexes_index_id_unique UNIQUE (index_id);

ALTER TABLE splits DROP CONSTRAINT IF EXISTS splits_index_id_fkey;
ALTER TABLE splits RENAME COLUMN index_id TO index_uid;
ALTER TABLE splits
    ALTER COLUMN index_uid TYPE varchar(64),
    ADD CONSTRAINT splits_index_uid_fkey
        FOREIGN KEY (index_uid) REFERENCES indexes (index_uid) ON DELETE CASCADE;

ALTER TABLE delete_tasks DROP CONSTRAINT IF EXISTS delete_tasks_index_id_fkey;
ALTER TABLE delete_tasks RENAME COLUMN index_id TO index_uid;
ALTER TABLE delete_tasks
    ALTER COLUMN index_uid TYPE varchar(64),
    ADD CONSTRAINT delete_tasks_index_uid_fkey
        FOREIGN KEY (index_uid) REFERENCES indexes (index_uid) ON DELETE CASCADE;
