-- Make room for index IDs of 255 characters, and for the UIDs that contain them.

ALTER TABLE indexes
    ALTER COLUMN index_uid TYPE varchar(282),
    ALTER COLUMN index_id TYPE varchar(255);
ALTER TABLE splits ALTER COLUMN index_uid TYPE varchar(282);
ALTER TABLE delete_tasks ALTER COLUMN index_uid TYPE varchar(282);
