-- The template that applies to each index ID: the highest priority, then the first ID.
-- NOT LIKE ANY holds when at least one negative pattern does not match, so that several of them
-- exclude an ID only together.
SELECT DISTINCT ON (wanted.index_id)
    wanted.index_id,
    index_templates.template_id,
    index_templates.index_template_json
FROM unnest($1::text[]) AS wanted (index_id)
INNER JOIN index_templates
    ON
        wanted.index_id LIKE ANY (index_templates.positive_index_id_patterns)
        AND (
            cardinality(index_templates.negative_index_id_patterns) = 0
            OR wanted.index_id NOT LIKE ANY (index_templates.negative_index_id_patterns)
        )
ORDER BY wanted.index_id, index_templates.priority DESC, index_templates.template_id
