-- Create the table of delete tasks, numbered by their opstamp.

CREATE TABLE IF NOT EXISTS delete_tasks (
    create_timestamp  timestamp   NOT NULL DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    opstamp           bigserial   PRIMARY KEY,
    index_id          varchar(50) NOT NULL REFERENCES indexes (index_id) ON DELETE CASCADE,
    delete_query_json text        NOT NULL
);
