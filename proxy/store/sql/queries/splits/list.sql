-- What a Split is rendered from: its text up to the document, and what is spliced into that;
-- times in floored Unix seconds. A state that nobody knows comes after a `?`. Filters are appended.
SELECT
    COALESCE(
        CASE split_state
            WHEN 'Published' THEN '{"split_state":"Published","update_timestamp":'
            WHEN 'Staged' THEN '{"split_state":"Staged","update_timestamp":'
            WHEN 'MarkedForDeletion' THEN '{"split_state":"MarkedForDeletion","update_timestamp":'
            -- Names of older versions.
            WHEN 'New' THEN '{"split_state":"Staged","update_timestamp":'
            WHEN 'ScheduledForDeletion'
                THEN '{"split_state":"MarkedForDeletion","update_timestamp":'
        END
        || floor(date_part('epoch', update_timestamp))::bigint
        || ',"publish_timestamp":'
        || COALESCE(floor(date_part('epoch', publish_timestamp))::bigint::text, 'null'),
        '?' || split_state
    ) AS head,
    floor(date_part('epoch', create_timestamp))::bigint::text AS create_timestamp,
    index_uid,
    COALESCE(delete_opstamp, 0)::text AS delete_opstamp,
    split_metadata_json
FROM splits
