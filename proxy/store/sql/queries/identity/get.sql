-- The cluster's identity; the proposed one is kept when there is none yet.
-- The update changes nothing: it makes RETURNING show the stored value on conflict as well.
INSERT INTO kv (key, value)
VALUES ('cluster_identity', $1)
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING value
