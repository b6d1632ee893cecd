-- Add an index template or replace the whole of an existing one.
INSERT INTO index_templates (
    template_id, positive_index_id_patterns, negative_index_id_patterns, priority,
    index_template_json
)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (template_id) DO UPDATE SET
    positive_index_id_patterns = excluded.positive_index_id_patterns,
    negative_index_id_patterns = excluded.negative_index_id_patterns,
    priority = excluded.priority,
    index_template_json = excluded.index_template_json
RETURNING template_id
