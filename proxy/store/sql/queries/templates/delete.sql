-- Delete index templates; unknown IDs do not matter.
DELETE FROM index_templates WHERE template_id = ANY ($1)
