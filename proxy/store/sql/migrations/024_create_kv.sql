-- Create a table for single values of the cluster, such as its identity.

CREATE TABLE IF NOT EXISTS kv (
    key   varchar(50) PRIMARY KEY,
    value text        NOT NULL
);
