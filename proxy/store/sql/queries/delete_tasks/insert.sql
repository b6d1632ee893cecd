-- Add a delete task; the database numbers it and stamps it with its own clock.
INSERT INTO delete_tasks (index_uid, delete_query_json)
VALUES ($1, $2)
RETURNING opstamp, floor(extract(epoch FROM create_timestamp))::bigint AS create_timestamp
