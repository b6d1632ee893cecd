-- Create the table of index templates.

CREATE TABLE IF NOT EXISTS index_templates (
    template_id                varchar(255)   PRIMARY KEY,
    positive_index_id_patterns varchar(255)[] NOT NULL,
    negative_index_id_patterns varchar(255)[] NOT NULL,
    priority                   integer        NOT NULL DEFAULT 0,
    index_template_json        text           NOT NULL
);
