-- Create the table of metrics splits (Parquet files), searchable by time, metric and common tags.

CREATE TABLE IF NOT EXISTS metrics_splits (
    split_id                  varchar(50)  PRIMARY KEY,
    split_state               varchar(30)  NOT NULL,
    -- No cascade here, unlike everywhere else: an index that has metrics splits cannot be deleted.
    index_uid                 varchar(282) NOT NULL REFERENCES indexes (index_uid),
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
    split_metadata_json       text         NOT NULL,
    create_timestamp          timestamp    NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    update_timestamp          timestamp    NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    publish_timestamp         timestamp
);

CREATE INDEX idx_metrics_splits_time ON metrics_splits (time_range_start, time_range_end);
CREATE INDEX idx_metrics_splits_metric_names ON metrics_splits USING gin (metric_names);
CREATE INDEX idx_metrics_splits_tag_service ON metrics_splits USING gin (tag_service);
CREATE INDEX idx_metrics_splits_tag_env ON metrics_splits USING gin (tag_env);
CREATE INDEX idx_metrics_splits_tag_datacenter ON metrics_splits USING gin (tag_datacenter);
CREATE INDEX idx_metrics_splits_tag_region ON metrics_splits USING gin (tag_region);
CREATE INDEX idx_metrics_splits_tag_host ON metrics_splits USING gin (tag_host);
