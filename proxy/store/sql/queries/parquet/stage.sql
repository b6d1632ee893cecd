-- Stage splits: insert them or overwrite those still staged; return the IDs that were written.
-- A split in another state is left alone. An overwritten split keeps its index and creation time.
INSERT INTO parquet_splits (
    split_id, split_state, index_uid, time_range_start, time_range_end, metric_names,
    tag_service, tag_env, tag_datacenter, tag_region, tag_host, high_cardinality_tag_keys,
    num_rows, size_bytes, split_metadata_json, window_start, window_duration_secs, sort_fields,
    num_merge_ops, row_keys, zonemap_regexes, maturity_timestamp, create_timestamp,
    update_timestamp
)
SELECT
    split_id, 'Staged', index_uid, time_range_start, time_range_end, metric_names,
    tag_service, tag_env, tag_datacenter, tag_region, tag_host, high_cardinality_tag_keys,
    num_rows, size_bytes, split_metadata_json, window_start, window_duration_secs, sort_fields,
    num_merge_ops, row_keys, zonemap_regexes, to_timestamp(maturity_timestamp),
    current_timestamp AT TIME ZONE 'UTC', current_timestamp AT TIME ZONE 'UTC'
FROM json_to_recordset($1::text::json) AS staged (
    split_id text, index_uid text, time_range_start bigint, time_range_end bigint,
    metric_names text[], tag_service text[], tag_env text[], tag_datacenter text[],
    tag_region text[], tag_host text[], high_cardinality_tag_keys text[], num_rows bigint,
    size_bytes bigint, split_metadata_json text, window_start bigint, window_duration_secs integer,
    sort_fields text, num_merge_ops integer, row_keys bytea, zonemap_regexes jsonb,
    maturity_timestamp bigint
)
ORDER BY split_id
ON CONFLICT (split_id) DO UPDATE SET
    split_state = excluded.split_state,
    time_range_start = excluded.time_range_start,
    time_range_end = excluded.time_range_end,
    metric_names = excluded.metric_names,
    tag_service = excluded.tag_service,
    tag_env = excluded.tag_env,
    tag_datacenter = excluded.tag_datacenter,
    tag_region = excluded.tag_region,
    tag_host = excluded.tag_host,
    high_cardinality_tag_keys = excluded.high_cardinality_tag_keys,
    num_rows = excluded.num_rows,
    size_bytes = excluded.size_bytes,
    split_metadata_json = excluded.split_metadata_json,
    window_start = excluded.window_start,
    window_duration_secs = excluded.window_duration_secs,
    sort_fields = excluded.sort_fields,
    num_merge_ops = excluded.num_merge_ops,
    row_keys = excluded.row_keys,
    zonemap_regexes = excluded.zonemap_regexes,
    maturity_timestamp = excluded.maturity_timestamp,
    update_timestamp = excluded.update_timestamp
WHERE parquet_splits.split_state = 'Staged'
RETURNING split_id
