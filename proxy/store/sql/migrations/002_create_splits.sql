-- Create the table of splits; a change of a split touches its index.

CREATE TABLE IF NOT EXISTS splits (
    split_id            varchar(50) PRIMARY KEY,
    split_state         varchar(30) NOT NULL,
    time_range_start    bigint,
    time_range_end      bigint,
    tags                text[]      NOT NULL,
    split_metadata_json text        NOT NULL,
    index_id            varchar(50) NOT NULL REFERENCES indexes (index_id),
    create_timestamp    timestamp   NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    update_timestamp    timestamp   NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')
);

DROP TRIGGER IF EXISTS quickwit_set_index_update_timestamp_on_split_change ON splits CASCADE;

CREATE TRIGGER quickwit_set_index_update_timestamp_on_split_change
AFTER INSERT OR UPDATE OR DELETE ON splits
FOR EACH ROW EXECUTE FUNCTION set_index_update_timestamp_for_split();

SELECT quickwit_manage_update_timestamp('splits');
