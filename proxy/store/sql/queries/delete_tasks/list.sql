-- The delete tasks of an index after an opstamp, oldest first.
SELECT
    opstamp,
    floor(extract(epoch FROM create_timestamp))::bigint AS create_timestamp,
    index_uid,
    delete_query_json
FROM delete_tasks
WHERE index_uid = $1 AND opstamp > $2
ORDER BY opstamp
