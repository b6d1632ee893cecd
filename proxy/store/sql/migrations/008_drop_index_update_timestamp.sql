-- Stop recording when an index was last changed.

DROP TRIGGER IF EXISTS set_update_timestamp ON indexes;
ALTER TABLE indexes DROP COLUMN IF EXISTS update_timestamp;
