-- Add to metrics splits what their compaction plans with, and stamp them when they are published.

ALTER TABLE metrics_splits
    ADD COLUMN IF NOT EXISTS window_start bigint,
    ADD COLUMN IF NOT EXISTS window_duration_secs integer,
    ADD COLUMN IF NOT EXISTS sort_fields text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS num_merge_ops integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS row_keys bytea,
    ADD COLUMN IF NOT EXISTS zonemap_regexes jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS maturity_timestamp timestamp DEFAULT to_timestamp(0),
    ADD COLUMN IF NOT EXISTS delete_opstamp bigint DEFAULT 0 CHECK (delete_opstamp >= 0),
    ADD COLUMN IF NOT EXISTS node_id varchar(253);

CREATE OR REPLACE FUNCTION set_publish_timestamp_for_metrics_split() RETURNS trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.split_state = 'Staged' AND NEW.split_state = 'Published' THEN
        NEW.publish_timestamp := CURRENT_TIMESTAMP AT TIME ZONE 'UTC';
    END IF;
    RETURN NEW;
END
$body$;

DROP TRIGGER IF EXISTS set_publish_timestamp_on_metrics_split_publish ON metrics_splits CASCADE;

CREATE TRIGGER set_publish_timestamp_on_metrics_split_publish
BEFORE UPDATE ON metrics_splits
FOR EACH ROW EXECUTE FUNCTION set_publish_timestamp_for_metrics_split();

CREATE INDEX IF NOT EXISTS idx_metrics_splits_compaction_scope
    ON metrics_splits (index_uid, sort_fields, window_start)
    WHERE split_state = 'Published';
