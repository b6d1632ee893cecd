-- Create the table of shards and the type of their state.

CREATE TYPE shard_state AS ENUM ('unspecified', 'open', 'unavailable', 'closed');

CREATE TABLE IF NOT EXISTS shards (
    index_uid                  varchar(282) NOT NULL REFERENCES indexes (index_uid),
    source_id                  varchar(255) NOT NULL,
    shard_id                   bigserial,
    leader_id                  varchar(255) NOT NULL,
    follower_id                varchar(255),
    shard_state                shard_state  NOT NULL,
    publish_position_inclusive varchar(255) NOT NULL,
    publish_token              varchar(255),
    PRIMARY KEY (index_uid, source_id, shard_id)
);
