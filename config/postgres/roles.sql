-- The database of the metastore, its roles and their grants. None of the roles is a superuser.
--
--   quickwit_owner  owns the tables; for `metastore-proxy migrate` alone
--   quickwit_rw     metastore nodes: reads and writes rows, changes no table
--   quickwit_ro     replica nodes: reads rows
--
-- Run it by psql 15 or newer on the primary, as a superuser or as the administrator of a managed
-- service (who may create roles and databases). Repeating it changes nothing but the passwords.
--
--   OWNER_PASSWORD=... READ_WRITE_PASSWORD=... READ_ONLY_PASSWORD=... psql -h primary -d postgres -f roles.sql
--
-- A role whose variable is not set keeps its password; a new one has none, and cannot log in by one.
-- METASTORE_DATABASE names the database, METASTORE_OWNER its owner where Quickwit has made it already.

\set ON_ERROR_STOP on
\set database quickwit
\set owner quickwit_owner
\getenv database METASTORE_DATABASE
\getenv owner METASTORE_OWNER
\getenv owner_password OWNER_PASSWORD
\getenv read_write_password READ_WRITE_PASSWORD
\getenv read_only_password READ_ONLY_PASSWORD

SELECT format(
    'CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name
)
FROM unnest(ARRAY[:'owner', 'quickwit_rw', 'quickwit_ro']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

\if :{?owner_password}
ALTER ROLE :"owner" PASSWORD :'owner_password';
\endif
\if :{?read_write_password}
ALTER ROLE quickwit_rw PASSWORD :'read_write_password';
\endif
\if :{?read_only_password}
ALTER ROLE quickwit_ro PASSWORD :'read_only_password';
\endif

-- An administrator who is no superuser must be a member of a role to make a database for it.
SELECT format('GRANT %I TO CURRENT_USER', :'owner')
WHERE NOT pg_has_role(:'owner', 'USAGE')
\gexec

-- With the C locale the order of IDs, and so the indexes that replicas read, does not depend on the
-- C library of the machine.
SELECT format(
    'CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C''',
    :'database', :'owner'
)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

\connect :"database"
SET ROLE :"owner";

REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO quickwit_rw, quickwit_ro;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO quickwit_rw, quickwit_ro;

-- What there is, and what later migrations make.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO quickwit_rw;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO quickwit_rw;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO quickwit_ro;
ALTER DEFAULT PRIVILEGES IN SCHEMA public
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO quickwit_rw;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO quickwit_rw;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO quickwit_ro;
