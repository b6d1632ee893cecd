-- Create the table of indexes and the functions that keep its time of last change.

-- Databases of Quickwit before 0.4 kept their history in a table of the Diesel library. Such a
-- database can be taken over only from the last of those versions; an older one is refused.
DO $takeover$
DECLARE
    is_latest boolean;
BEGIN
    IF to_regclass('__diesel_schema_migrations') IS NULL THEN
        RETURN;
    END IF;
    SELECT EXISTS (SELECT 1 FROM __diesel_schema_migrations WHERE version = '20211217102648')
    INTO is_latest;
    IF NOT is_latest THEN
        RAISE EXCEPTION 'the database was last used by a version before Quickwit 0.3.1'
            USING HINT = 'start Quickwit 0.3.1 on it once, then migrate again';
    END IF;
    DROP TABLE __diesel_schema_migrations;
END
$takeover$;

CREATE TABLE IF NOT EXISTS indexes (
    index_id            varchar(50) PRIMARY KEY,
    index_metadata_json text        NOT NULL,
    create_timestamp    timestamp   NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    update_timestamp    timestamp   NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')
);

-- An update that does not itself set `update_timestamp` sets it to the time of the transaction.
CREATE OR REPLACE FUNCTION quickwit_set_update_timestamp() RETURNS trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF NEW.update_timestamp IS NOT DISTINCT FROM OLD.update_timestamp
        AND NEW IS DISTINCT FROM OLD
    THEN
        NEW.update_timestamp := CURRENT_TIMESTAMP AT TIME ZONE 'UTC';
    END IF;
    RETURN NEW;
END
$body$;

-- The parameter keeps its name: PostgreSQL refuses to replace a function under another one.
CREATE OR REPLACE FUNCTION quickwit_manage_update_timestamp(_tbl regclass) RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS set_update_timestamp ON %s CASCADE', _tbl);
    EXECUTE format(
        'CREATE TRIGGER set_update_timestamp BEFORE UPDATE ON %s '
        'FOR EACH ROW EXECUTE FUNCTION quickwit_set_update_timestamp()',
        _tbl
    );
END
$body$;

-- For a trigger on `splits`: a change of a split counts as a change of its index.
CREATE OR REPLACE FUNCTION set_index_update_timestamp_for_split() RETURNS trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        UPDATE indexes
        SET update_timestamp = NEW.update_timestamp
        WHERE indexes.index_id = NEW.index_id;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE indexes
        SET update_timestamp = CURRENT_TIMESTAMP AT TIME ZONE 'UTC'
        WHERE indexes.index_id = OLD.index_id;
    END IF;
    RETURN NULL;
END
$body$;

SELECT quickwit_manage_update_timestamp('indexes');
