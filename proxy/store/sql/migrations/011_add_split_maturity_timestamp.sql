-- Record when a split stops being a candidate for merges; the epoch means that it already has.

-- The default is a time with zone: as for every statement here, the session must run in UTC.
ALTER TABLE splits ADD COLUMN maturity_timestamp timestamp DEFAULT to_timestamp(0);
