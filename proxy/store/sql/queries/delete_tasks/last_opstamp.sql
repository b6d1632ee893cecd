-- The highest opstamp of an index's delete tasks, 0 when it has none.
SELECT coalesce(max(opstamp), 0)
FROM delete_tasks
WHERE index_uid = $1
