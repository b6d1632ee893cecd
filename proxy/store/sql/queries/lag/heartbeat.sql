-- The newest heartbeat that this server can see.
SELECT value FROM kv WHERE key = $1
