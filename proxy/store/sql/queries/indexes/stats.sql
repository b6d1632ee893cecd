-- Count splits and add up their sizes by index and state, for indexes that match the patterns.
SELECT
    i.index_uid,
    s.split_state,
    count(s.split_state) AS num_splits,
    coalesce(sum(s.split_size_bytes)::bigint, 0) AS total_size_bytes
FROM indexes AS i
LEFT JOIN splits AS s ON s.index_uid = i.index_uid
WHERE :wanted
GROUP BY i.index_uid, s.split_state
