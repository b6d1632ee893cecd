-- Find the splits still to be merged, soonest mature first, without blocking writers meanwhile.

-- One statement, because a concurrent build cannot run inside a transaction.
CREATE INDEX CONCURRENTLY IF NOT EXISTS splits_maturity_timestamp_idx
    ON splits (maturity_timestamp, split_id);
