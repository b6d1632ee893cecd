-- What streaming replicas of a primary of your own need; managed services do this themselves.
--
--   REPLICATION_PASSWORD=... psql -h primary -d postgres -f replication.sql
--
-- Run it by psql 15 or newer on the primary as a superuser, once for each replica with a
-- REPLICATION_SLOT of its own (replica_1 by default). Repeating it changes nothing but the password,
-- and replaces a slot that was given up.

\set ON_ERROR_STOP on
\set slot replica_1
\getenv slot REPLICATION_SLOT
\getenv password REPLICATION_PASSWORD

-- Not a superuser, and no right in any database: it receives the WAL, which holds everything.
SELECT 'CREATE ROLE quickwit_replication LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'quickwit_replication')
\gexec
\if :{?password}
ALTER ROLE quickwit_replication PASSWORD :'password';
\endif

-- A slot whose replica was given up (max_slot_wal_keep_size) is of no use any more, and from
-- PostgreSQL 18 on no clone can be made with it: it makes room for a new one.
SELECT pg_drop_replication_slot(slot_name) AS dropped
FROM pg_replication_slots WHERE slot_name = :'slot' AND wal_status = 'lost' AND NOT active;

-- Keeps the WAL that the replica has not received yet, from its first connection on.
SELECT pg_create_physical_replication_slot(:'slot') AS slot
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = :'slot');
