-- Record when a split goes from Staged to Published.

ALTER TABLE splits ADD COLUMN publish_timestamp timestamp;

CREATE OR REPLACE FUNCTION set_split_publish_timestamp_for_split() RETURNS trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.split_state = 'Staged' AND NEW.split_state = 'Published' THEN
        NEW.publish_timestamp := CURRENT_TIMESTAMP AT TIME ZONE 'UTC';
    END IF;
    RETURN NEW;
END
$body$;

DROP TRIGGER IF EXISTS set_split_publish_timestamp_on_split_publish ON splits CASCADE;

CREATE TRIGGER set_split_publish_timestamp_on_split_publish
BEFORE UPDATE ON splits
FOR EACH ROW EXECUTE FUNCTION set_split_publish_timestamp_for_split();
