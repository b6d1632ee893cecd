-- Lift the limits a role or database may set: a migration, or the wait for one, may be long.
SELECT set_config(name, '0', $1)
FROM pg_settings
WHERE name IN (
    'idle_in_transaction_session_timeout',
    'idle_session_timeout',
    'lock_timeout',
    'statement_timeout',
    'transaction_timeout'
)
