-- Move shards to the positions that a publish reached; the end of a shard closes it.
UPDATE shards SET
    publish_position_inclusive = reached.position,
    shard_state = CASE
        WHEN starts_with(reached.position, '~') THEN 'closed'::shard_state
        ELSE shards.shard_state
    END,
    update_timestamp = $5::timestamp
FROM unnest($3::text[], $4::text[]) AS reached (shard_id, position)
WHERE
    shards.index_uid = $1
    AND shards.source_id = $2
    AND shards.shard_id = reached.shard_id
