-- Make the OpenTelemetry indexes of version 0.6 read and write trace and span IDs in hexadecimal.

UPDATE indexes
SET index_metadata_json = replace(
    replace(index_metadata_json, '"input_format":"base64"', '"input_format":"hex"'),
    '"output_format":"base64"',
    '"output_format":"hex"'
)
WHERE index_id IN ('otel-traces-v0_6', 'otel-logs-v0_6');
