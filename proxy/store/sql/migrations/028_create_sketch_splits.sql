-- Create the table of sketch splits (Parquet files with DDSketch data), built like metrics splits.

CREATE TABLE IF NOT EXISTS sketch_splits (
    split_id                  varchar(50)  PRIMARY KEY,
    split_state               varchar(30)  NOT NULL,
    index_uid                 varchar(282) NOT NULL
        REFERENCES indexes (index_uid) ON DELETE CASCADE,
    time_range_start          bigint       NOT NULL,
    time_range_end            bigint       NOT NULL,
    metric_names              text[]       NOT NULL,
    -- NULL: no row of the split has the tag.
    tag_service               text[],
    tag_env                   text[],
    tag_datacenter            text[],
    tag_region                text[],
    tag_host                  text[],
    high_cardinality_tag_keys text[]       NOT NULL DEFAULT '{}',
    num_rows                  bigint       NOT NULL,
    size_bytes                bigint       NOT NULL,
    window_start              bigint,
    window_duration_secs      integer,
    sort_fields               text         NOT NULL DEFAULT '',
    num_merge_ops             integer      NOT NULL DEFAULT 0,
    row_keys                  bytea,
    zonemap_regexes           jsonb        NOT NULL DEFAULT '{}',
    maturity_timestamp        timestamp    DEFAULT to_timestamp(0),
    delete_opstamp            bigint       DEFAULT 0 CHECK (delete_opstamp >= 0),
    node_id                   varchar(253),
    split_metadata_json       text         NOT NULL,
    create_timestamp          timestamp    NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    update_timestamp          timestamp    NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    publish_timestamp         timestamp
);

CREATE OR REPLACE FUNCTION set_publish_timestamp_for_sketch_split() RETURNS trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.split_state = 'Staged' AND NEW.split_state = 'Published' THEN
        NEW.publish_timestamp := CURRENT_TIMESTAMP AT TIME ZONE 'UTC';
    END IF;
    RETURN NEW;
END
$body$;

CREATE TRIGGER set_publish_timestamp_on_sketch_split_publish
BEFORE UPDATE ON sketch_splits
FOR EACH ROW EXECUTE FUNCTION set_publish_timestamp_for_sketch_split();

CREATE INDEX idx_sketch_splits_time ON sketch_splits (time_range_start, time_range_end);
CREATE INDEX idx_sketch_splits_metric_names ON sketch_splits USING gin (metric_names);
CREATE INDEX idx_sketch_splits_tag_service ON sketch_splits USING gin (tag_service);
CREATE INDEX idx_sketch_splits_tag_env ON sketch_splits USING gin (tag_env);
CREATE INDEX idx_sketch_splits_tag_datacenter ON sketch_splits USING gin (tag_datacenter);
CREATE INDEX idx_sketch_splits_tag_region ON sketch_splits USING gin (tag_region);
CREATE INDEX idx_sketch_splits_tag_host ON sketch_splits USING gin (tag_host);
CREATE INDEX IF NOT EXISTS idx_sketch_splits_compaction_scope
    ON sketch_splits (index_uid, sort_fields, window_start)
    WHERE split_state = 'Published';
