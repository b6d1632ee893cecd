-- Record up to which delete task a split has been cleaned.

ALTER TABLE splits
    ADD COLUMN delete_opstamp bigint DEFAULT 0 CHECK (delete_opstamp >= 0);
