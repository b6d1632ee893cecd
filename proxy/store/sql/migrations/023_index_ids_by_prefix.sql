-- Keep index IDs unique with an index that also serves prefix patterns.

ALTER TABLE indexes DROP CONSTRAINT IF EXISTS indexes_index_id_unique;

CREATE UNIQUE INDEX IF NOT EXISTS indexes_index_id_unique
    ON indexes (index_id varchar_pattern_ops);
