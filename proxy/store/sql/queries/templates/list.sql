-- All index templates, by ID.
SELECT index_template_json FROM index_templates ORDER BY template_id
