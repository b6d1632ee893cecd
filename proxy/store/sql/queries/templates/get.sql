-- One index template, as it was sent.
SELECT index_template_json FROM index_templates WHERE template_id = $1
